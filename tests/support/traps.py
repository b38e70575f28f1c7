"""
Files made to harm: each builder gives the bytes of one kind of hostile image.

Plain functions, so that the tests, the fuzzers' seeds and measurements share them.
"""

import struct
import zlib
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from io import BytesIO

from PIL import Image

from tests.support import profiles

PNG_START = b"\x89PNG\r\n\x1a\n"
EXIF_START = b"Exif\0\0"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as a file's bytes."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# PNG


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its right checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int,
    height: int,
    *,
    depth: int = 1,
    colour: int = 0,
    line_filter: int = 0,
    interlaced: bool = False,
    rows: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """
    A PNG of one colour in any size, as short as zlib makes it.

    `rows` are how many are really there; `before` and `after` are chunks around the pixels.
    """
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes([line_filter]) + bytes((width * channels * depth + 7) // 8)
    squeeze = zlib.compressobj(9)
    body = b"".join(squeeze.compress(row) for _ in range(height if rows is None else rows))
    body += squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    palette = chunk(b"PLTE", bytes(range(6))) if colour == 3 else b""
    return (
        PNG_START
        + chunk(b"IHDR", header)
        + palette
        + before
        + chunk(b"IDAT", body)
        + after
        + chunk(b"IEND", b"")
    )


def png_of_texts(number: int, size: int, *, international: bool = False) -> bytes:
    """Compressed texts that each unpack to `size` bytes of nothing."""
    text = zlib.compress(bytes(size), 9)
    if international:
        texts = (chunk(b"iTXt", b"%d\0\1\0\0\0" % n + text) for n in range(number))
    else:
        texts = (chunk(b"zTXt", b"%d\0\0" % n + text) for n in range(number))
    return png(16, 16, before=b"".join(texts))


def png_of_profiles(number: int, size: int = 2**20) -> bytes:
    """Colour profiles that each unpack to `size` bytes, one replacing the other."""
    return png(16, 16, before=chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(size), 9)) * number)


def png_of_chunks(number: int, *, behind: bool = False) -> bytes:
    """Empty private chunks before the pixels, or behind them."""
    chunks = chunk(b"prVt", b"") * number
    return png(16, 16, after=chunks) if behind else png(16, 16, before=chunks)


# JPEG


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def bits(text: str) -> bytes:
    """Entropy-coded bits, filled up with ones, FF stuffed."""
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")


def jpeg_of_scans(
    width: int, height: int, scans: int, *, between: bytes = b"", arithmetic: bool = False
) -> bytes:
    """
    A grey progressive JPEG whose scans each walk all blocks and change nothing.

    An end-of-block run covers 32,767 blocks in 15 bits, so a scan takes few bytes whatever the
    image's size; arithmetic coding needs none at all.
    """
    blocks = -(-width // 8) * -(-height // 8)
    refine = b"" if arithmetic else bits(("0" + "1" * 14) * -(-blocks // 32767))
    file = [
        b"\xff\xd8",
        segment(0xDB, bytes([0]) + bytes([1]) * 64),
        segment(
            0xCA if arithmetic else 0xC2, struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0)
        ),
        segment(0xC4, bytes([0x00, 1]) + bytes(15) + b"\x00"),  # DC: one code, no difference
        segment(0xC4, bytes([0x10, 1]) + bytes(15) + b"\xe0"),  # AC: one code, a run of 2^14 + 14b
        segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bits("0" * 8),
    ]
    scan = between + segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10])) + refine
    return b"".join([*file, scan * (scans - 1), b"\xff\xd9"])


def inside_jpeg(extra: bytes, size: tuple[int, int] = (64, 48)) -> bytes:
    """A small honest JPEG with bytes put in behind its first marker."""
    plain = encoded(Image.new("RGB", size, (200, 30, 30)), "JPEG")
    return plain[:2] + extra + plain[2:]


def jpeg_of_segments(number: int, body: bytes = b"", marker: int = 0xE5) -> bytes:
    """A JPEG with that many application segments."""
    return inside_jpeg(segment(marker, body) * number)


