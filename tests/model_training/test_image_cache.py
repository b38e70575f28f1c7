"""What is learned from is what the service sees; it is decoded once."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_export.crops import Pixels
from model_export.images import read_image
from model_training import image_cache
from model_training.errors import RunUnusable, Stopped
from model_training.image_cache import decode
from service.inference import image as service_image
from service.inference.limits import DecodeLimits
from tests.support import profiles
from tests.support.images import image

IMAGES = Path(__file__).parents[1] / "pictures"


PROFILES = {
    "Display P3": profiles.rgb(profiles.DISPLAY_P3, profiles.srgb_curve()),
    "sRGB": profiles.rgb(profiles.SRGB, profiles.srgb_curve()),
    "grey": profiles.grey(1.0),
    "printer": profiles.cmyk(),
    "broken": b"no profile",
    "another's": profiles.grey(1.8),
}


def _encoded(kind: str) -> bytes:
    """An image of 331 x 288 in one of the ways that images come in."""
    with Image.open(IMAGES / "cat.jpg") as opened:
        cat = opened.convert("RGB").resize((331, 288))
    file = io.BytesIO()
    if kind in PROFILES:
        mode, container = ("CMYK", "JPEG") if kind == "printer" else ("RGB", "PNG")
        mode = "L" if kind == "grey" else mode
        cat.convert(mode).save(file, container, icc_profile=PROFILES[kind])
    elif kind == "GIF of a part":
        cat.save(file, "GIF")
        return file.getvalue().replace(b"\x4b\x01\x20\x01", b"\x90\x01\x40\x01", 1)  # its canvas
    elif kind == "XMP":
        cat.save(file, "JPEG", xmp=b'<x tiff:Orientation="6"/>')
    elif kind == "transparent":
        cat.putalpha(Image.linear_gradient("L").resize(cat.size))
        cat.save(file, "PNG")
    elif kind == "16 bit":
        deep = np.asarray(cat.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(file, "PNG")
    elif kind.isdecimal():
        exif = Image.Exif()
        exif[0x0112] = int(kind)
        cat.save(file, "JPEG", exif=exif)
    elif kind == "tall":
        cat.transpose(Image.Transpose.ROTATE_90).save(file, "JPEG")
    elif kind in ("L", "P", "1", "CMYK"):
        cat.convert(kind).save(file, "JPEG" if kind == "CMYK" else "PNG")
    else:
        cat.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        *("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "L", "P", "1", "CMYK", "tall"),
        *("transparent", "16 bit", "GIF of a part", "XMP", *PROFILES),
    ],
)
def test_an_image_is_prepared_as_the_service_does(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "picture"
    file.write_bytes(_encoded(kind))

    expected = service_image.decode(
        file.read_bytes(), DecodeLimits(max_pixels=10**8, max_aspect_ratio=100)
    )

    assert np.array_equal(read_image(file), expected)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_is_brought_upright_as_the_service_does(
    tmp_path: Path, orientation: int
) -> None:
    """Within a grey level: the service scales first and turns then."""
    file = tmp_path / "picture"
    file.write_bytes(_encoded(str(orientation)))

    expected = service_image.decode(
        file.read_bytes(), DecodeLimits(max_pixels=10**8, max_aspect_ratio=100)
    )

    assert np.abs(read_image(file).astype(int) - expected).max() <= 1


def test_what_cannot_be_decoded_is_left_out_and_said(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("good.jpg", "cut.jpg", "text.png", "empty.gif")]
    paths[0].write_bytes(image())
    paths[1].write_bytes(image()[:1500])
    paths[2].write_text("not an image")
    paths[3].touch()

    result = decode(paths, tmp_path / "cache", workers=2)

    assert result.readable.tolist() == [True, False, False, False]
    assert set(result.unreadable) == set(paths[1:])
    assert all(result.unreadable.values())
    assert np.array_equal(result.images[0], read_image(paths[0]))
    assert not result.images[1:].any()


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = _gradients(tmp_path, 3)
    (tmp_path / "text.png").write_text("not an image")
    paths.append(tmp_path / "text.png")
    first = decode(paths, tmp_path / "cache", workers=1)
    monkeypatch.setattr(image_cache, "read_image", lambda path: pytest.fail("decoded again"))

    second = decode(paths, tmp_path / "cache", workers=1)

    assert np.array_equal(first.images, second.images)
    assert first.unreadable == second.unreadable


def test_an_image_that_has_changed_is_decoded_again(tmp_path: Path) -> None:
    paths = _gradients(tmp_path, 2)
    decode(paths, tmp_path / "cache", workers=1)
    Image.new("RGB", (300, 300), "red").save(paths[0])
    os.utime(paths[0], ns=(1, 1))

    again = decode(paths, tmp_path / "cache", workers=1)

    assert (again.images[0] == [255, 0, 0]).all()


def test_a_decoding_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, decoded = _gradients(tmp_path, 6), 0

    def stop() -> None:
        nonlocal decoded
        decoded += 1
        if decoded == 2:
            raise Stopped("stopped", 15)

    with pytest.raises(Stopped):
        decode(paths, tmp_path / "cache", workers=1, step=stop)
    left: list[Path] = []

    def seen(path: Path) -> Pixels:
        left.append(path)
        return read_image(path)

    monkeypatch.setattr(image_cache, "read_image", seen)
    result = decode(paths, tmp_path / "cache", workers=1)

    assert len(left) == 4
    assert result.readable.all()
    assert all(np.array_equal(result.images[i], read_image(p)) for i, p in enumerate(paths))


def test_squares_that_were_deleted_are_decoded_again(tmp_path: Path) -> None:
    """Though their states still say that they were decoded."""
    paths, cache = _gradients(tmp_path, 2), tmp_path / "cache"
    decode(paths, cache, workers=1)
    next(cache.glob("*.squares.npy")).unlink()

    again = decode(paths, cache, workers=1)

    assert all(np.array_equal(again.images[i], read_image(p)) for i, p in enumerate(paths))


def test_the_squares_are_on_the_disk_before_they_count_as_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, marked = np.memmap.flush, []

    def flush(array: np.memmap) -> None:
        (states,) = (tmp_path / "cache").glob("*.states.npy")
        marked.append(int((np.load(states) != image_cache.MISSING).sum()))
        really(array)

    monkeypatch.setattr(np.memmap, "flush", flush)
    monkeypatch.setattr(image_cache, "TOGETHER", 2)

    result = decode(_gradients(tmp_path, 5), tmp_path / "cache", workers=1)

    assert marked == [0, 2, 4]
    assert result.readable.all()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system has no such call")
def test_the_room_on_the_disk_is_taken_before_anything_is_decoded(tmp_path: Path) -> None:
    """A disk that fills up later would end the process with SIGBUS."""

    def stop() -> None:
        raise Stopped("stopped", 15)

    with pytest.raises(Stopped):
        decode(_gradients(tmp_path, 9), tmp_path / "cache", workers=1, step=stop)

    result = next((tmp_path / "cache").glob("*.squares.npy")).stat()
    assert result.st_blocks * 512 >= result.st_size > 9 * 256 * 256 * 3


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system has no such call")
@pytest.mark.parametrize(
    ("number", "full"), [(errno.ENOSPC, True), (errno.EOPNOTSUPP, False), (errno.EINVAL, False)]
)
def test_a_full_disk_is_one_sentence_and_a_file_system_that_cannot_tell_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, full: bool
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    paths = _gradients(tmp_path, 1)

    if full:
        with pytest.raises(RunUnusable, match=r"No space left.* choose another place"):
            decode(paths, tmp_path / "cache", workers=1)
    else:
        assert decode(paths, tmp_path / "cache", workers=1).readable.all()


@pytest.mark.parametrize("kind", ["TIFF", "EPS"])
def test_a_format_that_the_service_refuses_is_not_learned_under_another_name(
    tmp_path: Path, kind: str
) -> None:
    """EPS would even be given to Ghostscript."""
    (tmp_path / "1.jpg").write_bytes(_encoded(kind))

    with pytest.raises(ValueError, match="cannot identify image file"):
        read_image(tmp_path / "1.jpg")


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RunUnusable, match="choose another place with --cache"):
        decode(_gradients(tmp_path, 1), tmp_path / "file", workers=1)


def _gradients(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.linear_gradient("L").rotate(30 * number).resize((280, 300)).save(path)
    return paths
