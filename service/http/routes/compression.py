"""
Content-Encoding and Accept-Encoding: gzip, deflate, br and zstd.

A few kilobytes may unpack to gigabytes: a body is unpacked in steps, and no further than a body
may be large.  The libraries work without Python's lock, so they work in a thread, beside all
else.
"""

import asyncio
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from service.errors import BodyTooLarge, MediaTypeUnsupported, RequestMalformed

# As zlib counts its window: 15 bits; with 16 more, in the wrapping of gzip.  "deflate" is zlib's
# own wrapping (RFC 9110, section 8.4.1.2); some senders leave that away, for which it counts from
# -15.
WINDOWS: Final = {"gzip": 31, "deflate": 15}
BARE: Final = -15
DEFLATED: Final = 8  # the low half of the first byte of zlib's wrapping, but not of bare data
ZSTD_WINDOW: Final = 23  # bits, so 8 MiB of memory; no sender may ask for more (RFC 9659)
STEP: Final = 2**18  # bytes unpacked at a time; brotli may go to twice as many
MOST_CODINGS: Final = 5  # one over the other; curl undoes as many
# Members of gzip or frames of zstd; each costs some microseconds, however short it is.  bgzip, with
# the shortest ones that are usual, writes one for each 64 KiB.
MOST_MEMBERS: Final = 10_000
GZIP: Final = 0x1F  # the first byte of each member
ZSTD: Final = 0x28  # that of each frame
ZSTD_SKIPPED: Final = 0x5  # its high half, of frames that hold no data
WORTH: Final = 1024  # bytes from which on an answer is packed
LEVEL: Final = 1  # probabilities hardly shrink: 10% at any level

DAMAGED: Final = (zlib.error, brotli.error, zstd.ZstdError)  # what the libraries raise

Chunks = AsyncGenerator[bytes, None]


class Unpacker(Protocol):
    """One coding, undone bit by bit."""

    @property
    def complete(self) -> bool:
        """Whether the data may end here."""

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """What these bytes unpack to, a step at a time; raises one of `DAMAGED`."""


class Zlib:
    """gzip, of one member or several (RFC 1952, section 2.2), or deflate."""

    def __init__(self, coding: str) -> None:
        self._window = WINDOWS[coding]
        self._may_have_several = coding == "gzip"
        self._members = 0
        self._member: zlib._Decompress | None = None

    @property
    def complete(self) -> bool:
        return self._member is not None and self._member.eof

    def unpack(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member is None or self._member.eof:
                self._member = self._begun(data)
            yield self._member.decompress(data, STEP)
            data = self._member.unconsumed_tail or self._member.unused_data

    def _begun(self, data: bytes) -> "zlib._Decompress":
        if self._members and (data[0] != GZIP or not self._may_have_several):
            raise zlib.error("it goes on after the end")
        if self._members == MOST_MEMBERS:
            raise zlib.error("it has too many members")
        self._members += 1
        bare = self._window == WINDOWS["deflate"] and data[0] % 16 != DEFLATED
        return zlib.decompressobj(BARE if bare else self._window)


class Brotli:
    """br (RFC 7932)."""

    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    @property
    def complete(self) -> bool:
        return bool(self._decoder.is_finished())

    def unpack(self, data: bytes) -> Iterator[bytes]:
        while (
            piece := self._decoder.process(data, output_buffer_limit=STEP)
        ) or not self._decoder.can_accept_more_data():
            yield piece
            data = b""  # what is left over comes without more of it


class Zstd:
    """zstd, of one frame or several (RFC 8878)."""

    def __init__(self) -> None:
        self._frames = 0
        self._frame = self._begun()

    @property
    def complete(self) -> bool:
        return self._frame.eof

    def unpack(self, data: bytes) -> Iterator[bytes]:
        while data or not (self._frame.eof or self._frame.needs_input):
            if self._frame.eof:
                if data[0] != ZSTD and data[0] >> 4 != ZSTD_SKIPPED:
                    raise zstd.ZstdError("it goes on after the end")
                self._frame = self._begun()
            yield self._frame.decompress(data, STEP)
            data = self._frame.unused_data

    def _begun(self) -> "zstd.ZstdDecompressor":
        if self._frames == MOST_MEMBERS:
            raise zstd.ZstdError("it has too many frames")
        self._frames += 1
        limit: dict[int, int] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW}
        return zstd.ZstdDecompressor(options=limit)


