"""
PNG files, read by Pillow.  It sees nothing of what lies beside the pixels.

Pillow refuses a whole image for a wrong checksum in a comment, or for text that unpacks to more
than a megabyte.  So ancillary chunks never reach it.  Three of them say how the pixels look and
are read here: tRNS, iCCP and eXIf, the first well-formed one of each that stands where it may.
Critical chunks are as strict as Pillow has them.
"""

import struct
import zlib
from typing import IO, Any, Final, NamedTuple, cast

from PIL import ImageChops, PngImagePlugin

from service.inference.limits import PROFILE_BYTES

SIGNATURE: Final = 8  # bytes
HEAD: Final = struct.Struct(">I4s")  # of a chunk: its length and its type
CRC: Final = 4  # bytes behind a chunk
ANCILLARY: Final = 0x20  # the bit of a type's first byte that makes it a small letter
PROFILE_NAME: Final = 79  # bytes, at most
GREY, RGB, PALETTE = 0, 2, 3  # colour types


class _Header(NamedTuple):
    depth: int  # bits a channel
    colour: int
    colours: int  # in the palette


class _Beside(NamedTuple):
    """What lies beside the pixels."""

    skips: dict[int, int]  # where ancillary chunks begin -> where the next critical one does
    header: _Header
    chunks: dict[bytes, bytes]  # those that count


class _Critical:
    """The file without its ancillary chunks: a read that would begin at one begins behind it."""

    def __init__(self, file: IO[bytes], skips: dict[int, int]) -> None:
        self._file, self._skips = file, skips
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1, /) -> bytes:
        if (behind := self._skips.get(self.tell())) is not None:
            self.seek(behind)
        return self._file.read(size)


class Png(PngImagePlugin.PngImageFile):
    """Pillow's reader, given the critical chunks only."""

    _clear: tuple[int, ...] | None = None  # the transparent colour, 16 bits a channel

    def _open(self) -> None:
        assert self.fp is not None
        beside = _beside(self.fp)
        self.fp.seek(0)
        self.fp = cast("IO[bytes]", _Critical(self.fp, beside.skips))
        super()._open()
        if exif := beside.chunks.get(b"eXIf"):
            self.info["exif"] = exif
        if profile := beside.chunks.get(b"iCCP"):
            self.info["icc_profile"] = profile
        if clear := beside.chunks.get(b"tRNS"):
            self._set_transparency(clear, beside.header)

    def _set_transparency(self, clear: bytes, header: _Header) -> None:
        """As Pillow has it in `info`, but in the range of its own pixels."""
        if header.colour == PALETTE:
            self.info["transparency"] = clear
            return
        most = 2**header.depth - 1
        values = tuple(value & most for (value,) in struct.iter_unpack(">H", clear))
        if header.colour == RGB and header.depth == 16:
            self._clear = values
        elif header.colour == RGB:
            self.info["transparency"] = values
        else:
            # Pillow widens what has less than 8 bits.
            self.info["transparency"] = values[0] * 255 // most if most < 256 else values[0]

    def load(self) -> Any:
        if self._clear is not None:
            clear, self._clear = self._clear, None
            self._load_with_clear(clear)
        return super().load()

    def _load_with_clear(self, clear: tuple[int, ...]) -> None:
        """16-bit RGB, of which Pillow keeps the upper 8 bits: the lower ones are read first."""
        assert self.fp is not None
        self.fp.seek(0)
        lower = PngImagePlugin.PngImageFile(self.fp)
        lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
        lower.decodermaxblock = self.decodermaxblock
        lower.info["transparency"] = tuple(value & 0xFF for value in clear)
        opaque = lower.convert("RGBA").getchannel("A")
        del lower
        super().load()
        self.info["transparency"] = tuple(value >> 8 for value in clear)
        opaque = ImageChops.lighter(opaque, self.convert("RGBA").getchannel("A"))
        del self.info["transparency"]
        self.putalpha(opaque)


def _beside(file: IO[bytes]) -> _Beside:
    """Walk over the chunks of a PNG; a broken one ends it, for Pillow to judge."""
    size = file.seek(0, 2)
    skips: dict[int, int] = {}
    chunks: dict[bytes, bytes] = {}
    header = _Header(0, 0, 0)
    began = behind = -1  # of ancillary chunks, one after the other
    in_pixels = False
    place = file.seek(SIGNATURE)
    while len(head := file.read(HEAD.size)) == HEAD.size:
        length, kind = HEAD.unpack(head)
        end = place + HEAD.size + length + CRC
        if kind == b"IEND" or not kind.isalpha():
            break
        if kind[0] & ANCILLARY:
            if place != behind:
                began = place
            behind = skips[began] = end
            if kind in READ and kind not in chunks and (kind == b"eXIf" or not in_pixels):
                body = _checked(file, kind, length)
                if body is not None and (read := READ[kind](body, header)) is not None:
                    chunks[kind] = read
        elif kind == b"IHDR" and length >= 13:
            depth, colour = struct.unpack_from(">8xBB", file.read(10))
            header = header._replace(depth=depth, colour=colour)
        elif kind == b"PLTE":
            header = header._replace(colours=length // 3)
        in_pixels = in_pixels or kind == b"IDAT"
        if end >= size:
            break
        place = file.seek(end)
    return _Beside(skips, header, chunks)


def _checked(file: IO[bytes], kind: bytes, length: int) -> bytes | None:
    """A chunk's body, if its checksum is right."""
    body, crc = file.read(length), file.read(CRC)
    right = len(body) == length and crc == struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
    return body if right else None


def _trns(body: bytes, header: _Header) -> bytes | None:
    """The transparent colour, 16 bits a channel, or the palette's opacities, 8 bits each."""
    fits = {
        GREY: len(body) == 2,
        RGB: len(body) == 6,
        PALETTE: 1 <= len(body) <= header.colours,
    }
    return body if fits.get(header.colour) else None


def _iccp(body: bytes, header: _Header) -> bytes | None:
    """The unpacked colour profile; it stands before a palette."""
    name, _, packed = body.partition(b"\0")
    if not 1 <= len(name) <= PROFILE_NAME or packed[:1] != b"\0" or header.colours:
        return None
    unpack = zlib.decompressobj()
    try:
        profile = unpack.decompress(packed[1:], PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if unpack.eof else None


def _exif(body: bytes, header: _Header) -> bytes:
    return body


READ: Final = {b"tRNS": _trns, b"iCCP": _iccp, b"eXIf": _exif}
