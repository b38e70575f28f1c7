"""
Colour profiles and EXIF orientation of an image.  Its file says so beside the pixels.

Embedded colour profiles: pixels -> sRGB, which the networks were trained on and browsers show.
LittleCMS converts, with perceptual intent; its transforms are cached.  What converts to the same
numbers is left alone, so that an sRGB profile costs nothing whatever it is called.  A profile that
is broken, larger than `PROFILE_BYTES` or made for other channels counts as none.

The orientation is the camera's, out of EXIF data.  It is read here and not by Pillow, which copies
every entry's value: entries may all claim the same megabytes.  XMP's orientation does not count, as
in browsers, ImageMagick and libvips.
"""

import struct
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from service.inference.limits import PROFILE_BYTES

CACHED: Final = 16  # transforms; most images come from few cameras.  0.5 MB each, for printers'
SAME: Final = 1  # grey level: what rounding makes of a conversion to the same colours
TAGS: Final = 128  # bytes before a profile's table of tags
TAG: Final = 12  # bytes of an entry in it
MOST_TAGS: Final = 100  # LittleCMS reads no more
# Tags of any number of calculations for each colour, which LittleCMS prefers to all others.  No
# browser reads them, and a profile of 1 MB could take half a minute.
CALCULATIONS: Final = (b"D2B0", b"D2B1", b"D2B2", b"D2B3")

EXIF_START: Final = b"Exif\0\0"
EXIF_ORIENTATION: Final = 0x0112
EXIF_FORMATS: Final = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT and LONG, as `struct` has them


@dataclass(frozen=True)
class Conversion:
    """From one profile to sRGB."""

    mode: str  # Pillow's, of the pixels that it takes
    _transform: ImageCms.ImageCmsTransform

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image in sRGB; grey ones may come as RGB with three times the same."""
        return self._transform.apply(image if image.mode == self.mode else image.convert(self.mode))


def conversion(profile: bytes, mode: str) -> Conversion | None:
    """What an image of this mode of Pillow's, with this profile, needs; None for nothing."""
    if len(profile) > PROFILE_BYTES:
        return None
    channels = "CMYK" if mode == "CMYK" else "L" if mode[0] in "1LI" else "RGB"
    return _conversion(profile, channels)


@lru_cache(CACHED)
def _conversion(profile: bytes, mode: str) -> Conversion | None:
    try:
        transform = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(BytesIO(_without_calculations(profile))),
            _srgb(),
            mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
        )
    except (OSError, ValueError, struct.error):
        return None
    result = Conversion(mode, transform)
    return None if mode != "CMYK" and _changes_nothing(result) else result


def _without_calculations(profile: bytes) -> bytes:
    changed = bytearray(profile)
    (number,) = struct.unpack_from(">I", profile, TAGS)
    table = TAGS + 4
    for place in range(table, table + TAG * min(number, MOST_TAGS), TAG):
        if profile[place : place + 4] in CALCULATIONS:
            changed[place : place + 4] = b"none"
    return bytes(changed)


def _changes_nothing(conversion: Conversion) -> bool:
    sample = _sample(conversion.mode)
    before, after = (np.asarray(i, np.int16) for i in (sample.convert("RGB"), conversion(sample)))
    return int(np.abs(after - before).max()) <= SAME


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@cache
def _sample(mode: str) -> Image.Image:
    """All greys, or 16 x 16 x 16 colours, the darkest and the lightest among them."""
    if mode == "L":
        return Image.linear_gradient("L")
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(64, 64, 3)
    return Image.fromarray(colours)


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


def turn_of(exif: bytes) -> Turn | None:
    """The turn that EXIF data ask for; None for none and for damaged ones."""
    try:
        return TURNS.get(_orientation(exif))
    except (ValueError, struct.error):
        return None


def _orientation(exif: bytes) -> int:
    """The orientation as the EXIF standard numbers it; 1 if there is none."""
    tiff = exif.removeprefix(EXIF_START).removeprefix(EXIF_START)
    if order := {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4]):
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for offset in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, offset)
            if tag == EXIF_ORIENTATION and kind in EXIF_FORMATS:
                (value,) = struct.unpack_from(order + EXIF_FORMATS[kind], tiff, offset + 8)
                return int(value)
    return 1
