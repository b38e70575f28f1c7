"""
The image formats read at build time.  They are those that the service reads.

A new format is a new row, here and in ``service/inference/formats.py``; a test holds the two
tables together.  Pillow opens images with ``formats=readable_formats()``, whatever their names end
in: left to itself it would give PostScript, under any name, to Ghostscript.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Final

SUFFIXES_OF: Final = {  # a format's name -> how files of it may end, in lower case
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "AVIF": (".avif",),
    "HEIC": (".heic", ".heif", ".hif"),
}
SUFFIXES: Final = tuple(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)


@cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that can be read: HEIC with the extra ``heif`` only."""
    formats = [name for name in SUFFIXES_OF if name != "HEIC"]
    if find_spec("pillow_heif") is not None:
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
        formats.append("HEIF")
    return tuple(formats)
