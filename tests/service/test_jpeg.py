"""JPEG files whose end is missing: answered if nothing but the end is missing."""

from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service import errors
from service.inference.image import decode
from service.inference.limits import DecodeLimits
from tests.support import traps

END = b"\xff\xd9"
PATIENT = DecodeLimits(decode_timeout=600.0)

# How JPEGs are written: each has its last coded pixels elsewhere.
WAYS: dict[str, dict[str, object]] = {
    "baseline": {},
    "own tables": {"optimize": True},
    "full colour": {"subsampling": 0, "quality": 95},
    "restarts": {"restart_marker_blocks": 3},
    "a restart a row": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
}
# What may stand behind the last pixels, in the place of the end.
BEHIND = {
    "nothing": b"",
    "half a marker": b"\xff",
    "a zero": b"\0",
    "a block of zeros": bytes(4096),
    "other bytes": b"something that is no image",
}


def seen(data: bytes, limits: DecodeLimits = PATIENT) -> NDArray[np.uint8]:
    """The square, however long it takes."""
    return decode(data, limits)


def photograph(width: int = 333, height: int = 250, mode: str = "RGB") -> Image.Image:
    """Noise, not too fine: every block has something to lose."""
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height)).convert(mode)


def jpeg(image: Image.Image, way: str) -> bytes:
    """The image's file."""
    file = BytesIO()
    image.save(file, "JPEG", **WAYS[way])
    return file.getvalue()


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("way", WAYS)
def test_a_jpeg_without_its_end_alone_is_seen_as_with_it(way: str, behind: str) -> None:
    for image in (photograph(), photograph(mode="L"), photograph(mode="CMYK")):
        whole = jpeg(image, way)

        square = seen(whole.removesuffix(END) + BEHIND[behind])

        np.testing.assert_array_equal(square, seen(whole))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "own tables"])
def test_coded_pixels_may_end_with_a_zero(way: str) -> None:
    for grey in range(0, 256, 8):
        whole = jpeg(Image.new("RGB", (100, 70), (grey, 100, 50)), way)

        np.testing.assert_array_equal(seen(whole.removesuffix(END)), seen(whole))


@pytest.mark.parametrize("behind", ["nothing", "half a marker", "a block of zeros"])
@pytest.mark.parametrize("way", WAYS)
def test_a_jpeg_that_lacks_a_byte_of_its_pixels_or_more_is_unreadable(
    way: str, behind: str
) -> None:
    whole = jpeg(photograph(), way).removesuffix(END)

    for missing in (1, 2, 3, 5, 8, 13, 21, 100, len(whole) // 3, len(whole) // 2):
        with pytest.raises(errors.ImageUnreadable, match="cut short"):
            seen(whole[: len(whole) - missing] + BEHIND[behind])


def test_a_progressive_jpeg_that_ends_between_two_scans_is_unreadable() -> None:
    whole = jpeg(photograph(), "progressive")
    place = whole.rfind(b"\xff\xc4")  # the last scan's tables

    with pytest.raises(errors.ImageUnreadable):
        seen(whole[:place])


@pytest.mark.parametrize("way", ["restarts", "a restart a row"])
def test_a_jpeg_that_ends_where_a_restart_is_due_is_unreadable(way: str) -> None:
    whole = jpeg(photograph(), way)
    places = [whole.rfind(bytes([0xFF, 0xD0 + number])) for number in range(8)]

    for place in places:
        with pytest.raises(errors.ImageUnreadable):
            seen(whole[:place])


@pytest.mark.parametrize("way", ["baseline", "progressive"])
def test_a_large_jpeg_without_its_end_is_decoded_scaled_too(way: str) -> None:
    whole = jpeg(photograph(1501, 1101), way)
    scaled = DecodeLimits(decode_timeout=600.0, scaled_decoding=True)

    square = seen(whole.removesuffix(END), scaled)

    np.testing.assert_array_equal(square, seen(whole, scaled))
    with pytest.raises(errors.ImageUnreadable):
        seen(whole[: len(whole) // 2], scaled)


def test_looking_for_what_is_missing_counts_as_decoding() -> None:
    cut = jpeg(photograph(2500, 2000), "progressive").removesuffix(END)

    with pytest.raises(errors.ImageTooCostly):
        seen(cut, DecodeLimits(decode_timeout=0.05))


def test_a_scan_that_promises_what_the_file_does_not_have_is_unreadable() -> None:
    for scan in (b"\xff\xda", b"\xff\xda\0\x08", b"\xff\xda\0\x08\x09" + bytes(6)):
        whole = jpeg(photograph(), "progressive").removesuffix(END)

        with pytest.raises(errors.ImageUnreadable):
            seen(whole + scan)


def test_an_end_inside_a_thumbnail_is_not_the_images_own() -> None:
    thumbnail = jpeg(photograph(64, 48), "baseline")
    whole = jpeg(photograph(), "baseline")
    with_thumbnail = whole[:2] + traps.segment(0xE5, thumbnail) + whole[2:]

    np.testing.assert_array_equal(seen(with_thumbnail.removesuffix(END)), seen(whole))
    with pytest.raises(errors.ImageUnreadable):
        seen(with_thumbnail[: len(with_thumbnail) * 3 // 4] + bytes(99_999))
