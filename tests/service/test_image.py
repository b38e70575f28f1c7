"""
What the network sees of an uploaded image: its pixels, its colours, or a clear refusal.

The reference here shares nothing with Pillow: it resamples with a triangle filter written in
numpy, in the 8-bit fixed point that torchvision's preset inherits.  Our preparation may differ
from it by one grey level, where it rounds in another order.
"""

import math
import struct
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, JpegImagePlugin

from benchmarks.decoding import plain
from service import errors
from service.inference.image import decode
from service.inference.limits import DecodeLimits

Pixels = NDArray[np.uint8]
PRECISION_BITS = 32 - 8 - 2
IMAGES = Path(__file__).parents[1] / "pictures"
EVALUATION = Path(__file__).parents[3] / "shared" / "data" / "evaluation"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def seen(
    data: bytes,
    max_pixels: int = 50_000_000,
    max_aspect_ratio: float = 32.0,
    scaled_decoding: bool = False,
) -> Pixels:
    """Decode with the service's default limits, however long it takes."""
    return decode(
        data,
        DecodeLimits(
            max_pixels=max_pixels,
            max_aspect_ratio=max_aspect_ratio,
            scaled_decoding=scaled_decoding,
            decode_timeout=600.0,
        ),
    )


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as a file's bytes."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int) -> Pixels:
    """Random pixels: whatever is off by one shows."""
    return np.random.default_rng(width * 10_000 + height).integers(
        0, 256, (height, width, 3), np.uint8
    )


def resampled(rows: Pixels, length: int) -> Pixels:
    """The first axis at a new length: a triangle as wide as the scale, rounded once."""
    scale = rows.shape[0] / length
    reach = max(scale, 1.0)
    out = np.empty((length, *rows.shape[1:]), np.uint8)
    for target in range(length):
        middle = (target + 0.5) * scale
        first = max(0, int(middle - reach + 0.5))
        last = min(rows.shape[0], int(middle + reach + 0.5))
        weights = [
            max(0.0, 1 - abs((source - middle + 0.5) * (1 / reach)))
            for source in range(first, last)
        ]
        total = sum(weights)
        fixed = [int(0.5 + weight / total * (1 << PRECISION_BITS)) for weight in weights]
        sums = np.tensordot(np.array(fixed, np.int64), rows[first:last].astype(np.int64), 1)
        rounded = (sums + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS
        out[target] = np.clip(rounded, 0, 255)
    return out


def reference(pixels: Pixels) -> Pixels:
    """torchvision's preset: the shorter side to 256, across before down, the central square."""
    height, width = pixels.shape[:2]
    long = int(256 * max(width, height) / min(width, height))
    new_width, new_height = (256, long) if width <= height else (long, 256)
    if new_width != width:
        pixels = resampled(pixels.transpose(1, 0, 2), new_width).transpose(1, 0, 2)
    if new_height != height:
        pixels = resampled(pixels, new_height)
    left, top = (int(round((side - 256) / 2.0)) for side in (new_width, new_height))  # noqa: RUF046
    return pixels[top : top + 256, left : left + 256]


def apart(one: Pixels, other: Pixels) -> int:
    """The largest difference, in grey levels."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


def stored(meant: Image.Image, orientation: int) -> Image.Image:
    """How a camera that declares this EXIF orientation lays its sensor's rows."""
    pixels = np.asarray(meant)
    across = (1, 0, *range(2, pixels.ndim))
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(across),
        6: np.rot90(pixels, 1),
        7: pixels[::-1, ::-1].transpose(across),
        8: np.rot90(pixels, -1),
    }[orientation]
    return Image.fromarray(np.ascontiguousarray(turned))


def exif_of(orientation: int) -> Image.Exif:
    """EXIF data that declares the orientation and nothing else."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@cache
def scene(width: int, height: int) -> Image.Image:
    """Gradients and discs, no two corners alike: smooth, as large photographs are."""
    y, x = np.arange(height)[:, None] / height, np.arange(width) / width
    red, green = np.broadcast_arrays(40 + 170 * x, 40 + 170 * y)
    blue = 128 + 60 * np.sin(x * 9) * np.cos(y * 7)
    image = Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for place, colour in ((0.3, (200, 60, 50)), (0.6, (60, 90, 200))):
        radius = 0.15 * min(width, height)
        draw.circle((place * width, 0.4 * height), radius, fill=colour)
    return image.filter(ImageFilter.GaussianBlur(min(width, height) / 200))


def png_of(width: int, height: int) -> bytes:
    """A valid 1-bit PNG of any size, as short as zlib makes it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = zlib.compress(bytes((math.ceil(width / 8) + 1) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (256, 256), (257, 256), (256, 257), (500, 375), (375, 500), (333, 259), (517, 1023),
        (640, 427), (1001, 301), (255, 511), (97, 61), (31, 200), (3, 5), (1, 1), (301, 300),
    ],
)  # fmt: skip
def test_the_pixels_are_those_of_torchvisions_preset_to_one_level(width: int, height: int) -> None:
    pixels = noise(width, height)

    square = seen(encoded(Image.fromarray(pixels), "PNG"))

    assert apart(square, reference(pixels)) <= 1


