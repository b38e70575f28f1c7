"""
The orientation that a camera stored with an image, out of EXIF data.

Read here and not by Pillow, which copies every entry's value: entries may all claim the same
megabytes.  XMP's orientation does not count, as in browsers, ImageMagick and libvips.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from PIL import Image

EXIF_START: Final = b"Exif\0\0"
EXIF_ORIENTATION: Final = 0x0112
EXIF_FORMATS: Final = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT and LONG, as `struct` has them


class Turn(NamedTuple):
    """How a stored image becomes upright, and which of its stored axes that reverses."""

    transpose: Image.Transpose
    mirrors_x: bool
    mirrors_y: bool


TURNS: Final = {
    2: Turn(Image.Transpose.FLIP_LEFT_RIGHT, True, False),
    3: Turn(Image.Transpose.ROTATE_180, True, True),
    4: Turn(Image.Transpose.FLIP_TOP_BOTTOM, False, True),
    5: Turn(Image.Transpose.TRANSPOSE, False, False),
    6: Turn(Image.Transpose.ROTATE_270, False, True),
    7: Turn(Image.Transpose.TRANSVERSE, True, True),
    8: Turn(Image.Transpose.ROTATE_90, True, False),
}


def turn_of(info: Mapping[Any, Any]) -> Turn | None:
    """The turn that Pillow's `Image.info` asks for; None for none and for damaged EXIF data."""
    try:
        return TURNS.get(_orientation(info))
    except (ValueError, struct.error):
        return None


def _orientation(info: Mapping[Any, Any]) -> int:
    """The orientation as the EXIF standard numbers it; 1 if there is none."""
    tiff = info.get("exif", b"").removeprefix(EXIF_START).removeprefix(EXIF_START)
    if order := {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4]):
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for offset in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, offset)
            if tag == EXIF_ORIENTATION and kind in EXIF_FORMATS:
                (value,) = struct.unpack_from(order + EXIF_FORMATS[kind], tiff, offset + 8)
                return int(value)
    return 1
