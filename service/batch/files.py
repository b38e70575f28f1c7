"""
The images in folders, as they are found.  Nothing is listed or sorted before, unless it is asked.

An image's name is its path below the base, in bytes, as the system has it.  The base is the
folder, if that is all that was given, else the working directory; a place that was given by its
whole path keeps that.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from service.errors import FileUnreadable, ServiceError
from service.inference import formats

SUFFIXES: Final = tuple(suffix.encode() for suffix in formats.SUFFIXES)
HIDDEN: Final = b"."

Identity = tuple[int, int]  # device and inode


class FolderMissing(ServiceError):
    """A machine of a cluster does not have the folder."""

    code = "folder_missing"


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image without scores, and why."""

    name: bytes
    code: str
    error: str


@dataclass
class Images:
    """
    The images in `places`, files and folders; may be walked more than once.

    In folders those with a suffix of `SUFFIXES` count, whatever its case; what is hidden does not.
    Links to folders are followed once each, and not back to a folder that they lie in.  A file
    that was given by its name counts whatever that is.
    """

    places: Sequence[str]
    in_order: bool = False  # of each folder the images by name, then the folders by name
    base: bytes = field(init=False)
    roots: tuple[bytes, ...] = field(init=False)  # the places, as the names begin
    others: int = 0  # files and hidden folders that were passed over in the last walk

    def __post_init__(self) -> None:
        # Each once, without `./` and `//`; what `link/..` is, the system knows.
        names = tuple(dict.fromkeys(os.fsencode(PurePath(place)) for place in self.places))
        alone = len(names) == 1 and os.path.isdir(names[0])
        self.base = os.path.join(os.getcwdb(), names[0]) if alone else os.getcwdb()
        self.roots = (b".",) if alone else names

    def __iter__(self) -> Iterator[bytes | Skipped]:
        """Names, in the order in which the system lists them if no other was asked for, and folders
        that it does not list."""
        self.others = 0
        for name in self.roots:
            if os.path.isdir(os.path.join(self.base, name)):
                yield from self._below(b"" if name == b"." else name)
            else:
                yield name

    def _below(self, top: bytes) -> Iterator[bytes | Skipped]:
        """One folder open at a time, however deep they lie."""
        folders: list[tuple[bytes, tuple[Identity, ...]]] = [(top, ())]
        linked: set[Identity] = set()  # folders that all link to each other would hardly end
        while folders:
            name, above = folders.pop()
            path = os.path.join(self.base, name)
            try:
                status = os.stat(path)
                identity = status.st_dev, status.st_ino
                is_link = name != top and os.path.islink(path)
                if identity in above or (is_link and identity in linked):
                    continue
                if is_link:
                    linked.add(identity)
                deeper = []
                with os.scandir(path) as entries:
                    for entry in self._sorted(entries):
                        below = os.path.join(name, entry.name)
                        if entry.name.startswith(HIDDEN):
                            self.others += 1
                        elif _is_folder(entry):
                            deeper.append((below, (*above, identity)))
                        elif entry.name.lower().endswith(SUFFIXES):
                            yield below
                        else:
                            self.others += 1
                folders += reversed(deeper)
            except OSError as error:
                reason = f"The folder cannot be read: {error.strerror}. Its images are missing."
                yield Skipped(name or b".", "folder_unreadable", reason)

    def _sorted(self, entries: Iterable["os.DirEntry[bytes]"]) -> Iterable["os.DirEntry[bytes]"]:
        return sorted(entries, key=lambda entry: entry.name) if self.in_order else entries


def _is_folder(entry: "os.DirEntry[bytes]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: to be read, and reported
        return False


@contextmanager
def readable() -> Iterator[None]:
    """Raise what the system says of a file as `FileUnreadable`."""
    try:
        yield
    except OSError as error:
        raise FileUnreadable(f"The file cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise FileUnreadable("The file cannot be read: its name is no name.") from error


def read(path: bytes, limit: int) -> bytes | int:
    """
    The file's bytes if it has no more than `limit`, else how many it has.

    Raises `FileUnreadable`.
    """
    # Without O_NONBLOCK opening a pipe would wait for its writer.
    with readable(), open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FileUnreadable("This is not a regular file.")
        if status.st_size > limit:
            return status.st_size
        data = file.read(limit + 1)  # it may have grown
        return data if len(data) <= limit else len(data)


def none_in(places: Iterable[object]) -> str:
    """What is said where `places` have no image."""
    return (
        f"there is no image in {', '.join(map(str, places))}; their names end in "
        f"{', '.join(formats.SUFFIXES)}"
    )


def text(name: bytes) -> str:
    r"""A name for people and tables: bytes that are not UTF-8 become `\xe9`."""
    return name.decode("utf-8", "backslashreplace")
