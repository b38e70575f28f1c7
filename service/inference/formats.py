"""
The image formats (JPEG, PNG, WebP ...) and their limits, one row each.

A new format is a new row.  Settings, uploads, folders and the decoder take theirs from here.
Decoders are named, not imported, so that settings and `--help` load without Pillow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from io import BytesIO
from pkgutil import resolve_name
from typing import Any, Final

from service.inference.isobmff import brands

MILLION: Final = 1_000_000


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels; the decoder allocates memory for them before it tells."""
    match data[12:16]:
        case b"VP8X":
            width, height = data[24:27], data[27:30]
            return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
        case b"VP8L":
            both = int.from_bytes(data[21:25], "little")
            return (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = data[26:28], data[28:30]
            return (
                int.from_bytes(width, "little") & 0x3FFF,
                int.from_bytes(height, "little") & 0x3FFF,
            )
        case _:
            return None


def of_brands(*wanted: bytes) -> Callable[[bytes], bool]:
    """ISO base media files by their major brand, or by any brand where that says little."""

    def matches(data: bytes) -> bool:
        major, *others = brands(data) or [b""]
        return major in wanted or (major in CONTAINERS and not {*wanted}.isdisjoint(others))

    return matches


CONTAINERS: Final = (b"mif1", b"msf1")  # brands that any image format may be in


@dataclass(frozen=True)
class Format:
    """An image format: what it is called, how its bytes begin, and what decodes it."""

    name: str  # as errors say it; in lower case as the setting `formats` does
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    decoder: str  # of a Pillow `ImageFile` class, as `pkgutil.resolve_name` takes it
    canvas: Callable[[bytes], tuple[int, int] | None] = lambda data: None
    # What decodes in one call, where the clock cannot be looked at, gets so many pixels for each
    # second of the time limit, as measured on one core of 2026 with the worst files that could
    # be made.  With `slow_codec` only images of that codec of Pillow's count.
    pixels_per_second: int | None = None
    slow_codec: str | None = None
    slow_name: str = ""  # what the error calls such a file
    bytes_per_second: int | None = None  # of what costs as much by its bytes as by its pixels
    package: str = "PIL"  # that has the decoder
    extra: str = ""  # of this project, that installs the package

    @cached_property
    def readable(self) -> bool:
        """Whether the decoder's package is installed."""
        return find_spec(self.package) is not None

    @cached_property
    def open(self) -> Callable[[BytesIO], Any]:
        """The decoder's class."""
        decoder: Callable[[BytesIO], Any] = resolve_name(self.decoder)
        return decoder


FORMATS: Final = (
    Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        lambda data: data.startswith(b"\xff\xd8\xff"),
        "service.inference.jpeg:Jpeg",
    ),
    Format(
        "PNG",
        (".png",),
        lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
        "service.inference.png:Png",
    ),
    Format(
        "WEBP",
        (".webp",),
        lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
        "PIL.WebPImagePlugin:WebPImageFile",
        webp_canvas,
        pixels_per_second=15 * MILLION,  # most slowly with transparency
        slow_name="WebP",
    ),
    Format(
        "GIF",
        (".gif",),
        lambda data: data[:6] in (b"GIF87a", b"GIF89a"),
        "service.inference.image:Gif",
    ),
    Format(
        "BMP",
        (".bmp",),
        lambda data: data.startswith(b"BM"),
        "PIL.BmpImagePlugin:BmpImageFile",
        pixels_per_second=MILLION,  # decoded in Python: every other thread waits
        slow_codec="bmp_rle",
        slow_name="run-length coded BMP",
    ),
    Format(
        "AVIF",
        (".avif",),
        of_brands(b"avif", b"avis"),
        "service.inference.avif:Avif",
        pixels_per_second=40 * MILLION,
        slow_name="AVIF",
        bytes_per_second=10 * MILLION,
    ),
    Format(
        "HEIC",
        (".heic", ".heif", ".hif"),
        of_brands(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
        "service.inference.heif:Heif",
        pixels_per_second=40 * MILLION,
        slow_name="HEIC",
        bytes_per_second=10 * MILLION,
        package="pillow_heif",
        extra="heif",
    ),
)
# For people: the megapixels that each second of the time limit is enough for.
BOUNDS: Final = ", ".join(
    f"{row.slow_name} to {row.pixels_per_second // MILLION}"
    + (f" or {row.bytes_per_second // MILLION} MB" if row.bytes_per_second else "")
    for row in FORMATS
    if row.pixels_per_second
)
FORMAT_NAMES: Final = tuple(row.name.lower() for row in FORMATS)
SUFFIXES: Final = tuple(suffix for row in FORMATS for suffix in row.suffixes)
