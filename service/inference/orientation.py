"""
The orientation that a camera stored with an image, out of EXIF or XMP data.

Read here and not by Pillow, which copies every entry's value: entries may all claim the same
megabytes.
"""

import re
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from PIL import Image

EXIF_START: Final = b"Exif\0\0"
EXIF_ORIENTATION: Final = 0x0112
EXIF_SHORT: Final = 3
XMP_ORIENTATION: Final = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


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
    """EXIF's orientation, or else XMP's, as the EXIF standard numbers it; 1 if there is none."""
    exif = info.get("exif", b"")
    if not exif and "Raw profile type exif" in info:  # as ImageMagick writes it into PNG
        exif = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
    tiff = exif.removeprefix(EXIF_START).removeprefix(EXIF_START)
    if order := {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4]):
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for offset in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, offset)
            if tag == EXIF_ORIENTATION and kind == EXIF_SHORT:
                return int(value)
    match = XMP_ORIENTATION.search(info.get("xmp", b""))
    return int(match[1]) if match else 1
