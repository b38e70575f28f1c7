"""
Images as callers have them -> bytes with a name, gathered into batches for one request each.

A file or file object is read once and whole, so that a request can be sent again.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, Protocol, Self

from service.client.errors import ClientError, FileUnreadable

# Within the server's limits as it comes: 64 images, 20 MiB.  Two batches of 32 on their way keep
# its engine, which takes 16 at a time, busy, and leave most of its queue of 256 to others.
MOST_IMAGES: Final = 32
MOST_WITH_HEATMAP: Final = 1  # it takes 65 places of the queue
MOST_BYTES: Final = 16 * 2**20


class Readable(Protocol):
    """A file opened in binary mode, or whatever else gives bytes."""

    def read(self) -> bytes: ...


ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable


@dataclass(frozen=True, slots=True)
class Upload:
    """An image's bytes, and its name without folders if it has one."""

    data: bytes
    filename: str | None


Entry = Upload | ClientError  # of a batch; an error is one that was met while reading


def read(image: ImageInput) -> Upload:
    """The bytes of an image; `FileUnreadable` if its file cannot be read."""
    if isinstance(image, bytes | bytearray | memoryview):
        return Upload(bytes(image), None)
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        return Upload(_contents(name), PurePath(name).name)
    if not hasattr(image, "read"):
        kind = type(image).__name__
        raise TypeError(f"an image is a path, bytes or a file opened in binary mode, not {kind}")
    given = getattr(image, "name", None)  # of a file from a descriptor it is a number
    filename = PurePath(given).name if isinstance(given, str) else None
    try:
        data = image.read()
    except OSError as error:
        raise _unreadable(filename or "the file", error, filename) from error
    if not isinstance(data, bytes):
        raise TypeError("the image's file is opened as text; open it with mode 'rb'")
    return Upload(data, filename)


def read_or_error(image: ImageInput) -> Entry:
    """The same, for an image among many: the error takes its place."""
    try:
        return read(image)
    except FileUnreadable as error:
        return error


def _contents(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise _unreadable(name, error, PurePath(name).name) from error


def _unreadable(name: str, error: OSError, filename: str | None) -> FileUnreadable:
    return FileUnreadable(f"{name} cannot be read: {error.strerror or error}", filename=filename)


class Batch:
    """Gathers what fits into one request; an image too large for any goes by itself."""

    def __init__(self, most: int, most_bytes: int = MOST_BYTES) -> None:
        if most < 1:
            raise ValueError(f"batch={most}: must be at least 1")
        self._most = most
        self._most_bytes = most_bytes
        self._entries: list[Entry] = []
        self._bytes = 0

    @classmethod
    def of(cls, most: int | None, details: Sequence[str]) -> Self:
        """Of `most` images, or of as many as are fitting for these details."""
        if most is None:
            most = MOST_WITH_HEATMAP if "heatmap" in details else MOST_IMAGES
        return cls(most)

    def add(self, entry: Entry) -> list[Entry]:
        """Take one more; what it returns, if anything, is to be sent now."""
        size = len(entry.data) if isinstance(entry, Upload) else 0
        full = len(self._entries) >= self._most or self._bytes + size > self._most_bytes
        ready = self.rest() if full else []
        self._entries.append(entry)
        self._bytes += size
        return ready

    def rest(self) -> list[Entry]:
        """All that is gathered; the next batch begins."""
        entries, self._entries, self._bytes = self._entries, [], 0
        return entries

    def at_most(self, images: int) -> None:
        """The server takes fewer at once than we thought."""
        self._most = min(self._most, images)
