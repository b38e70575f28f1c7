"""
Embedded colour profiles: pixels -> sRGB, which the networks were trained on and browsers show.

LittleCMS converts, with perceptual intent; its transforms are cached.  What converts to the same
numbers is left alone, so that an sRGB profile costs nothing whatever it is called.  A profile that
is broken, larger than `PROFILE_BYTES` or made for other channels counts as none.
"""

import struct
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from typing import Final

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


@dataclass(frozen=True)
class Conversion:
    """From one profile to sRGB."""

    mode: str  # Pillow's, of the pixels that it takes
    _transform: ImageCms.ImageCmsTransform

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image in sRGB; grey ones may come as RGB with three times the same."""
        return self._transform.apply(image if image.mode == self.mode else image.convert(self.mode))


def conversion(profile: bytes | None, mode: str) -> Conversion | None:
    """What an image of this mode of Pillow's, with this profile, needs; None for nothing."""
    if not profile or len(profile) > PROFILE_BYTES:
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
