"""
Fuzz `service.inference.image.decode` with arbitrary bytes.  They give a square or an `ImageError`,
soon.

`--seeds=WORD` takes only the seeds whose names begin so: avif, heic, icc (colour profiles).
Inputs whose length is a multiple of 64 meet the default limits, the others small ones, which
are faster to reach.  The mutator corrects PNG checksums, or no mutation would get past them.
"""

import random
import struct
import sys
import warnings
import zlib
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "pillow_heif", "service.inference"]):
    from service.inference.image import decode
    from service.inference.limits import DecodeLimits

from service.errors import BodyEmpty, ImageError
from tests.support import traps

from . import harness

ROOT = Path(__file__).parents[1]
PNG = b"\x89PNG\r\n\x1a\n"
SEEDS = {name: make() for name, make in traps.SMALL.items()}


def rule(data: bytes) -> None:
    """Pixels, or one of the service's errors."""
    usual = len(data) % 64 == 0
    try:
        square = decode(
            data,
            DecodeLimits(
                max_pixels=50_000_000 if usual else 4_000_000,
                scaled_decoding=len(data) % 16 < 8,
            ),
        )
    except (ImageError, BodyEmpty):
        return
    if square.shape != (256, 256, 3) or square.dtype != "uint8":
        raise harness.RuleBroken(f"not a square of RGB: {square.shape} {square.dtype}")


def corrected(data: bytes) -> bytes:
    """A PNG with the right checksum behind each chunk."""
    out, place = [data[:8]], 8
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end > len(data):
            break
        out += [data[place:end], struct.pack(">I", zlib.crc32(data[place + 4 : end]))]
        place = end + 4
    return b"".join([*out, data[place:]])


def repacked(data: bytes, chance: random.Random) -> bytes:
    """A PNG whose pixels or colour profile are mutated before they are compressed."""
    kind = b"iCCP" if b"iCCP" in data and chance.random() < 0.5 else b"IDAT"
    place = data.find(kind)
    if place < 4:
        return data
    (length,) = struct.unpack_from(">I", data, place - 4)
    start = place + 4 + (data[place + 4 :].find(b"\0") + 2 if kind == b"iCCP" else 0)
    end = place + 4 + length
    unpack = zlib.decompressobj()
    try:
        content = unpack.decompress(data[start:end], 2**16)
    except zlib.error:
        return data
    body = data[place + 4 : start]
    body += zlib.compress(atheris.Mutate(content, len(content) + chance.randrange(64)), 1)
    return data[: place - 4] + struct.pack(">I", len(body)) + kind + body + data[end:]


def mutate(data: bytes, limit: int, seed: int) -> bytes:
    """Mutate, sometimes splice in a piece of another seed, then fix what hides the rest."""
    chance = random.Random(seed)
    if data.startswith(PNG) and chance.random() < 0.2:
        data = repacked(data, chance)
    else:
        data = atheris.Mutate(data, limit)
    if chance.random() < 0.1:
        other = chance.choice(list(SEEDS.values()))
        start = chance.randrange(len(other))
        piece = other[start : start + chance.randrange(1, 64)]
        place = chance.randrange(len(data) + 1)
        data = data[:place] + piece + data[place:]
    if data.startswith(PNG) and chance.random() < 0.9:
        data = corrected(data)
    if data.startswith(b"RIFF") and len(data) > 12 and chance.random() < 0.8:
        data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    return data[:limit]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    images = (ROOT / "tests" / "pictures").rglob("*.*")
    files = {file.name: file.read_bytes() for file in images if file.suffix != ".md"}
    options = [argument for argument in sys.argv if argument.startswith("--seeds=")]
    seeds = SEEDS | files
    for option in options:
        sys.argv.remove(option)
        word = option.partition("=")[2]
        seeds = {name: seed for name, seed in SEEDS.items() if name.startswith(word)}
    harness.main(rule, seeds, mutate)