@pytest.mark.parametrize(
    ("width", "height"), [(256, 256), (257, 256), (259, 256), (256, 511), (900, 256), (512, 512)]
)
def test_what_needs_no_scaling_or_no_crop_is_the_presets_to_the_pixel(
    width: int, height: int
) -> None:
    pixels = noise(width, height)

    square = seen(encoded(Image.fromarray(pixels), "PNG"))

    np.testing.assert_array_equal(square, reference(pixels))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1500), st.integers(1, 1500), st.integers(1, 8))
def test_any_size_and_orientation_is_the_presets_to_one_level(
    width: int, height: int, orientation: int
) -> None:
    width, height = max(width, math.ceil(height / 32)), max(height, math.ceil(width / 32))
    tile = Image.fromarray(noise(67, 59))
    meant = Image.new("RGB", (width, height))
    for x in range(0, width, 67):
        for y in range(0, height, 59):
            meant.paste(tile, (x, y))
    file = encoded(stored(meant, orientation), "PNG", exif=exif_of(orientation), compress_level=1)

    assert apart(seen(file), plain(file)) <= 1


def test_photographs_are_seen_as_plain_pillow_prepares_them_to_one_level() -> None:
    files = sorted(EVALUATION.glob("*.jpg"))[::5]
    if not files:
        pytest.skip(f"there are no photographs in {EVALUATION}")

    worst = max(apart(seen(file.read_bytes()), plain(file.read_bytes())) for file in files)

    assert worst <= 1


def test_the_square_is_contiguous_bytes_in_rows_of_rgb() -> None:
    square = seen(encoded(Image.new("RGB", (300, 200), RED), "PNG"))

    assert square.shape == (256, 256, 3)
    assert square.dtype == np.uint8
    assert square.flags.c_contiguous
    assert (square == RED).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_format_keeps_its_colours(kind: str) -> None:
    half = Image.new("RGB", (320, 320), (200, 30, 30))
    half.paste((30, 30, 200), (160, 0, 320, 320))

    square = seen(encoded(half, kind)).astype(int)

    assert np.abs(square[:, :120] - (200, 30, 30)).max() <= 6
    assert np.abs(square[:, 136:] - (30, 30, 200)).max() <= 6


def test_a_lossless_webp_is_read_without_loss() -> None:
    pixels = noise(300, 260)

    square = seen(encoded(Image.fromarray(pixels), "WEBP", lossless=True))

    assert apart(square, reference(pixels)) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(260, 300), (301, 259), (517, 333), (97, 62)])
def test_a_turned_photograph_is_seen_as_its_camera_meant_it(
    orientation: int, width: int, height: int
) -> None:
    meant = noise(width, height)
    turned = stored(Image.fromarray(meant), orientation)

    square = seen(encoded(turned, "PNG", exif=exif_of(orientation)))

    assert apart(square, reference(meant)) <= 1


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_turned_photograph_of_other_formats_is_seen_upright(kind: str) -> None:
    meant = Image.new("RGB", (320, 320), BLUE)
    meant.paste(RED, (0, 0, 320, 160))

    square = seen(encoded(stored(meant, 6), kind, exif=exif_of(6)))

    assert np.abs(square[:120].astype(int) - RED).max() <= 6
    assert np.abs(square[136:].astype(int) - BLUE).max() <= 6


def test_broken_exif_data_does_not_spoil_an_image() -> None:
    exif = b"Exif\0\0II*\0\xff\xff\xff\xff"

    square = seen(encoded(Image.new("RGB", (256, 256), RED), "PNG", exif=exif))

    assert (square == RED).all()


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 64, 256))
    clear.paste((0, 0, 255, 51), (128, 0, 256, 256))

    square = seen(encoded(clear, "PNG"))

    assert tuple(square[0, 0]) == RED
    assert tuple(square[0, 100]) == WHITE
    assert tuple(square[0, 200]) == (204, 204, 255)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_palette_with_alpha_lies_over_white(transparency: int | bytes) -> None:
    palette = Image.new("P", (256, 256), 0)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    palette.paste(1, (128, 0, 256, 256))

    square = seen(encoded(palette, "PNG", transparency=transparency))

    assert tuple(square[0, 0]) == WHITE
    assert tuple(square[0, 200]) == GREEN


