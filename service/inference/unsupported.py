"""
Files that are no image: error texts, one row each.  A row has first bytes, what they begin,
and what to do.

`formats` has the images that are read, which are looked for first.
"""

import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from service.inference.formats import CONTAINERS, FORMATS
from service.inference.isobmff import brands


@dataclass(frozen=True)
class Unsupported:
    """What is sent for an image but is not one that is read: what it is, and what to do."""

    what: str  # as in "This is ..."
    remedy: str  # `{taken}` stands for the names of the formats that are taken
    matches: Callable[[bytes], bool]


SAVE: Final = "Save it as one of {taken}."

HEAD: Final = 2**10  # bytes that are looked at in a text
# Text as bytes; of UTF-16, as some editors write it, without the zeros between.
BOMS: Final = ((b"\xef\xbb\xbf", b""), (b"\xff\xfe", b"\0"), (b"\xfe\xff", b"\0"))
FORM: Final = re.compile(rb"--[^\r\n]{1,256}\r?\ncontent-", re.IGNORECASE)
DATA_URL: Final = re.compile(rb"[\"']?data:[^,]{0,256},", re.IGNORECASE)
ADDRESS: Final = re.compile(rb"[\"']?https?://\S", re.IGNORECASE)
HTML: Final = re.compile(
    rb"(?:(?><\?xml.*?>|<!--.*?-->)\s*)*+<(?:!doctype\s+html|html|head|body|title|script)\b",
    re.IGNORECASE | re.DOTALL,
)
SVG: Final = re.compile(rb"<(?:\w+:)?svg\b", re.IGNORECASE)
XML: Final = re.compile(rb"<[?!\w]")
JSON: Final = re.compile(rb"\{\s*[\"}]|\[\s*[\[{\"\]\d-]")
LINE_BREAKS: Final = b"\r\n"
URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
BASE64: Final = re.compile(rb"[\"']?([A-Za-z0-9+/]{32,})")
FILM_BOXES: Final = (b"ftyp", b"moov", b"mdat", b"wide", b"skip")
BOX_SIZE: Final = 0x10  # above the highest byte of a first box's size, and below any letter
FILMS: Final = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\0\0\1\xba",  # MPEG
    b"\0\0\1\xb3",
    b"FLV\1",
    b"OggS",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # Windows Media
)
TRANSPORT_PACKET: Final = 188  # bytes; each of an MPEG transport stream begins with G


def _text(data: bytes) -> bytes:
    """The beginning of a text without what editors and senders put before it."""
    head = data[:HEAD]
    for mark, filling in BOMS:
        if head.startswith(mark):
            head = head.removeprefix(mark).translate(None, filling)
    return head.lstrip()


def _begins(pattern: re.Pattern[bytes]) -> Callable[[bytes], bool]:
    return lambda data: pattern.match(_text(data)) is not None


def _signed(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(signatures)


def _is_heif(data: bytes) -> bool:
    """A still image whose codec its brands do not name: those of HEIC and AVIF are formats."""
    return not {*CONTAINERS}.isdisjoint(brands(data))


def _is_film(data: bytes) -> bool:
    is_avi = data[:4] == b"RIFF" and data[8:12] == b"AVI "
    packets = data[: 2 * TRANSPORT_PACKET + 1 : TRANSPORT_PACKET]
    in_boxes = data[4:8] in FILM_BOXES and data[0] < BOX_SIZE
    return is_avi or packets == b"GGG" or in_boxes or data.startswith(FILMS)


def _is_base64(data: bytes) -> bool:
    """Whether a text in base64 stands for an image, or for what is told apart by its own bytes."""
    text = BASE64.match(_text(data).translate(URL_SAFE, LINE_BREAKS))
    if text is None:
        return False
    decoded = b64decode(text[1][: len(text[1]) // 4 * 4])
    return any(row.matches(decoded) for row in (*FORMATS, *BINARY))


BINARY: Final = (
    Unsupported(
        "HEIC or HEIF with an unknown codec",
        "Save it as JPEG; iPhones take JPEGs with Settings > Camera > Formats > Most Compatible.",
        _is_heif,
    ),
    Unsupported(
        "a TIFF, or a camera's raw file",
        SAVE,
        _signed(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ),
    Unsupported("JPEG 2000", SAVE, _signed(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    Unsupported("JPEG XL", SAVE, _signed(b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a")),
    Unsupported("a Photoshop document", SAVE, _signed(b"8BPS\0")),
    Unsupported("an icon", SAVE, _signed(b"\0\0\1\0", b"\0\0\2\0")),
    Unsupported(
        "a PDF", "Send a picture of the page, as one of {taken}.", _begins(re.compile(rb"%PDF-"))
    ),
    Unsupported("a video", "Send one of its frames, as one of {taken}.", _is_film),
    Unsupported(
        "data packed by gzip",
        "Unpack it, or send it with Content-Encoding: gzip.",
        _signed(b"\x1f\x8b"),
    ),
    Unsupported(
        "data packed by zstd",
        "Unpack it, or send it with Content-Encoding: zstd.",
        _signed(b"\x28\xb5\x2f\xfd"),
    ),
    Unsupported(
        "an archive",
        "Unpack it, and send the images in it.",
        _signed(b"PK\3\4", b"7z\xbc\xaf", b"Rar!"),
    ),
)
TEXTS: Final = (
    Unsupported(
        "a Git LFS pointer, not the file itself",
        "Run git lfs pull, and send the image.",
        _begins(re.compile(rb"version https://git-lfs\.")),
    ),
    Unsupported(
        "a multipart form, but its Content-Type does not say so",
        "Send the image's bytes alone, or name the form in the Content-Type: multipart/form-data "
        "with its boundary, as curl -F file=@picture.jpg does.",
        _begins(FORM),
    ),
    Unsupported(
        "a data URL",
        "Decode what comes after its comma, and send the image's bytes.",
        _begins(DATA_URL),
    ),
    Unsupported("base64 text", "Decode it, and send the image's bytes.", _is_base64),
    Unsupported(
        "an address, which is not fetched",
        "Fetch it, and send the bytes of the image.",
        _begins(ADDRESS),
    ),
    Unsupported(
        "an HTML page",
        "Perhaps a server answered with an error, or the address is that of a page around the "
        "image; look at it in a text editor, and send the image itself.",
        _begins(HTML),
    ),
    Unsupported(
        "an SVG drawing",
        SAVE,
        lambda data: bool(_begins(XML)(data) and SVG.search(_text(data))),
    ),
    Unsupported(
        "XML",
        "Perhaps a server answered with an error; look at it in a text editor, and send the image "
        "itself.",
        _begins(XML),
    ),
    Unsupported(
        "JSON",
        "Send the image's bytes; for images as base64 in JSON there is /invocations.",
        _begins(JSON),
    ),
)


def unsupported(data: bytes) -> Unsupported | None:
    """What these bytes are, if they are known to be no image that is read here."""
    if any(row.matches(data) for row in FORMATS):
        return None
    return next((row for row in (*BINARY, *TEXTS) if row.matches(data)), None)
