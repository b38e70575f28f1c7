"""AVIF and HEIC: read like the others, and bounded by what is really coded in them."""

from importlib.util import find_spec

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service import errors
from service.inference import formats
from service.inference.image import decode, open_image
from service.inference.isobmff import coded_sizes
from service.inference.limits import DecodeLimits
from tests.support import traps

KINDS = [
    "AVIF",
    pytest.param(
        "HEIC",
        marks=pytest.mark.skipif(
            find_spec("pillow_heif") is None, reason="needs the extra heif: pillow-heif"
        ),
    ),
]
HEIC_HEAD = b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHBMiHEMiPrmiafheictmap"


def seen(data: bytes) -> NDArray[np.int16]:
    """The square, however long it takes."""
    return decode(data, DecodeLimits(decode_timeout=600.0)).astype(np.int16)


def smooth(width: int = 320, height: int = 280) -> Image.Image:
    """Colours that any codec keeps, no two corners alike."""
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    channels = np.broadcast_arrays(x, y, (x + y) / 2)
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_seen_as_the_same_image_in_png(kind: str) -> None:
    square = seen(traps.in_container(smooth(), kind, quality=90))

    assert np.abs(square - seen(traps.encoded(smooth(), "PNG"))).max() <= 12


@pytest.mark.parametrize("kind", KINDS)
def test_transparency_lies_over_white(kind: str) -> None:
    clear = Image.new("RGBA", (256, 256), (200, 0, 0, 255))
    clear.paste((0, 0, 0, 0), (128, 0, 256, 256))

    square = seen(traps.in_container(clear, kind, quality=100))

    assert np.abs(square[:, 140:] - 255).max() <= 3
    assert np.abs(square[:, :116] - (200, 0, 0)).max() <= 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_seen_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = traps.encoded(smooth(), "JPEG", exif=exif, quality=95)

    # The encoders write the turn into the container, and leave EXIF its own.
    square = seen(traps.in_container(smooth(), kind, quality=90, exif=exif.tobytes()))

    assert np.abs(square - seen(jpeg)).max() <= 16


def test_of_an_animation_the_still_image_is_seen() -> None:
    options = {"save_all": True, "append_images": [Image.new("RGB", (320, 280))]}

    square = seen(traps.in_container(smooth(), "AVIF", quality=90, **options))

    assert np.abs(square - seen(traps.encoded(smooth(), "PNG"))).max() <= 12


@pytest.mark.parametrize("kind", KINDS)
def test_its_pixels_are_judged_before_they_are_decoded(kind: str) -> None:
    file = traps.in_container(smooth(640, 480), kind)

    with pytest.raises(errors.ImageTooLarge, match="640 x 480"):
        open_image(file, DecodeLimits(max_pixels=640 * 480 - 1))
    assert open_image(file, DecodeLimits(max_pixels=640 * 480)).pixels == 640 * 480


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_would_take_is_judged_before_it_is_decoded(kind: str) -> None:
    file = traps.in_container(smooth(640, 480), kind)

    with pytest.raises(errors.ImageTooCostly, match=f"640 x 480.*{kind} file"):
        open_image(file, DecodeLimits(decode_timeout=0.005))
    with pytest.raises(errors.ImageTooCostly, match=f"{kind} file"):  # by its bytes
        open_image(file + bytes(9_000_000), DecodeLimits(decode_timeout=0.9))


def test_a_coded_image_larger_than_its_container_says_is_judged_by_itself() -> None:
    honest = traps.in_container(smooth(), "AVIF")
    lying = traps.with_larger_av1(honest, 16000, 16000)

    assert coded_sizes(honest) == [(320, 280)]
    assert coded_sizes(lying) == [(16000, 16000)]
    with pytest.raises(errors.ImageTooLarge, match=r"159\d\d x 159\d\d"):
        open_image(lying, DecodeLimits())


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_and_transparency_count_together(kind: str) -> None:
    clear = Image.new("RGBA", (320, 280), (200, 0, 0, 90))

    sizes = coded_sizes(traps.in_container(clear, kind))

    assert len(sizes) == 2
    assert all(width < 336 and height < 296 for width, height in sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_it_is_cut_it_is_unreadable(kind: str) -> None:
    whole = traps.in_container(smooth(64, 64), kind)

    for length in range(len(whole) - 1, 16, -5):
        with pytest.raises(errors.ImageError):
            seen(whole[:length])


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_boxes_are_unreadable(kind: str) -> None:
    whole = traps.in_container(smooth(64, 64), kind)

    for box in (b"meta", b"iloc", b"iinf", b"pitm", b"iprp", b"ipco", b"ipma"):
        with pytest.raises(errors.ImageUnreadable, match=kind):
            seen(whole.replace(box, b"free", 1))
        place = whole.index(box)
        for size in (b"\0\0\0\1", b"\0\0\0\x08", b"\xff\xff\xff\xff"):
            with pytest.raises(errors.ImageUnreadable):
                seen(whole[: place - 4] + size + whole[place:])


def test_heic_is_named_and_so_is_what_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    heic = next(row for row in formats.FORMATS if row.name == "HEIC")
    monkeypatch.setitem(heic.__dict__, "readable", False)

    with pytest.raises(
        errors.ImageTypeUnsupported,
        match=r"HEIC is read with the extra heif.*JPEG.*pip install 'alexnet-service\[heif\]'",
    ) as refusal:
        seen(HEIC_HEAD)

    assert "AVIF, HEIC" not in str(refusal.value)


def test_a_container_of_another_kind_is_neither() -> None:
    for brand in (b"isom", b"mp42", b"qt  ", b"crx "):
        with pytest.raises(errors.ImageTypeUnsupported, match="Send one of"):
            seen(b"\0\0\0\x18ftyp" + brand + bytes(30))


@pytest.mark.parametrize("kind", KINDS)
def test_a_general_container_is_what_its_other_brands_say(kind: str) -> None:
    whole = traps.in_container(smooth(), kind)
    general = whole[:8] + b"mif1" + whole[12:]
    brand = whole[8:12]
    if brand not in general[16:40]:
        general = general[:16] + brand + general[20:]

    np.testing.assert_array_equal(seen(general), seen(whole))