def jpeg_of_exif_pieces(number: int, size: int = 2) -> bytes:
    """EXIF data in many pieces, which readers join one by one."""
    return jpeg_of_segments(number, EXIF_START + bytes(size), 0xE1)


def jpeg_with_junk(size: int) -> bytes:
    """Bytes that are no marker, where markers should be."""
    return inside_jpeg(segment(0xFE, b"") + bytes(size))


def exif(entries: Iterable[tuple[int, int, int, int]], *, order: str = "<", tail: int = 0) -> bytes:
    """EXIF data with one directory of (tag, type, count, value or offset), then `tail` bytes."""
    entries = list(entries)
    start = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    head = start + struct.pack(order + "IH", 8, len(entries))
    return EXIF_START + head + body + struct.pack(order + "I", 0) + bytes(tail)


def exif_that_overlaps(number: int, size: int) -> bytes:
    """A directory whose every entry claims the same `size` bytes as its own."""
    return exif(((tag, 7, size, 8) for tag in range(number)), tail=size)


def png_with_exif(data: bytes) -> bytes:
    """The EXIF data in a small PNG."""
    return png(16, 16, before=chunk(b"eXIf", data.removeprefix(EXIF_START)))


# GIF


def gif(
    screen: tuple[int, int] = (16, 16),
    frame: tuple[int, int] | None = None,
    *,
    before: bytes = b"",
    code_size: int = 2,
    data: bytes | None = None,
) -> bytes:
    """A GIF whose screen, frame and data need not fit each other; two colours."""
    width, height = frame or screen
    if data is None:
        # Three bits a code: clear and pixel 0, again and again, so that codes never grow; end.
        codes = "000100" * min(width * height, 20_000)
        number = int("101" + codes, 2)
        packed = number.to_bytes(-(-number.bit_length() // 8), "little")
        blocks = (packed[place : place + 255] for place in range(0, len(packed), 255))
        data = b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0x80, 0, 0)
        + bytes([10, 20, 30, 200, 100, 0])
        + before
        + b","
        + struct.pack("<HHHHBB", 0, 0, width, height, 0, code_size)
        + data
        + b";"
    )


def gif_of_comments(number: int) -> bytes:
    """Comment blocks of a single byte each."""
    return gif(before=b"!\xfe" + b"\x01c" * number + b"\0")


def gif_of_extensions(number: int) -> bytes:
    """Empty extensions, one after the other."""
    return gif(before=b"!\xff\0\0" * number)


def gif_that_restores(width: int, height: int) -> bytes:
    """A first frame to be cleared after it is shown, for which readers set memory aside."""
    return gif((16, 16), (width, height), before=b"!\xf9\4\x08\0\0\0\0")


# BMP


def bmp(
    width: int, height: int, data: bytes = b"", *, depth: int = 8, compression: int = 0
) -> bytes:
    """A BMP with a colour palette of two and any pixel data; 1 and 2 are run-length codes."""
    colours = 2 if depth <= 8 else 0
    palette = (b"\x00\x00\xff\x00" + b"\x00\xff\x00\x00")[: 4 * colours]
    start = 54 + len(palette)
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(data), 0, 0, start)
        + struct.pack(
            "<IiiHHIIiiII", 40, width, height, 1, depth, compression, len(data), 0, 0, colours, 0
        )
        + palette
        + data
    )


def bmp_of_runs(width: int, height: int) -> bytes:
    """Run-length coded, one pixel a run: the most work per pixel."""
    return bmp(width, height, (b"\x01\x01" * width + b"\0\0") * height, compression=1)


def bmp_of_line_ends(width: int, height: int) -> bytes:
    """Run-length coded, one pixel a line, the rest to be filled in."""
    return bmp(width, height, b"\x01\x01\0\0" * height, compression=1)


# WebP


