"""PNG files: what lies beside the pixels refuses none of them, and what counts of it counts."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from service import errors
from service.inference.image import decode
from service.inference.limits import PROFILE_BYTES, DecodeLimits
from service.inference.png import Png
from tests.support import traps

Pixels = NDArray[np.uint8]
HEADER_END = 8 + 25  # of the signature and the first chunk
LIMITS = DecodeLimits(decode_timeout=600.0, colour_profiles=False)


def seen(data: bytes) -> Pixels:
    """The square, however long it takes, without colour profiles."""
    return decode(data, LIMITS)


def noise(width: int = 61, height: int = 53, channels: int = 3) -> Pixels:
    """Random pixels."""
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8)


def png(
    samples: NDArray[np.integer], *, depth: int, colour: int, before: bytes = b"", idat: int = 999
) -> bytes:
    """Samples (rows, columns, channels) of `depth` bits as a PNG, its pixels in several chunks."""
    height, width = samples.shape[:2]
    flat = samples.reshape(height, -1)
    if depth == 16:
        rows = flat.astype(">u2").tobytes()
    elif depth == 8:
        rows = flat.astype(np.uint8).tobytes()
    else:
        bits = (flat[..., None] >> np.arange(depth)[::-1]) & 1
        rows = np.packbits(bits.reshape(height, -1), axis=1).tobytes()
    length = len(rows) // height
    filtered = b"".join(b"\0" + rows[n : n + length] for n in range(0, len(rows), length))
    packed = zlib.compress(filtered)
    pixels = [packed[n : n + idat] for n in range(0, len(packed), idat)]
    return (
        traps.PNG_START
        + traps.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + before
        + b"".join(traps.chunk(b"IDAT", piece) for piece in pixels)
        + traps.chunk(b"IEND", b"")
    )


def damaged(kind: bytes, body: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return traps.chunk(kind, body)[:-4] + b"\1\2\3\4"


PLAIN = png(noise(), depth=8, colour=2)
PROFILE = zlib.compress(bytes(500))
MALFORMED = {
    "text with a wrong checksum": damaged(b"tEXt", b"Comment\0nothing"),
    "a private chunk with a wrong checksum": damaged(b"prVt", b"x"),
    "a megabyte of packed text": traps.chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**24))),
    "a hundred megabytes of texts": b"".join(
        traps.chunk(b"iTXt", b"%d\0\1\0\0\0" % n + zlib.compress(bytes(2**20))) for n in range(99)
    ),
    "text packed in an unknown way": traps.chunk(b"zTXt", b"k\0\7abc"),
    "an empty gamma": traps.chunk(b"gAMA", b""),
    "short chromaticities": traps.chunk(b"cHRM", bytes(9)),
    "an empty sRGB": traps.chunk(b"sRGB", b""),
    "a short size of pixels": traps.chunk(b"pHYs", b"\0"),
    "a profile packed in an unknown way": traps.chunk(b"iCCP", b"p\0\1" + PROFILE),
    "a profile that is not packed": traps.chunk(b"iCCP", b"p\0\0nothing"),
    "a profile that is cut": traps.chunk(b"iCCP", b"p\0\0" + PROFILE[:9]),
    "a profile with a wrong checksum": damaged(b"iCCP", b"p\0\0" + PROFILE),
    "a profile without a name": traps.chunk(b"iCCP", b"\0\0" + PROFILE),
    "a profile of nothing": traps.chunk(b"iCCP", b""),
    "a profile that is too large": traps.chunk(
        b"iCCP", b"p\0\0" + zlib.compress(bytes(PROFILE_BYTES + 1))
    ),
    "a transparent colour that is too short": traps.chunk(b"tRNS", b"\0"),
    "a transparent colour that is too long": traps.chunk(b"tRNS", bytes(8)),
    "a transparent colour with a wrong checksum": damaged(b"tRNS", bytes(6)),
    "a film without frames": traps.chunk(b"acTL", b""),
    "a frame outside": traps.chunk(b"acTL", bytes([0, 0, 0, 2, 0, 0, 0, 0]))
    + traps.chunk(b"fcTL", struct.pack(">5I2H2B", 0, 9999, 9999, 0, 0, 1, 1, 0, 0)),
    "frames in no order": traps.chunk(b"fcTL", struct.pack(">5I2H2B", 7, 1, 1, 0, 0, 1, 1, 0, 0)),
    "a turn with a wrong checksum": damaged(
        b"eXIf", traps.exif([(0x0112, 3, 1, 6)]).removeprefix(traps.EXIF_START)
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_chunk_beside_the_pixels_changes_nothing(name: str) -> None:
    chunks = MALFORMED[name]
    pixels = PLAIN.index(b"IDAT") - 4
    end = PLAIN.index(b"IEND") - 4
    second = PLAIN.index(b"IDAT", pixels + 8) - 4

    for place in (HEADER_END, second, end):
        file = PLAIN[:place] + chunks + PLAIN[place:]
        np.testing.assert_array_equal(seen(file), seen(PLAIN))


def test_text_that_a_file_ends_in_changes_nothing() -> None:
    end = PLAIN.index(b"IEND") - 4
    text = traps.chunk(b"tEXt", b"Comment\0" + bytes(999))

    np.testing.assert_array_equal(seen(PLAIN[:end] + text[:100]), seen(PLAIN))


@pytest.mark.parametrize("chunk", [b"PLTE", b"IHDR", b"ABCD"])
def test_critical_chunks_stay_strict(chunk: bytes) -> None:
    file = PLAIN[:HEADER_END] + damaged(chunk, bytes(6)) + PLAIN[HEADER_END:]

    with pytest.raises(errors.ImageUnreadable):
        seen(file)


def test_of_an_animated_png_the_image_is_seen_that_it_is_without_animation() -> None:
    first, second = (Image.fromarray(noise(40, 30, 3) // n) for n in (1, 2))
    frames = traps.encoded(first, "PNG", save_all=True, append_images=[second])
    hidden = traps.encoded(
        first, "PNG", save_all=True, append_images=[second, second], default_image=True
    )

    for file in (frames, hidden):
        np.testing.assert_array_equal(seen(file), seen(traps.encoded(first, "PNG")))


def test_nothing_of_a_png_is_copied_to_leave_its_texts_out() -> None:
    data = PLAIN[:HEADER_END] + traps.chunk(b"tEXt", bytes(99)) + PLAIN[HEADER_END:]
    file = BytesIO(data)

    Png(file).load()

    assert file.getvalue() is data


# Transparency.


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_clear_grey_of_a_png_lies_over_white(depth: int) -> None:
    clear = 2**depth // 2 - 1
    levels = np.full((256, 256, 1), clear)
    levels[:, 128:] = clear + 1
    chunk = traps.chunk(b"tRNS", struct.pack(">H", clear))

    square = seen(png(levels, depth=depth, colour=0, before=chunk))

    plain = seen(png(levels, depth=depth, colour=0))
    assert (square[:, :128] == 255).all()
    np.testing.assert_array_equal(square[:, 128:], plain[:, 128:])
    assert (plain[:, :128] != 255).all()


def test_bits_of_a_clear_grey_above_its_depth_do_not_count() -> None:
    levels = np.full((256, 256, 1), 2)

    square = seen(png(levels, depth=2, colour=0, before=traps.chunk(b"tRNS", b"\xff\xfe")))

    assert (square == 255).all()


@pytest.mark.parametrize("colour", [0, 2])
def test_of_16_bits_all_count_for_what_is_clear(colour: int) -> None:
    channels = 1 if colour == 0 else 3
    samples = np.full((256, 256, channels), 0x1234)
    samples[:, 128:] = 0x1235  # the same upper byte
    clear = struct.pack(">H", 0x1234) * channels

    square = seen(png(samples, depth=16, colour=colour, before=traps.chunk(b"tRNS", clear)))

    assert (square[:, :128] == 255).all()
    assert (square[:, 128:] == 0x12).all()


def test_a_clear_16_bit_colour_is_clear_where_all_channels_agree() -> None:
    samples = np.random.default_rng(0).integers(0, 4, (256, 256, 3)) * 0x0101
    clear = (samples == (0x0101, 0x0202, 0x0303)).all(-1)
    chunk = traps.chunk(b"tRNS", struct.pack(">HHH", 0x0101, 0x0202, 0x0303))

    square = seen(png(samples, depth=16, colour=2, before=chunk))

    assert clear.any()
    np.testing.assert_array_equal((square == 255).all(-1), clear)
    np.testing.assert_array_equal(square[~clear], (samples >> 8)[~clear])


def test_a_clear_colour_of_another_length_or_place_is_none() -> None:
    palette = traps.chunk(b"PLTE", bytes(range(6)))
    indices = np.random.default_rng(0).integers(0, 2, (256, 256, 1))
    plain = png(indices, depth=8, colour=3, before=palette)
    place = plain.index(b"IDAT") - 4

    for chunk in (traps.chunk(b"tRNS", bytes(3)), traps.chunk(b"tRNS", b"")):
        np.testing.assert_array_equal(seen(plain[:place] + chunk + plain[place:]), seen(plain))
    early = png(indices, depth=8, colour=3, before=traps.chunk(b"tRNS", b"\0") + palette)
    np.testing.assert_array_equal(seen(early), seen(plain))
    clear = traps.chunk(b"tRNS", b"\0")
    white = seen(plain[:place] + clear + plain[place:])
    np.testing.assert_array_equal((white == 255).all(-1), indices[..., 0] == 0)


def test_of_two_clear_colours_the_first_counts() -> None:
    samples = np.zeros((256, 256, 3), np.uint8)
    first, second = (traps.chunk(b"tRNS", bytes([0, n] * 3)) for n in (0, 9))

    assert (seen(png(samples, depth=8, colour=2, before=first + second)) == 255).all()
    assert (seen(png(samples, depth=8, colour=2, before=second + first)) == 0).all()


@pytest.mark.parametrize("behind", [False, True])
def test_a_turn_counts_before_the_pixels_and_behind_them(behind: bool) -> None:
    exif = traps.exif([(0x0112, 3, 1, 3)]).removeprefix(traps.EXIF_START)
    place = PLAIN.index(b"IEND") - 4 if behind else HEADER_END
    turned = PLAIN[:place] + traps.chunk(b"eXIf", exif) + PLAIN[place:]

    plain = png(noise()[::-1, ::-1], depth=8, colour=2)

    assert np.abs(seen(turned).astype(int) - seen(plain)).max() <= 1


def test_a_profile_that_is_well_formed_is_found() -> None:
    chunk = traps.chunk(b"iCCP", b"p\0\0" + PROFILE)
    file = PLAIN[:HEADER_END] + chunk + PLAIN[HEADER_END:]

    assert Png(BytesIO(file)).info["icc_profile"] == bytes(500)


def test_pillow_has_not_learned_what_is_done_here() -> None:
    texts = PLAIN[:HEADER_END] + MALFORMED["a megabyte of packed text"] + PLAIN[HEADER_END:]

    with pytest.raises(ValueError, match="too large"):
        PngImagePlugin.PngImageFile(BytesIO(texts))
