"""
Image files -> pixels, decoded once into a file.  Each image is 256 x 256, and the file is mapped
into memory.

The preparation is that of the service (``model_export/images.py``).  Images that cannot be decoded
are left out and listed.  An interrupted decoding is resumed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export.crops import Pixels
from model_export.graph import IMAGE_SIZE
from model_export.images import read_image
from model_training.errors import ImagesUnusable, RunUnusable

MISSING, DECODED, UNREADABLE = 0, 1, 2  # an image's state in the cache
UNDER_WAY = 64  # images that wait for a thread
TOGETHER = 256  # images that are written to the disk before they are marked as decoded


@dataclass(frozen=True)
class Decoded:
    """The decoded images, row by row, and what went wrong."""

    images: Pixels  # mapped from the file
    readable: NDArray[np.bool_]  # (N,); the rows of others are zero
    unreadable: dict[Path, str]  # what cannot be learned from, and why


def decode(
    paths: Sequence[Path],
    folder: Path,
    *,
    workers: int,
    step: Callable[[], None] = lambda: None,
) -> Decoded:
    """Decode the images of ``paths`` into the cache in ``folder``, unless they are there.

    The cache belongs to these files: other paths, sizes or modification times use another one.
    ``step`` is called for each image that is decoded; what it raises ends the decoding.  It takes
    196,608 bytes of disk per image, and memory for a few images per worker.  Raises
    RunUnusable if it cannot be written.
    """
    name = identity(paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        images, states = _opened(folder, name, len(paths))
        reasons = folder / f"{name}.unreadable.jsonl"
        with reasons.open("a", encoding="utf-8") as report:
            missing = np.flatnonzero(states == MISSING).tolist()
            new: dict[int, int] = {}
            try:
                for row, result in _all(paths, missing, workers):
                    if isinstance(result, str):
                        print(json.dumps([row, result]), file=report, flush=True)
                    else:
                        images[row] = result
                    new[row] = UNREADABLE if isinstance(result, str) else DECODED
                    if len(new) == TOGETHER:
                        _mark(images, states, new)
                    step()
            finally:
                _mark(images, states, new)
        messages = dict(json.loads(line) for line in reasons.read_text("utf-8").splitlines())
    except OSError as error:
        raise RunUnusable(
            f"the decoded images cannot be kept in {folder} ({error.strerror}); they take "
            f"{len(paths) * IMAGE_SIZE**2 * 3 / 1e6:.0f} MB: choose another place with --cache"
        ) from error
    unreadable = {
        paths[row]: messages.get(row, "cannot be read")
        for row in np.flatnonzero(states == UNREADABLE).tolist()
    }
    return Decoded(images, states == DECODED, unreadable)


def identity(paths: Sequence[Path]) -> str:
    """Identify these files by path, size and modification time: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise ImagesUnusable(f"{path} cannot be read ({error.strerror})") from error
        digest.update(os.fsencode(path.resolve()) + b"\0")
        digest.update(struct.pack("<qq", status.st_size, status.st_mtime_ns))
    return digest.hexdigest()[:16]


def _opened(folder: Path, name: str, count: int) -> tuple[np.memmap, np.memmap]:
    """The images and their states, mapped from their files; states of new images are MISSING."""
    images, states = (folder / f"{name}.{kind}.npy" for kind in ("squares", "states"))
    shape = count, IMAGE_SIZE, IMAGE_SIZE, 3
    pixels = _mapped(images, shape)
    if pixels is None:
        states.unlink(missing_ok=True)
        pixels = _zeros(images, shape)
    _allocate(images)
    known = _mapped(states, (count,))
    return pixels, _zeros(states, (count,)) if known is None else known


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap | None:
    """The array in a file, or None if there is none of this shape."""
    if path.is_file():
        with contextlib.suppress(ValueError):
            array = np.lib.format.open_memmap(path, mode="r+")
            if array.shape == shape:
                return array
    return None


def _zeros(path: Path, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def _allocate(path: Path) -> None:
    """Allocate a file's disk space; on a full disk, writing to its map would kill the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # what some file systems say
                raise


def _mark(images: np.memmap, states: np.memmap, new: dict[int, int]) -> None:
    """Set the states of new images, once these are on the disk."""
    images.flush()
    for row, state in new.items():
        states[row] = state
    new.clear()


def _all(
    paths: Sequence[Path], rows: Sequence[int], workers: int
) -> Iterator[tuple[int, Pixels | str]]:
    """Each row's image or what is wrong with it, in any order."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(rows)
        busy: dict[Future[Pixels | str], int] = {}
        try:
            while True:
                for row in islice(waiting, UNDER_WAY - len(busy)):
                    busy[pool.submit(_try, paths[row])] = row
                if not busy:
                    return
                for done in wait(busy, return_when=FIRST_COMPLETED).done:
                    yield busy.pop(done), done.result()
        finally:
            for future in busy:
                future.cancel()


def _try(path: Path) -> Pixels | str:
    try:
        return read_image(path)
    except ValueError as error:
        return str(error)
