"""
Images as callers have them -> bytes with a name.

A file or file object is read once and whole, so that a request can be sent again.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from service.client.errors import ClientError, FileUnreadable


class Readable(Protocol):
    """A file opened in binary mode, or anything else that gives bytes."""

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
    path = getattr(image, "name", None)  # of a file from a descriptor it is a number
    filename = PurePath(path).name if isinstance(path, str) else None
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


async def each(
    images: Iterable[ImageInput] | AsyncIterable[ImageInput],
) -> AsyncGenerator[ImageInput]:
    """The images one by one, whichever kind of iterable they are."""
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image


def _contents(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise _unreadable(name, error, PurePath(name).name) from error


def _unreadable(name: str, error: OSError, filename: str | None) -> FileUnreadable:
    return FileUnreadable(f"{name} cannot be read: {error.strerror or error}", filename=filename)