@pytest.mark.parametrize(("mode", "clear"), [("RGB", BLUE), ("L", 29)])
def test_the_one_transparent_colour_of_a_png_lies_over_white(
    mode: str, clear: int | tuple[int, ...]
) -> None:
    image = Image.new("RGB", (256, 256), BLUE)
    image.paste(RED, (128, 0, 256, 256))

    square = seen(encoded(image.convert(mode), "PNG", transparency=clear))

    assert tuple(square[0, 0]) == WHITE
    assert tuple(square[0, 200]) == (RED if mode == "RGB" else (76, 76, 76))


def test_grey_with_alpha_lies_over_white() -> None:
    square = seen(encoded(Image.new("LA", (256, 256), (100, 0)), "PNG"))

    assert (square == 255).all()


def test_sixteen_bit_grey_keeps_its_upper_eight_bits() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    grey = Image.fromarray(np.tile(ramp, (256, 1)))

    square = seen(encoded(grey, "PNG"))

    np.testing.assert_array_equal(square[0], np.stack([ramp >> 8] * 3, -1))


def test_grey_is_the_preset_of_its_rgb_to_one_level() -> None:
    grey = Image.fromarray(noise(431, 300)).convert("L")

    square = seen(encoded(grey, "PNG"))

    assert apart(square, reference(np.asarray(grey.convert("RGB")))) <= 1


@pytest.mark.parametrize(("mode", "colour", "grey"), [("L", 90, 90), ("1", 1, 255)])
def test_grey_is_the_same_in_all_three_channels(mode: str, colour: int, grey: int) -> None:
    square = seen(encoded(Image.new(mode, (256, 300), colour), "PNG"))

    assert (square == grey).all()


def test_cmyk_becomes_the_colour_it_prints() -> None:
    magenta_and_yellow = Image.new("CMYK", (300, 300), (0, 255, 255, 0))

    square = seen(encoded(magenta_and_yellow, "JPEG")).astype(int)

    assert np.abs(square - RED).max() <= 6


def test_cmyk_is_scaled_as_the_colours_that_it_prints() -> None:
    inks = np.concatenate([noise(400, 300), noise(400, 300)[:, :, :1]], -1)
    file = encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=95)

    assert apart(seen(file), plain(file)) <= 1


def test_an_animation_is_judged_by_its_first_frame() -> None:
    first, second = Image.new("RGB", (256, 256), RED), Image.new("RGB", (256, 256), BLUE)

    square = seen(encoded(first, "GIF", save_all=True, append_images=[second]))

    assert (square == RED).all()


def gif_of_a_part(*, clear: bool) -> bytes:
    """A canvas of 512 x 256 whose frame, red above and green below, fills its right half."""
    frame = Image.new("P", (256, 256), 0)
    frame.putpalette([255, 0, 0, 0, 255, 0])
    frame.paste(1, (0, 128, 256, 256))
    options = {"transparency": 1} if clear else {}
    file = bytearray(encoded(frame, "GIF", **options))
    file[6:10] = struct.pack("<HH", 512, 256)
    descriptor = file.index(b",\0\0\0\0\0\x01\0\x01")
    file[descriptor + 1 : descriptor + 3] = struct.pack("<H", 256)
    return bytes(file)


@pytest.mark.parametrize("clear", [False, True])
def test_around_a_gifs_first_frame_it_is_white(clear: bool) -> None:
    square = seen(gif_of_a_part(clear=clear))  # the middle of the canvas

    assert (square[:, :128] == 255).all()
    assert (square[:128, 128:] == RED).all()
    assert (square[128:, 128:] == (WHITE if clear else GREEN)).all()


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(errors.BodyEmpty, match="empty"):
        seen(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"hello, world",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"\0",
        encoded(Image.new("RGB", (9, 9)), "TIFF"),
        encoded(Image.new("RGB", (9, 9)), "PPM"),
    ],
)
def test_what_is_not_in_the_table_is_refused_by_its_type(data: bytes) -> None:
    with pytest.raises(errors.ImageTypeUnsupported, match="JPEG, PNG, WEBP, GIF, BMP"):
        seen(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_a_truncated_file_is_unreadable(kind: str, share: float) -> None:
    whole = encoded(Image.fromarray(noise(300, 300)), kind)

    with pytest.raises(errors.ImageUnreadable, match=kind):
        seen(whole[: int(len(whole) * share)])


@pytest.mark.parametrize(
    "start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM"]
)
def test_rubbish_behind_a_signature_is_unreadable(start: bytes) -> None:
    with pytest.raises(errors.ImageUnreadable):
        seen(start + np.random.default_rng(0).bytes(2000))


def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(errors.ImageTooLarge, match=r"20000 x 20000.*ALEXNET_MAX_PIXELS"):
        seen(png_of(20_000, 20_000))


def test_pillows_own_limit_does_not_interfere_with_ours() -> None:
    square = seen(png_of(10_000, 10_000), max_pixels=100_000_000)

    assert (square == 0).all()
    assert Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3


