"""
Images made to harm: each gives a square or an `ImageError`, soon, and takes no memory with it.
"""

import importlib.util
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from service import errors
from service.inference import image
from service.inference.formats import FORMAT_NAMES, FORMATS
from service.inference.image import EncodedImage, decode, open_image
from service.inference.limits import PIECES, DecodeLimits
from tests.support import traps
from tests.support.servers import PATIENCE

Pixels = NDArray[np.uint8]
MAX_PIXELS = 50_000_000
MAX_ASPECT_RATIO = 32.0
ROOT = Path(__file__).parents[2]
REAL_CLOCK = vars(image)["thread_time"]
HEADER_END = 8 + 25  # of a PNG: its signature and its first chunk
SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ico", ".svg"}
SUFFIXES |= {".pdf", ".eps", ".ppm"}


class Clock:
    """CPU time that passes only as a test says: so many seconds from one look to the next."""

    def __init__(self) -> None:
        self.looks, self.pace = 0, 0.0
        self._seconds = 0.0

    def __call__(self) -> float:
        self.looks += 1
        self._seconds += self.pace
        return self._seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands still: what is refused here is not refused because the machine is slow."""
    clock = Clock()
    monkeypatch.setattr(image, "thread_time", clock)
    return clock


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read of an image gave its decoder."""
    sizes: list[int] = []
    read = image._Metered.read

    def spy(file: image._Metered, size: int | None = -1, /) -> bytes:
        data = read(file, size)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(image._Metered, "read", spy)
    return sizes


def seen(data: bytes, **limits: object) -> Pixels:
    """Decode with the service's default limits, unless others are given."""
    chosen: dict[str, object] = {"max_pixels": MAX_PIXELS, "max_aspect_ratio": MAX_ASPECT_RATIO}
    return decode(data, DecodeLimits(**{**chosen, **limits}))  # type: ignore[arg-type]


def opened(data: bytes, **limits: object) -> EncodedImage:
    """Read the header with the service's default limits, unless others are given."""
    chosen: dict[str, object] = {"max_pixels": MAX_PIXELS, "max_aspect_ratio": MAX_ASPECT_RATIO}
    return open_image(data, DecodeLimits(**{**chosen, **limits}))  # type: ignore[arg-type]


def outcome(data: bytes, **limits: object) -> str:
    """`square`, or the code of the refusal; anything else that comes out fails the test."""
    try:
        square = seen(data, **limits)
    except (errors.ImageError, errors.BodyEmpty) as error:
        return error.code
    assert square.shape == (256, 256, 3)
    assert square.dtype == np.uint8
    return "square"


def noise(width: int, height: int, channels: int = 3) -> Pixels:
    """Random pixels, which no format can pack away."""
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def resident() -> int:
    """Bytes of this process in memory."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs Linux to see its own memory")
    return int(statm.read_text().split()[1]) * 4096


def in_a_fresh_process(code: str) -> str:
    """What a program prints that may use `traps`, `decode`, `open_image`, `errors`, `LIMITS`."""
    start = f"""
import os, re, resource, sys, warnings
from pathlib import Path
from tests.support import traps
from service import errors
from service.inference.image import decode, open_image
from service.inference.limits import DecodeLimits
warnings.simplefilter("ignore")
LIMITS = dict(limits=DecodeLimits(max_pixels={MAX_PIXELS}, decode_timeout=600.0))
def memory():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
def may_take(more):
    now = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux to see and limit its own memory")
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# What each of the small traps is.


@pytest.mark.parametrize("name", traps.SMALL)
def test_every_small_trap_gives_a_square_or_a_refusal(name: str) -> None:
    assert outcome(traps.SMALL[name]()) in ("square", "image_unreadable")