def webp_canvas(width: int, height: int) -> bytes:
    """A tiny WebP that declares a large canvas and shows a frame of 16 x 16 on it."""
    still = encoded(Image.new("RGB", (16, 16), (9, 200, 9)), "WEBP", lossless=True)
    frame = still[12:]
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sizes
    animation = b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    place = bytes(6) + b"\x0f\0\0" * 2 + bytes(3) + b"\0"
    frames = b"ANMF" + struct.pack("<I", len(place) + len(frame)) + place + frame
    body = b"WEBP" + extended + animation + frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_of(width: int, height: int, **options: object) -> bytes:
    """A WebP of one colour."""
    return encoded(Image.new("RGB", (width, height), (90, 120, 30)), "WEBP", **options)


# AVIF and HEIC


def in_container(image: Image.Image, kind: str, **options: object) -> bytes:
    """An AVIF, or with pillow-heif installed a HEIC."""
    if kind == "AVIF":
        return encoded(image, kind, speed=10, **options)
    from pillow_heif import from_pillow

    file = BytesIO()
    from_pillow(image).save(file, **options)
    return file.getvalue()


def with_larger_av1(data: bytes, width: int, height: int) -> bytes:
    """An AVIF whose container says the old size, and whose coded image begins with another."""
    payload = data.index(b"mdat") + 4
    head = data.index(b"\x0a", payload)  # its sequence header, in the bits below
    size = data[head + 1]
    body = int.from_bytes(data[head + 2 : head + 2 + size], "big")
    # A reduced header: 3 + 1 + 1 + 5 bits, then 4 bits each of the sizes' lengths.
    left = 8 * size - 10
    widths, heights = (body >> left - 4 & 15) + 1, (body >> left - 8 & 15) + 1
    rest = left - 8 - widths - heights
    bits = max(width, height).bit_length()
    start = body >> left << 8 | (bits - 1) << 4 | bits - 1
    start = (start << bits | width - 1) << bits | height - 1
    number = 10 + 8 + 2 * bits + rest
    packed = start << rest | body & (1 << rest) - 1
    packed <<= -number % 8
    return data[: head + 2] + packed.to_bytes(-(-number // 8), "big") + data[head + 2 + size :]


def jpeg_with_profile(profile: bytes, mode: str = "RGB") -> bytes:
    """A small JPEG with a colour profile."""
    return encoded(Image.linear_gradient("L").resize((24, 17)).convert(mode), "JPEG",
                   icc_profile=profile)  # fmt: skip


CONTAINERS = ("AVIF", "HEIC") if find_spec("pillow_heif") else ("AVIF",)

# All of them in sizes that a fuzzer can start from.

SMALL: dict[str, Callable[[], bytes]] = {
    "png": lambda: png(9, 7),
    "png-16-bit": lambda: png(9, 7, depth=16, colour=6, line_filter=4),
    "png-grey-16-bit": lambda: png(9, 7, depth=16),
    "png-palette": lambda: png(9, 7, depth=2, colour=3, before=chunk(b"tRNS", b"\x80\xff")),
    "png-interlaced": lambda: png(9, 7, depth=8, colour=2, interlaced=True),
    "png-clear-colour": lambda: png(9, 7, depth=8, colour=2, before=chunk(b"tRNS", bytes(6))),
    "png-texts": lambda: png_of_texts(3, 100),
    "png-international-texts": lambda: png_of_texts(3, 100, international=True),
    "png-profiles": lambda: png_of_profiles(2, 100),
    "png-chunks": lambda: png_of_chunks(3) + png_of_chunks(3, behind=True),
    "png-animated": lambda: encoded(
        Image.new("RGB", (9, 7)), "PNG", save_all=True, append_images=[Image.new("RGB", (9, 7), 1)]
    ),
    "png-exif": lambda: png_with_exif(exif([(0x0112, 3, 1, 6)])),
    "png-exif-overlap": lambda: png_with_exif(exif_that_overlaps(5, 50)),
    "jpeg": lambda: encoded(Image.new("RGB", (24, 17), (90, 30, 5)), "JPEG"),
    "jpeg-grey": lambda: encoded(Image.new("L", (24, 17), 90), "JPEG"),
    "jpeg-cmyk": lambda: encoded(Image.new("CMYK", (24, 17), (90, 30, 5, 0)), "JPEG"),
    "jpeg-progressive": lambda: encoded(
        Image.linear_gradient("L").resize((40, 24)).convert("RGB"), "JPEG", progressive=True
    ),
    "jpeg-scans": lambda: jpeg_of_scans(64, 64, 6),
    "jpeg-arithmetic": lambda: jpeg_of_scans(64, 64, 3, arithmetic=True),
    "jpeg-segments": lambda: jpeg_of_segments(4, b"JFIF\0\1\1"),
    "jpeg-exif-pieces": lambda: jpeg_of_exif_pieces(3),
    "jpeg-exif": lambda: inside_jpeg(segment(0xE1, exif([(0x0112, 3, 1, 8)], order=">"))),
    "jpeg-profile": lambda: inside_jpeg(segment(0xE2, b"ICC_PROFILE\0\1\1abc")),
    "jpeg-photoshop": lambda: inside_jpeg(
        segment(0xED, b"Photoshop 3.0\08BIM\x03\xed\0\0\0\0\0\x10" + bytes(16))
    ),
    "jpeg-adobe": lambda: inside_jpeg(segment(0xEE, b"Adobe\0\x64\0\0\0\0\2")),
    "jpeg-mpo": lambda: encoded(
        Image.new("RGB", (16, 16)), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))]
    ),
    "gif": gif,
    "gif-frame": lambda: gif((16, 16), (30, 20)),
    "gif-comments": lambda: gif_of_comments(5),
    "gif-extensions": lambda: gif_of_extensions(5),
    "gif-restores": lambda: gif_that_restores(20, 20),
    "gif-animated": lambda: encoded(
        Image.new("P", (9, 7)), "GIF", save_all=True, append_images=[Image.new("P", (9, 7), 1)]
    ),
    "bmp": lambda: encoded(Image.new("RGB", (9, 7), (1, 2, 3)), "BMP"),
    "bmp-palette": lambda: bmp(8, 2, b"\0\1" * 8),
    "bmp-runs": lambda: bmp_of_runs(9, 7),
    "bmp-line-ends": lambda: bmp_of_line_ends(9, 7),
    "bmp-runs-of-4-bit": lambda: bmp(
        8, 2, b"\4\x01\0\4\x01\x10\0\2\1\0\0\0\0\1", depth=4, compression=2
    ),
    "bmp-fields": lambda: bmp(
        2, 2, struct.pack("<III", 0xFF0000, 0xFF00, 0xFF) + bytes(16), depth=32, compression=3
    ),
    "webp": lambda: webp_of(9, 7),
    "webp-lossless": lambda: webp_of(9, 7, lossless=True),
    "webp-canvas": lambda: webp_canvas(40, 30),
    "webp-alpha": lambda: encoded(Image.new("RGBA", (9, 7), (1, 2, 3, 90)), "WEBP"),
    "icc-p3": lambda: jpeg_with_profile(profiles.rgb(profiles.DISPLAY_P3, profiles.srgb_curve())),
    "icc-adobe-in-png": lambda: encoded(
        Image.new("RGB", (9, 7), (90, 30, 5)),
        "PNG",
        icc_profile=profiles.rgb(profiles.ADOBE, profiles.gamma(2.2)),
    ),
    "icc-grey": lambda: jpeg_with_profile(profiles.grey(1.0), "L"),
    "icc-cmyk": lambda: jpeg_with_profile(profiles.cmyk(), "CMYK"),
}


def _small(kind: str, image: Image.Image) -> Callable[[], bytes]:
    return lambda: in_container(image, kind)


for _kind in CONTAINERS:
    SMALL[_kind.lower()] = _small(_kind, Image.linear_gradient("L").resize((70, 66)).convert("RGB"))
    SMALL[f"{_kind.lower()}-alpha"] = _small(_kind, Image.new("RGBA", (70, 66), (1, 2, 3, 90)))
SMALL["avif-animated"] = lambda: in_container(
    Image.new("RGB", (64, 64)), "AVIF", save_all=True,
    append_images=[Image.new("RGB", (64, 64), 1)],
)  # fmt: skip