@pytest.mark.parametrize(("width", "height"), [(1, 60_000), (60_000, 1)])
def test_a_ribbon_is_refused(width: int, height: int) -> None:
    with pytest.raises(errors.ImageTooElongated, match=rf"{width} x {height}.* 32 times"):
        seen(png_of(width, height))


@pytest.mark.parametrize(("width", "fits"), [(320, True), (321, False)])
def test_the_limits_themselves_are_allowed(width: int, fits: bool) -> None:
    image = png_of(width, 10)

    if fits:
        assert seen(image, max_pixels=3200).shape == (256, 256, 3)
    else:
        with pytest.raises(errors.ImageError):
            seen(image, max_pixels=3200)


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.jpg")), ids=lambda path: path.name)
def test_a_photograph_is_seen_as_its_decoded_pixels_resampled(path: Path) -> None:
    with Image.open(path) as image:
        if image.mode != "RGB" or image.getexif().get(0x0112, 1) != 1:
            pytest.skip("its mode or orientation has a test of its own")
        pixels = np.asarray(image)

    assert apart(seen(path.read_bytes()), reference(pixels)) <= 1


# Scaled decoding. The bound is what 500 photographs gave, scaled up and decoded to just AMPLE.
SCALED_BOUND = 11  # grey levels


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize(("width", "height"), [(1501, 1025), (1027, 1501), (2731, 2051)])
def test_a_large_jpeg_decoded_scaled_is_near_the_preset(
    width: int, height: int, orientation: int
) -> None:
    image = stored(scene(width, height), orientation)
    file = encoded(image, "JPEG", quality=90, exif=exif_of(orientation))

    scaled = seen(file, scaled_decoding=True)

    assert apart(scaled, plain(file)) <= SCALED_BOUND
    assert np.abs(scaled.astype(int) - plain(file)).mean() < 0.5


@pytest.mark.parametrize(
    ("mode", "options"), [("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})]
)
def test_grey_cmyk_and_progressive_jpegs_are_decoded_scaled_too(
    mode: str, options: dict[str, bool]
) -> None:
    image = scene(1501, 1025).convert(mode).transpose(Image.Transpose.ROTATE_90)
    file = encoded(image, "JPEG", quality=90, exif=exif_of(6), **options)

    assert apart(seen(file, scaled_decoding=True), plain(file)) <= SCALED_BOUND


def test_a_size_that_scaled_decoding_rounds_up_shifts_nothing() -> None:
    waves = 128 + 100 * np.sin(np.arange(1025) / 10)  # 39 levels from pixel to pixel, at most
    file = encoded(Image.fromarray(np.tile(waves.astype(np.uint8), (1025, 1))), "JPEG", quality=95)

    assert apart(seen(file, scaled_decoding=True), plain(file)) <= 5


@pytest.mark.parametrize(
    ("width", "height", "scaled"),
    [(1024, 1024, True), (2000, 1024, True), (1023, 1024, False), (3000, 1023, False)],
)
def test_only_jpegs_of_four_times_the_square_are_decoded_scaled(
    monkeypatch: pytest.MonkeyPatch, width: int, height: int, scaled: bool
) -> None:
    sizes: list[tuple[int, int]] = []
    load_prepare = JpegImagePlugin.JpegImageFile.load_prepare

    def spy(image: JpegImagePlugin.JpegImageFile) -> None:
        sizes.append(image.size)
        load_prepare(image)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load_prepare", spy)
    file = encoded(Image.new("RGB", (width, height)), "JPEG")

    seen(file)
    seen(file, scaled_decoding=True)

    half = (math.ceil(width / 2), math.ceil(height / 2))
    assert sizes == [(width, height), half if scaled else (width, height)]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "JPEG"])
def test_scaled_decoding_leaves_small_images_and_other_formats_alone(kind: str) -> None:
    size = (500, 375) if kind == "JPEG" else (1501, 1025)
    file = encoded(scene(*size), kind)

    np.testing.assert_array_equal(seen(file, scaled_decoding=True), seen(file))


def test_a_large_jpeg_is_judged_by_its_size_before_it_is_scaled() -> None:
    file = encoded(Image.new("RGB", (2048, 2048)), "JPEG")

    with pytest.raises(errors.ImageTooLarge, match="2048 x 2048"):
        seen(file, max_pixels=2048 * 2048 - 1, scaled_decoding=True)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_large_jpeg_is_unreadable_decoded_scaled_or_not(progressive: bool) -> None:
    file = encoded(scene(1501, 1025), "JPEG", progressive=progressive)

    for scaled_decoding in (False, True):
        with pytest.raises(errors.ImageUnreadable, match="JPEG"):
            seen(file[: len(file) // 2], scaled_decoding=scaled_decoding)