@pytest.mark.parametrize(
    "name",
    [
        "png", "png-16-bit", "png-grey-16-bit", "png-palette", "png-clear-colour", "png-texts",
        "png-profiles", "png-animated", "png-exif", "png-exif-overlap", "jpeg-cmyk", "jpeg-scans",
        "jpeg-segments", "jpeg-exif-pieces", "jpeg-profile", "jpeg-photoshop", "jpeg-adobe",
        "jpeg-mpo", "gif-frame", "gif-comments", "gif-restores", "gif-animated", "bmp-palette",
        "bmp-runs", "bmp-line-ends", "bmp-fields", "webp-lossless", "webp-canvas", "webp-alpha",
    ],
)  # fmt: skip
def test_what_is_odd_but_right_is_read(name: str) -> None:
    assert outcome(traps.SMALL[name]()) == "square"


# What costs time.


@pytest.mark.parametrize("between", [b"", traps.segment(0xFE, b"\xff\xd9")])
def test_a_progressive_jpeg_of_many_scans_is_refused_unread(between: bytes) -> None:
    bomb = traps.jpeg_of_scans(5000, 5000, 60, between=between)

    with pytest.raises(errors.ImageTooCostly, match="60 scans, more than the 36"):
        opened(bomb)


def test_scans_behind_many_comments_are_counted_too() -> None:
    comments = traps.segment(0xFE, b"") * (PIECES + 1)
    bomb = traps.jpeg_of_scans(5000, 5000, 60)
    first = bomb.index(b"\xff\xda") + 12

    with pytest.raises(errors.ImageTooCostly, match="scans"):
        opened(bomb[:first] + comments + bomb[first:])


def test_arithmetic_coding_does_not_hide_scans() -> None:
    with pytest.raises(errors.ImageTooCostly, match="scans"):
        opened(traps.jpeg_of_scans(5000, 5000, 60, arithmetic=True))


def test_a_film_hung_on_to_a_photograph_is_not_counted_as_scans() -> None:
    photograph = traps.encoded(Image.new("RGB", (4000, 3000)), "JPEG", progressive=True)

    assert outcome(photograph + b"\xff\xda\0\2" * 1000) == "square"


def test_an_honest_progressive_jpeg_of_fifty_megapixels_is_opened() -> None:
    honest = traps.encoded(Image.new("L", (8000, 6200), 9), "JPEG", progressive=True)

    assert opened(honest).pixels == 8000 * 6200