UNPACKERS: Final[Mapping[str, Callable[[], Unpacker]]] = {
    "gzip": lambda: Zlib("gzip"),
    "deflate": lambda: Zlib("deflate"),
    "br": Brotli,
    "zstd": Zstd,
}
OFFERED: Final = ", ".join(UNPACKERS)
SAME: Final = {"x-gzip": "gzip"}  # RFC 9110, section 8.4.1.3


def codings(fields: Sequence[str]) -> list[str]:
    """
    The codings that a request's Content-Encoding fields name, in the order they were applied.

    Raises `MediaTypeUnsupported` for one that is not undone here, or for more than `MOST_CODINGS`.
    """
    named = [name.strip().lower() for field in fields for name in field.split(",")]
    applied = [SAME.get(name, name) for name in named if name not in ("", "identity")]
    for coding in applied:
        if coding not in UNPACKERS:
            raise MediaTypeUnsupported(
                f"Content-Encoding {coding[:64]} is not taken here; send the body packed by one of "
                f"{OFFERED}, or as it is",
                accept_encoding=OFFERED,
            )
    if len(applied) > MOST_CODINGS:
        raise MediaTypeUnsupported(
            f"the Content-Encoding names {len(applied)} codings, and {MOST_CODINGS} are the most; "
            "pack the body once",
            accept_encoding=OFFERED,
        )
    return applied


def unpacked(
    chunks: Chunks, applied: Sequence[str], most: int, hold: Callable[[int], None]
) -> Chunks:
    """A body's chunks before these `codings`, up to `most` bytes after each, told to `hold`."""
    for coding in reversed(applied):
        chunks = _unpacked(chunks, coding, most, hold)
    return chunks


async def _unpacked(chunks: Chunks, coding: str, most: int, hold: Callable[[int], None]) -> Chunks:
    unpacker = UNPACKERS[coding]()
    size = 0
    async for chunk in chunks:
        if not chunk:
            continue
        hold(-len(chunk))  # what they unpack to is counted in their place
        pieces = unpacker.unpack(chunk)
        while (piece := await _next(pieces, coding)) is not None:
            size += len(piece)
            if size > most:
                raise BodyTooLarge(
                    f"the body is larger than {most} bytes once it is unpacked; send less at a "
                    "time, or raise ALEXNET_MAX_BODY on the server"
                )
            hold(len(piece))
            yield piece
    if not unpacker.complete:
        raise RequestMalformed(f"the body's {coding} data is cut short; send all of it")


async def _next(pieces: Iterator[bytes], coding: str) -> bytes | None:
    """The next piece that is not empty, or None at the end."""
    try:
        return await asyncio.to_thread(lambda: next(filter(None, pieces), None))
    except DAMAGED as error:
        raise RequestMalformed(
            f"the body is not {coding}, or not to its end, as its Content-Encoding says ({error}); "
            "send it packed so, or without that header"
        ) from error


def wanted(accept_encoding: str) -> str | None:
    """The first of gzip and deflate that a client names and does not rule out."""
    for offer in accept_encoding.lower().split(","):
        name, _, weight = (part.strip() for part in offer.partition(";"))
        if name in WINDOWS and not _is_nothing(weight):
            return name
    return None


def _is_nothing(weight: str) -> bool:
    return weight.replace(" ", "") in ("q=0", "q=0.", "q=0.0", "q=0.00", "q=0.000")


async def packed(body: bytes, encoding: str) -> bytes:
    """An answer's body in that encoding."""
    return await asyncio.to_thread(zlib.compress, body, LEVEL, WINDOWS[encoding])
