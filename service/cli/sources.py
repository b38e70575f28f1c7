"""
What `alexnet predict` may be given: files, folders and standard input.
"""

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from service.batch.files import Images, Skipped, read, readable
from service.errors import FileUnreadable, ServiceError

STANDARD_INPUT: Final = "-"


class Source(NamedTuple):
    """Something that was named, or found in a folder; with an `error` it cannot be read."""

    name: str
    error: ServiceError | None = None
    named: bool = True  # and not found


def walk(places: Iterable[str]) -> Iterator[Source]:
    """Files as they are given, and what is in folders: of each the images by name, then the
    folders in it by name."""
    for place in places:
        if place == STANDARD_INPUT or not os.path.isdir(place):
            yield Source(place)
            continue
        for entry in Images((place,), in_order=True):
            if isinstance(entry, Skipped):
                name, error = entry.name, FileUnreadable(entry.error)
                yield Source(os.path.join(place, os.fsdecode(name)), error)
            else:
                yield Source(os.path.join(place, os.fsdecode(entry)), named=False)


def standard_input(max_body: int) -> bytes:
    """One image; of a larger one no more than is needed to refuse it."""
    return sys.stdin.buffer.read(max_body + 1)


def read_source(source: Source, limit: int, *, max_body: int, standard_input: bytes) -> bytes | int:
    """
    As `read` for a file; a pipe's bytes, and those of standard input, up to one beyond `max_body`.

    Raises `FileUnreadable`.
    """
    if source.error is not None:
        raise source.error
    if source.name == STANDARD_INPUT:
        return standard_input
    # The shell's <(command) is a pipe too; one that lies in a folder might never have a writer.
    with readable():
        if source.named and stat.S_ISFIFO(os.stat(source.name).st_mode):
            with open(source.name, "rb") as pipe:
                return pipe.read(max_body + 1)
    return read(os.fsencode(source.name), limit)