PIECEMEAL: dict[str, Callable[[int], bytes]] = {
    "comments": traps.gif_of_comments,
    "extensions": traps.gif_of_extensions,
    "chunks": lambda pieces: traps.png_of_chunks(2 * pieces),
    "chunks-behind": lambda pieces: traps.png_of_chunks(2 * pieces, behind=True),
    "segments": traps.jpeg_of_segments,
    "exif": lambda pieces: traps.jpeg_of_exif_pieces(pieces // 3),
    "junk": traps.jpeg_with_junk,
    "runs": lambda pieces: traps.bmp_of_runs(200, pieces // 40),
}


@pytest.mark.parametrize(
    ("name", "pieces"), [("comments", PIECES), *((name, 20_000) for name in PIECEMEAL)]
)
def test_a_file_of_countless_tiny_pieces_is_refused(
    name: str, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "PIECES", pieces)

    with pytest.raises(errors.ImageTooCostly, match="ALEXNET_DECODE_TIMEOUT"):
        seen(PIECEMEAL[name](pieces))


LONG_WORK: dict[str, Callable[[], bytes]] = {
    "16-bit": lambda: traps.png(4000, 3000, depth=16, colour=6, line_filter=4),
    "interlaced": lambda: traps.png(
        3000, 2200, depth=16, colour=6, line_filter=4, interlaced=True, rows=4200
    ),
}


@pytest.mark.parametrize("name", LONG_WORK)
def test_what_takes_longer_than_its_time_is_stopped_on_the_way(
    name: str, clock: Clock, sizes: list[int]
) -> None:
    trap = LONG_WORK[name]()
    clock.pace = 1.0

    with pytest.raises(errors.ImageTooCostly, match="ALEXNET_DECODE_TIMEOUT"):
        seen(trap, decode_timeout=3.5)

    assert sum(size >= image.PIXEL_DATA for size in sizes) > 1
    assert sum(sizes) < len(trap) / 1.5


def test_the_time_that_runs_is_the_threads_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert REAL_CLOCK is time.thread_time
    monkeypatch.setattr(image, "thread_time", REAL_CLOCK)

    with pytest.raises(errors.ImageTooCostly, match="ALEXNET_DECODE_TIMEOUT"):
        opened(traps.png_of_chunks(PIECES // 2), decode_timeout=0.01)


def test_the_time_runs_on_between_opening_and_decoding(clock: Clock) -> None:
    plain = traps.encoded(Image.fromarray(noise(300, 300)), "PNG")
    damaged = traps.chunk(b"iCCP", noise(40, 40).tobytes())[:-4] + bytes(4)
    slow_to_open = plain[:HEADER_END] + damaged * 20 + plain[HEADER_END:]
    clock.pace = 1.0
    image = opened(slow_to_open, decode_timeout=60.0)
    opening = clock.looks
    assert image.decode().shape == (256, 256, 3)
    assert clock.looks < 2 * opening  # so the time would do if it began again

    image = opened(slow_to_open, decode_timeout=opening - 1.0)

    with pytest.raises(errors.ImageTooCostly):
        image.decode()


def test_opening_and_decoding_in_two_threads_count_only_their_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images: list[EncodedImage] = []
    file = traps.encoded(Image.fromarray(noise(300, 300)), "PNG")
    here = threading.current_thread()

    def own_time() -> float:
        return 1000.0 if threading.current_thread() is here else 0.0

    monkeypatch.setattr(image, "thread_time", own_time)
    thread = threading.Thread(target=lambda: images.append(opened(file, decode_timeout=0.5)))
    thread.start()
    thread.join()

    assert images[0].decode().shape == (256, 256, 3)


def test_of_large_images_little_is_read_between_two_looks_at_the_clock(sizes: list[int]) -> None:
    seen(traps.encoded(Image.fromarray(noise(2500, 2000)), "PNG", compress_level=0))

    assert max(sizes) <= 2**14


def test_run_lengths_are_decoded_in_small_bmp_files_only() -> None:
    assert outcome(traps.bmp_of_line_ends(1500, 1100)) == "square"
    with pytest.raises(errors.ImageTooCostly, match="run-length coded BMP"):
        opened(traps.bmp_of_line_ends(4000, 1000))


@pytest.mark.parametrize("international", [False, True])
def test_texts_that_unpack_to_a_thousand_times_their_size_are_not_unpacked(
    international: bool,
) -> None:
    bomb = traps.png_of_texts(80, 2**22, international=international)

    tracemalloc.start()
    try:
        assert outcome(bomb) == "square"
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


# What costs memory.


def exif_in_jpeg(data: bytes) -> bytes:
    """EXIF data that is longer than a segment, in several."""
    pieces = [data[:60_000], *(data[n : n + 60_000] for n in range(60_000, len(data), 60_000))]
    start = traps.EXIF_START
    return traps.inside_jpeg(
        b"".join(
            traps.segment(0xE1, piece if piece.startswith(start) else start + piece)
            for piece in pieces
        )
    )


@pytest.mark.parametrize("into", [traps.png_with_exif, exif_in_jpeg])
def test_exif_entries_that_claim_the_same_megabyte_do_not_multiply_it(
    into: Callable[[bytes], bytes],
) -> None:
    trap = into(traps.exif_that_overlaps(4000, 2**20))
    tracemalloc.start()
    try:
        assert outcome(trap) == "square"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 50 * 2**20


def test_opening_takes_no_memory_for_pixels_not_even_refused_ones() -> None:
    said = in_a_fresh_process("""
bombs = [traps.webp_canvas(14000, 10000), traps.gif_that_restores(12000, 11000)]
bombs.append(traps.png(20000, 20000, rows=1))
may_take(64 * 2**20)
for bomb in bombs:
    try:
        open_image(bomb, **LIMITS)
    except errors.ImageTooLarge as error:
        print(str(error).split(",")[0])
""")

    assert said.splitlines() == [
        "The image is 14000 x 10000 pixels",
        "The image is 12000 x 11000 pixels",
        "The image is 20000 x 20000 pixels",
    ]


def test_an_image_that_does_not_fit_into_the_memory_is_too_large() -> None:
    said = in_a_fresh_process("""
image = traps.png(3000, 3000, depth=8, colour=6)
may_take(16 * 2**20)
try:
    decode(image, **LIMITS)
except errors.ImageTooLarge as error:
    print(error)
""")

    assert "memory" in said


def test_a_large_image_takes_two_copies_at_most() -> None:
    said = in_a_fresh_process("""
decode(traps.png(300, 300, depth=8, colour=6), **LIMITS)
part = traps.encoded(traps.Image.new("P", (2500, 1900), 3), "GIF")
images = {"gif of a part": part[:8] + (2000).to_bytes(2, "little") + part[10:]}
for depth, colour, clear in (8, 6, None), (16, 6, None), (16, 0, None), (16, 0, bytes(2)), \\
        (8, 2, bytes(6)), (16, 2, bytes(6)), (8, 3, b"\\x80\\xff"):
    chunk = b"" if clear is None else traps.chunk(b"tRNS", clear)
    image = traps.png(2500, 2000, depth=depth, colour=colour, before=chunk)
    images[f"png of {depth} bits, colour {colour}, {clear}"] = image
for name, image in images.items():
    if not (child := os.fork()):  # whose memory has not been higher yet
        before = memory()
        decode(image, **LIMITS)
        print(name, (memory() - before) / (2500 * 2000), sep=": ", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
""")

    taken = [float(line.rpartition(": ")[2]) for line in said.splitlines()]
    assert len(taken) == 8
    assert all(bytes_per_pixel < 11 for bytes_per_pixel in taken), said


def test_refusals_that_are_kept_keep_no_pixels() -> None:
    whole = traps.png(1500, 1500, depth=8, colour=6, line_filter=1)
    cut = whole[: len(whole) - 1000]
    kept: list[errors.ImageError] = []
    before = resident()

    for _ in range(20):
        try:
            seen(cut)
        except errors.ImageError as error:
            kept.append(error)

    assert {error.code for error in kept} == {"image_unreadable"}
    assert len(kept) == 20
    assert resident() - before < 60 * 2**20  # of 180 MB


@pytest.mark.external  # a trial of memory
def test_decoding_the_traps_again_and_again_takes_no_memory_for_good() -> None:
    files = [make() for make in traps.SMALL.values()]
    for _ in range(10):
        for file in files:
            outcome(file)
    before = resident()

    for _ in range(40):
        for file in files:
            outcome(file)

    assert resident() - before < 8 * 2**20


# What lies.


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize(
    "file",
    [
        lambda w, h: traps.png(w, h),
        lambda w, h: traps.gif((w, h)),
        lambda w, h: traps.bmp(w, h),
        lambda w, h: traps.jpeg_of_scans(8, 8, 1).replace(
            struct.pack(">BHH", 8, 8, 8), struct.pack(">BHH", 8, h, w)
        ),
        lambda w, h: (
            b"RIFF\x1c\0\0\0WEBPVP8 \x10\0\0\0\x30\1\0\x9d\1\x2a"
            + struct.pack("<HH", w, h)
            + bytes(6)
        ),
    ],
    ids=["png", "gif", "bmp", "jpeg", "webp"],
)
def test_an_image_without_pixels_is_unreadable(file: object, side: str) -> None:
    assert callable(file)
    width, height = (0, 8) if side == "width" else (8, 0)

    assert outcome(file(width, height)) == "image_unreadable"


@pytest.mark.parametrize(
    "trap",
    [
        traps.bmp(500, 500, bytes(999)),
        traps.gif((500, 500)),
        traps.encoded(Image.new("RGB", (64, 64)), "WEBP", lossless=True)[:-4],
    ],
    ids=["bmp", "gif", "webp"],
)
def test_a_header_that_promises_more_than_there_is_makes_no_image(trap: bytes) -> None:
    assert outcome(trap) == "image_unreadable"


def test_the_rows_that_a_png_leaves_out_are_black() -> None:
    square = seen(traps.png(500, 500, depth=8, rows=3))

    assert (square[10:] == 0).all()


def test_a_gif_whose_frame_is_larger_than_its_screen_is_judged_by_the_frame() -> None:
    assert outcome(traps.gif((16, 16), (200, 100)), max_pixels=200 * 100 - 1) == "image_too_large"


def test_a_bmp_from_top_to_bottom_is_read() -> None:
    assert outcome(traps.bmp(2, -2, bytes(8))) == "square"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_wherever_a_file_is_cut_it_is_no_image_or_still_one(kind: str) -> None:
    options = {"progressive": True} if kind == "JPEG" else {}
    whole = traps.encoded(Image.fromarray(noise(8, 6)), kind, **options)

    outcomes = [outcome(whole[:length]) for length in range(1, len(whole))]

    assert "square" not in outcomes[: len(whole) // 2]
    assert set(outcomes) <= {"square", "image_unreadable", "image_type_unsupported"}


def test_truncated_images_stay_refused_in_the_whole_process() -> None:
    outcome(traps.gif((500, 500)))

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3


# What is something else.


@pytest.mark.parametrize(
    "data",
    [
        traps.encoded(Image.new("RGB", (9, 9)), "TIFF"),
        traps.encoded(Image.new("RGB", (16, 16)), "ICO"),
        traps.encoded(Image.new("RGB", (9, 9)), "JPEG2000"),
        traps.encoded(Image.new("RGB", (9, 9)), "PPM"),
        traps.encoded(Image.new("RGB", (9, 9)), "TGA"),
        traps.encoded(Image.new("RGB", (9, 9)), "EPS"),
        traps.encoded(Image.new("RGB", (9, 9)), "PDF"),
        b"8BPS\0\1" + bytes(30),
        b"\0\0\0\x18ftypisom" + bytes(30),
        b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
        b"PK\3\4" + bytes(30),
        b"\x1f\x8b\x08" + bytes(30),
        b"\0\0\1\0" + bytes(30),
        b"\xff\xd8",
        b"GIF88a" + bytes(30),
        b"\x89PNG\n" + bytes(30),
        b"push graphic-context\nfill 'url(https://example.com/)'\n",
    ],
)  # fmt: skip
def test_only_the_formats_of_the_table_are_ever_opened(data: bytes) -> None:
    with pytest.raises(errors.ImageTypeUnsupported):
        opened(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_a_format_that_is_not_taken_is_refused_by_name(kind: str) -> None:
    others = [name for name in FORMAT_NAMES if name != kind.lower()]
    names = ", ".join(row.name for row in FORMATS if row.name != kind and row.readable)
    file = traps.encoded(Image.new("RGB", (9, 9)), kind)

    with pytest.raises(errors.ImageTypeUnsupported, match=f"{kind} is not taken here.*{names}"):
        opened(file, formats=others)
    assert outcome(file, formats=[kind.lower()]) == "square"


@pytest.mark.parametrize("behind", [b"<script>alert(1)</script>", b"PK\3\4" + bytes(99), bytes(9)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_an_image_that_is_another_file_too_is_seen_as_the_image(kind: str, behind: bytes) -> None:
    file = traps.encoded(Image.fromarray(noise(9, 7)), kind)

    np.testing.assert_array_equal(seen(file + behind), seen(file))


# What turns it.


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "bits"), [(1, 8), (3, 16), (4, 32)])
def test_orientation_is_read_as_byte_short_or_long_in_either_byte_order(
    kind: int, bits: int, order: str
) -> None:
    value = 6 if order == "<" else 6 << 32 - bits
    data = traps.exif([(0x010F, 2, 4, 0), (0x0112, kind, 1, value)], order=order)
    meant = seen(traps.encoded(Image.fromarray(noise(9, 7)), "PNG", exif=data))

    plain = Image.fromarray(np.rot90(noise(9, 7), -1))

    assert np.abs(meant.astype(int) - seen(traps.encoded(plain, "PNG"))).max() <= 1


def xmp_in_png(image: bytes) -> bytes:
    """XMP that asks for a turn."""
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6"/>'
    return image[:HEADER_END] + traps.chunk(b"iTXt", xmp) + image[HEADER_END:]


def text_profile_in_png(image: bytes) -> bytes:
    """EXIF data as ImageMagick once wrote it into PNG."""
    exif = traps.exif([(0x0112, 3, 1, 6)])
    profile = b"Raw profile type exif\0\nexif\n%d\n%s" % (len(exif), exif.hex().encode())
    return image[:HEADER_END] + traps.chunk(b"tEXt", profile) + image[HEADER_END:]


def xmp_in_jpeg(image: bytes) -> bytes:
    """XMP that asks for a turn."""
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + b"<tiff:Orientation>3</tiff:Orientation>"
    return image[:2] + traps.segment(0xE1, xmp) + image[2:]


@pytest.mark.parametrize(
    ("kind", "put_into"),
    [("PNG", xmp_in_png), ("PNG", text_profile_in_png), ("JPEG", xmp_in_jpeg)],
)
def test_orientation_in_xmp_or_in_text_turns_nothing(
    kind: str, put_into: Callable[[bytes], bytes]
) -> None:
    image = traps.encoded(Image.fromarray(noise(9, 7)), kind)

    np.testing.assert_array_equal(seen(put_into(image)), seen(image))


@pytest.mark.parametrize(
    "data",
    [
        traps.EXIF_START,
        traps.EXIF_START + b"II*\0",
        traps.EXIF_START + b"II*\0\x08\0\0\0\xff\xff",
        traps.EXIF_START + b"II*\0\x00\0\0\0" + bytes(9),  # a directory that is its own header
        traps.EXIF_START + b"II*\0\xff\xff\xff\xff",
        traps.EXIF_START + b"MM\0+" + bytes(40),
        traps.exif([(0x0112, 3, 1, 99)]),
        traps.exif([(0x0112, 2, 1, 6)]),
        traps.exif([]),
    ],
)
def test_broken_exif_data_turns_nothing(data: bytes) -> None:
    pixels = noise(9, 7)

    with_exif = seen(traps.encoded(Image.fromarray(pixels), "PNG", exif=data))

    np.testing.assert_array_equal(with_exif, seen(traps.encoded(Image.fromarray(pixels), "PNG")))


# Large images go to RGB in strips.


TRANSPARENCY: dict[str, dict[str, object]] = {
    "P": {"transparency": b"\x00\x80"},
    "RGB": {"transparency": (1, 2, 3)},
}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_strips_join_without_a_seam(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    if mode == "I;16":
        ramp = np.arange(900 * 701, dtype=np.uint32).reshape(701, 900) % 65536
        meant = Image.fromarray(ramp.astype(np.uint16))
    else:
        meant = Image.fromarray(noise(900, 701, 4), "RGBA").convert(
            "RGB" if mode in ("1", "P", "RGB") else mode
        )
        meant = meant.convert(mode)
    file = traps.encoded(meant, "PNG", compress_level=1, **TRANSPARENCY.get(mode, {}))
    whole = seen(file)

    monkeypatch.setattr(image, "BAND", 4321)

    np.testing.assert_array_equal(seen(file), whole)


def test_inks_in_strips_are_the_inks_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    file = traps.encoded(Image.fromarray(noise(900, 701, 4), "CMYK"), "JPEG")
    whole = seen(file)

    monkeypatch.setattr(image, "BAND", 4321)

    np.testing.assert_array_equal(seen(file), whole)


def test_a_webp_is_read_up_to_the_size_that_there_is_time_for() -> None:
    large = traps.webp_of(2500, 2000, method=0)

    assert outcome(large) == "square"
    with pytest.raises(errors.ImageTooCostly, match="WebP file"):
        opened(large, decode_timeout=0.3)


# What an image costs, before it is decoded.


def test_an_images_cost_is_its_pixels() -> None:
    assert opened(traps.png(300, 200)).pixels == 300 * 200


@pytest.mark.parametrize(("progressive", "pixels"), [(False, 1024 * 768), (True, 2048 * 1536)])
def test_a_draft_costs_its_own_pixels_unless_the_scans_keep_all(
    progressive: bool, pixels: int
) -> None:
    photograph = Image.new("RGB", (2048, 1536))
    file = traps.encoded(photograph, "JPEG", progressive=progressive)

    assert opened(file, scaled_decoding=True).pixels == pixels
    assert opened(file).pixels == 2048 * 1536


# Files of others.


def suite_of(package: str) -> list[Path]:
    """The images that an installed package ships."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = (file for folder in folders for file in Path(folder).rglob("*"))
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES)


@pytest.mark.parametrize("package", ["matplotlib", "networkx", "sympy"])
def test_images_of_other_projects_give_a_square_or_a_refusal(package: str) -> None:
    files = suite_of(package)
    if not files:
        pytest.skip(f"{package} ships no images here")

    outcomes = {file: outcome(file.read_bytes()) for file in files}

    for file, result in outcomes.items():
        if file.suffix in (".png", ".jpg", ".gif"):
            assert result in ("square", "image_too_elongated"), file.name
        else:
            assert result == "image_type_unsupported", file.name


# Mutations of honest files.


HONEST = [
    traps.encoded(Image.fromarray(noise(40, 30)), kind, **options)
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "quality": 30}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
    )
] + [make() for make in traps.SMALL.values()]


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the right checksums again, as far as they can be told apart."""
    out, place = data[:8], 8
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if place + 8 + length > len(data):
            break
        out += traps.chunk(data[place + 4 : place + 8], data[place + 8 : place + 8 + length])
        place += 12 + length
    return out + data[place:]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An honest file with some bytes changed, cut, doubled, or taken from another."""
    data = bytearray(draw(st.sampled_from(HONEST)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 64))
        match draw(st.sampled_from(["flip", "size", "cut", "double", "splice"])):
            case "flip":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "size":
                number = draw(st.sampled_from([0, 1, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1]))
                order = draw(st.sampled_from(["<", ">"]))
                data[place : place + 4] = struct.pack(f"{order}I", number)
            case "cut":
                del data[place : place + length]
            case "double":
                data[place:place] = data[place : place + length]
            case "splice":
                other = draw(st.sampled_from(HONEST))
                start = draw(st.integers(0, len(other)))
                data[place:place] = other[start : start + length]
    if data.startswith(traps.PNG_START) and draw(st.booleans()):
        return with_checksums(bytes(data))
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(mutated(), st.booleans())
def test_a_mutated_file_gives_a_square_or_a_refusal(data: bytes, scaled: bool) -> None:
    began = time.thread_time()

    with patch.object(image, "thread_time", REAL_CLOCK):
        outcome(data, scaled_decoding=scaled, decode_timeout=0.1)

    assert time.thread_time() - began < 4  # generous: the clock is looked at between reads


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([b"\xff\xd8\xff", b"GIF89a", b"BM", traps.PNG_START]), st.binary())
def test_anything_behind_a_signature_gives_a_square_or_a_refusal(start: bytes, rest: bytes) -> None:
    outcome(start + rest)


def test_the_image_libraries_own_reader_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("Image.open was called")

    monkeypatch.setattr(Image, "open", never)

    for name, make in traps.SMALL.items():
        if name != "jpeg-mpo":
            assert outcome(make())
