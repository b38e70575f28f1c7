"""
JPEG files, read by Pillow.  The colour profile is read safely, and the end tolerated as missing.

A file without its end-of-image marker is read if nothing but that is missing.  libjpeg takes any
bits for missing ones and only warns, which Pillow does not pass on; so it is seen what would have
followed: if whatever it is changes no pixel, every block is there.
"""

import random
import re
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from sys import maxsize
from typing import Any, Final

from PIL import Image, JpegImagePlugin

from service.inference.limits import PIECES, PROFILE_BYTES

PROFILE_START: Final = b"ICC_PROFILE\0"
STRIP: Final = 2**20  # pixels that are summed up at a time

# A marker among coded pixels: neither a stuffed byte nor a restart nor filling.
MARKER: Final = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
RESTART: Final = re.compile(rb"\xff([\xd0-\xd7])")
SCAN: Final = b"\xff\xda"
END_OF_IMAGE: Final = b"\xff\xd9"
FILLED_UP: Final = bytes(3)  # so many zeros at the end are no pixels, but what a disk left there
COEFFICIENTS: Final = 64  # of a block

# What might follow: no two begin with the same two bits, none has a byte that could be a marker.
CONTINUATIONS: Final = tuple(
    bytes([first]) + random.Random(first).randbytes(255).replace(b"\xff", b"\x55")
    for first in (0b0101_1010, 0b1010_0101, 0b1100_0011)
)


class Jpeg(JpegImagePlugin.JpegImageFile):
    """
    Pillow's reader without EXIF, of which it reads all for the resolution.

    The colour profile is read here: Pillow refuses the image where the profile is damaged.
    """

    _length = maxsize  # bytes of the file that are read
    _behind = b""  # what is read once after them

    def getexif(self) -> Image.Exif:
        return Image.Exif()

    @property
    def icclist(self) -> list[bytes]:
        """Where Pillow collects the pieces of the profile: nothing is kept."""
        return []

    @icclist.setter
    def icclist(self, value: list[bytes]) -> None:
        pass

    def _open(self) -> None:
        super()._open()
        assert self.fp is not None
        self._first_scan = self.fp.tell()  # behind its header
        self.info["icc_profile"] = _profile([body for name, body in self.applist if name == "APP2"])

    def load_read(self, read_bytes: int) -> bytes:
        assert self.fp is not None
        data = self.fp.read(max(0, min(read_bytes, self._length - self.fp.tell())))
        if not data:
            data, self._behind = self._behind, b""
        return data

    def load(self) -> Any:
        file, tile = self.fp, list(self.tile)
        if file is None or not tile:
            return super().load()
        try:
            pixels = super().load()
        except OSError:
            if self.fp is None:  # damaged, and not at its end
                raise
        else:
            # Pillow takes zeros, which disks fill files up with, for pixels.
            if _data(file).rfind(END_OF_IMAGE, self._first_scan) >= 0:
                return pixels
        self.fp, self.tile = file, tile
        if not self._lacks_its_end_only():
            raise OSError("the image is cut short")
        self._im, self._behind = None, END_OF_IMAGE
        return super().load()

    def _lacks_its_end_only(self) -> bool:
        """Whether no pixel depends on what is missing behind the file's last byte."""
        data = _data(self.fp)
        self._length = _coded(data)
        header = data.rfind(SCAN, 0, self._first_scan)
        last = header
        scans = []
        for place in _scans(data, header, self._length):
            scans.append(data[place + len(SCAN) :][:32])
            last = place
        if not self._refined(scans):
            return False
        restart = _next_restart(data, last, self._length)
        sums = (self._checksum(bits + restart + bits + END_OF_IMAGE) for bits in CONTINUATIONS)
        first = next(sums)
        return all(checksum == first for checksum in sums)

    def _refined(self, scans: list[bytes]) -> bool:
        """Whether these scans hold all of each component's coefficients, to their last bit."""
        missing = {layer[0]: set(range(COEFFICIENTS)) for layer in self.layer}
        for header in scans:
            number = header[2]
            ids = header[3 : 3 + 2 * number : 2]
            first, final, bits = header[3 + 2 * number :][:3]
            if "progressive" not in self.info:
                first, final, bits = 0, COEFFICIENTS - 1, 0
            if bits & 0x0F == 0:  # no bits below these are left for a later scan
                for component in ids:
                    missing[component] -= set(range(first, final + 1))
        return not any(missing.values())

    def _checksum(self, behind: bytes) -> int:
        """Of the pixels, if this is what follows the file."""
        file, tile = self.fp, list(self.tile)
        self._im, self._behind = None, behind
        super().load()
        width, height = self.size
        rows = max(1, STRIP // width)
        checksum = 0
        for top in range(0, height, rows):
            strip = self.crop((0, top, width, min(top + rows, height)))
            checksum = zlib.crc32(strip.tobytes(), checksum)
        self.fp, self.tile = file, tile
        return checksum


def _profile(segments: list[bytes]) -> bytes | None:
    """The colour profile in these APP2 segments; None if it is not whole, or too large."""
    start = len(PROFILE_START)
    pieces = [body[start:] for body in segments if body.startswith(PROFILE_START)]
    if not pieces or sum(map(len, pieces)) > PROFILE_BYTES or min(map(len, pieces)) < 2:
        return None
    pieces.sort(key=lambda piece: piece[0])
    numbers = [(piece[0], piece[1]) for piece in pieces]
    if numbers != [(number, len(pieces)) for number in range(1, len(pieces) + 1)]:
        return None
    return b"".join(piece[2:] for piece in pieces)


def _data(file: object) -> bytes:
    assert isinstance(file, BytesIO)
    return file.getvalue()


def _coded(data: bytes) -> int:
    """How many of a file's bytes can be coded pixels."""
    if not data.endswith(FILLED_UP):
        return len(data.rstrip(b"\xff"))  # half a marker
    end = len(data.rstrip(b"\0"))
    return end + 1 if data[end - 1] == 0xFF else end  # coded pixels have a zero behind that byte


def _scans(data: bytes, place: int, end: int) -> Iterator[int]:
    """Where the markers of the scans are, from the first one at `place`."""
    for marker in islice(_markers(data, place, end), PIECES):
        if data[marker : marker + 2] == SCAN:
            yield marker


def _markers(data: bytes, place: int, end: int) -> Iterator[int]:
    while marker := MARKER.search(data, place, end):
        yield marker.start()
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")


def _next_restart(data: bytes, place: int, end: int) -> bytes:
    """The restart marker that is due after the last one."""
    numbers = [marker[1][0] for marker in RESTART.finditer(data, place, end)]
    return bytes([0xFF, 0xD0 + (numbers[-1] + 1) % 8 if numbers else 0xD0])
