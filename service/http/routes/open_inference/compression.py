"""
Content-Encoding and Accept-Encoding: gzip and deflate, which the protocol's clients may use.

A few kilobytes may unpack to gigabytes: a body is unpacked in steps, and no further than a body
may be large.  zlib works without Python's lock, so it works in a thread, beside everybody else.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable
from typing import Final

from service.errors import BodyTooLarge, MediaTypeUnsupported, RequestMalformed

# As zlib counts its window: 15 bits; with 16 more, in the wrapping of gzip.  "deflate" is zlib's
# own wrapping (RFC 9110, section 8.4.1.2).
WINDOWS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
MAGIC: Final = b"\x1f\x8b"  # of gzip, which may have several members (RFC 1952, section 2.2)
STEP: Final = 2**18  # bytes unpacked at a time
WORTH: Final = 1024  # bytes from which on an answer is packed
LEVEL: Final = 1  # probabilities hardly shrink: 10% at any level


async def unpacked(
    chunks: AsyncGenerator[bytes, None], encoding: str, most: int, hold: Callable[[int], None]
) -> AsyncGenerator[bytes, None]:
    """A body's chunks as they were before `encoding`, up to `most` bytes, each told to `hold`."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        async for chunk in chunks:
            yield chunk
        return
    if encoding not in WINDOWS:
        raise MediaTypeUnsupported(
            f"Content-Encoding {encoding[:64]} is not taken here; send gzip, deflate, or the body "
            "as it is"
        )
    unpacker = zlib.decompressobj(WINDOWS[encoding])
    size = 0
    async for chunk in chunks:
        while chunk:
            piece = await _unpack(unpacker, chunk, encoding)
            size += len(piece)
            if size > most:
                raise BodyTooLarge(
                    f"the body is larger than {most} bytes once it is unpacked; send less at a "
                    "time, or raise ALEXNET_MAX_BODY on the server"
                )
            # The packed bytes that it came from were counted too, and are let go.
            left = len(unpacker.unconsumed_tail) + len(unpacker.unused_data)
            hold(len(piece) - len(chunk) + left)
            yield piece
            chunk = unpacker.unconsumed_tail or unpacker.unused_data
            if unpacker.eof and chunk:
                if not chunk.startswith(MAGIC):
                    raise RequestMalformed(f"the body goes on after the end of its {encoding} data")
                unpacker = zlib.decompressobj(WINDOWS[encoding])
    if not unpacker.eof:
        raise RequestMalformed(f"the body's {encoding} data is cut short; send all of it")


async def _unpack(unpacker: "zlib._Decompress", chunk: bytes, encoding: str) -> bytes:
    try:
        return await asyncio.to_thread(unpacker.decompress, chunk, STEP)
    except zlib.error as error:
        raise RequestMalformed(
            f"the body is not {encoding}, as its Content-Encoding says ({error})"
        ) from error


def wanted(accept_encoding: str) -> str | None:
    """The first of gzip and deflate that a client names and does not rule out."""
    for offer in accept_encoding.lower().split(","):
        name, _, weight = (part.strip() for part in offer.partition(";"))
        if name in ("gzip", "deflate") and not _is_nothing(weight):
            return name
    return None


def _is_nothing(weight: str) -> bool:
    return weight.replace(" ", "") in ("q=0", "q=0.", "q=0.0", "q=0.00", "q=0.000")


async def packed(body: bytes, encoding: str) -> bytes:
    """An answer's body in that encoding."""
    return await asyncio.to_thread(zlib.compress, body, LEVEL, WINDOWS[encoding])
