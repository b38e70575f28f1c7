"""
The image formats that are read at build time: those that the service reads.

A new format is a new row, here and in ``service/inference/formats.py``; a test holds the two
tables together.  Pillow opens images with ``formats=FORMATS``, whatever their names end in: left
to itself it would give PostScript, under any name, to Ghostscript.
"""

from __future__ import annotations

from typing import Final

SUFFIXES_OF: Final = {  # Pillow's name of a format -> how files of it may end, in lower case
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
}
FORMATS: Final = tuple(SUFFIXES_OF)
SUFFIXES: Final = tuple(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
