"""
Files -> what is computed of each, read ahead.  That keeps the engine's batches full.

How many files are under way, and how many bytes of them are held, does not depend on their number.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.batch.files import Skipped, read
from service.console import Progress
from service.errors import BodyTooLarge, FileUnreadable, ServiceError
from service.inference.classifier import Classifier
from service.inference.concurrency import WeightedSemaphore
from service.inference.limits import Limits
from service.inference.predictions import Detail, Result, order

SMALL: Final = 2**20  # bytes of a file that is read without waiting for room
BATCHES_AHEAD: Final = 3  # one runs, one is ready, one is being read and decoded

File = TypeVar("File")
T = TypeVar("T")


def window(limits: Limits) -> int:
    """How many images are under way at once."""
    return min(BATCHES_AHEAD * limits.max_batch, limits.max_queue)


async def read_ahead(
    files: Iterable[File],
    work: Callable[[File], Coroutine[Any, Any, T]],
    *,
    window: int,
    in_order: bool = True,
) -> AsyncGenerator[tuple[File, T]]:
    """
    Each file with the result of `work`, of which `window` are under way at once.

    They come in the order of `files`, or with `in_order=False` as they are done.  Raises what
    `work` raises.  When the generator is closed, what is still under way is cancelled.
    """
    under_way: dict[asyncio.Task[T], File] = {}
    rest = iter(files)
    try:
        while True:
            for file in islice(rest, window - len(under_way)):
                under_way[asyncio.create_task(work(file))] = file
            if not under_way:
                return
            awaited = [next(iter(under_way))] if in_order else under_way
            done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield under_way.pop(task), task.result()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def whole(data: bytes | int, max_body: int) -> bytes:
    """The bytes of a file as `read` gives it; `BodyTooLarge` beyond `max_body` bytes."""
    if isinstance(data, int) or len(data) > max_body:
        raise BodyTooLarge(
            f"The file has more than the {max_body} bytes allowed. Make it smaller, or raise "
            "ALEXNET_MAX_BODY."
        )
    return data


class FileClassifier(Generic[File]):
    """Reads and classifies files with one running classifier; calls at once share its window."""

    def __init__(
        self,
        classifier: Classifier,
        read: Callable[[File, int], bytes | int],
        *,
        crops: str,
        details: Collection[Detail] = (),
        window: int,
        max_body: int,
        max_uploads: int,
    ) -> None:
        """
        `read` gives, in a thread, a file's bytes if it has no more than so many, else its size; it
        raises `FileUnreadable`.  `window` is how many files are under way at once, `max_body` the
        bytes of one of them, `max_uploads` those of all large ones that are held at once.
        """
        self._classifier, self._read = classifier, read
        self._crops, self._details = crops, details
        self._window, self._max_body = window, max_body
        self._turns = asyncio.Semaphore(window)
        self._large = WeightedSemaphore(max_uploads)

    def results(
        self, files: Iterable[File], *, in_order: bool = True
    ) -> AsyncGenerator[tuple[File, Result | ServiceError]]:
        """
        Each file with its result, or the error that is its own.

        The order is that of `read_ahead`.  Raises any `ServiceError` that is not one file's.
        """
        return read_ahead(files, self._result, window=self._window, in_order=in_order)

    async def _result(self, file: File) -> Result | ServiceError:
        """Small files are read at once, large ones when there is room for their bytes."""
        small = min(SMALL, self._max_body)
        try:
            async with self._turns:
                data = await asyncio.to_thread(self._read, file, small)
                if not isinstance(data, int) or data > self._max_body:
                    return await self._classify(data)
                async with self._large.acquire(data):
                    data = await asyncio.to_thread(self._read, file, self._max_body)
                    return await self._classify(data)
        except (FileUnreadable, BodyTooLarge) as error:
            return error

    async def _classify(self, data: bytes | int) -> Result | ServiceError:
        images = [whole(data, self._max_body)]
        (result,) = await self._classifier.classify(
            images, crops=self._crops, details=self._details
        )
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """An image's best classes, the most probable first."""

    name: bytes
    indices: NDArray[np.int32]  # (top,)
    probabilities: NDArray[np.float32]  # (top,)
    features: NDArray[np.float32] | None = None  # (features,), if they were asked for


Outcome = Scored | Skipped
Record = Callable[[Outcome], None]
# Scores names, records each one's outcome, and may say to the progress what it waits for.
Score = Callable[[Iterable[bytes], Record, Progress], None]


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How each image is scored, and how large its file may be."""

    base: bytes  # the folder that names are relative to
    crops: str
    top: int  # classes
    details: frozenset[Detail]  # beyond the classes
    max_body: int  # bytes of one file
    max_uploads: int  # bytes of all large files that are held at once


class Scorer:
    """Scores files by name with one running classifier; calls at once share its window."""

    def __init__(self, classifier: Classifier, options: ScoringOptions, *, window: int) -> None:
        """`window` is how many images are under way at once."""
        self._top = options.top
        self._files = FileClassifier[bytes](
            classifier,
            lambda name, limit: read(os.path.join(options.base, name), limit),
            crops=options.crops,
            details=options.details,
            window=window,
            max_body=options.max_body,
            max_uploads=options.max_uploads,
        )

    async def score(self, names: Iterable[bytes], record: Record) -> None:
        """
        Pass each name's outcome to `record`, as they are done.

        Raises what `record` raises, and any `ServiceError` that is not one image's.
        """
        async with aclosing(self._files.results(names, in_order=False)) as results:
            async for name, result in results:
                if isinstance(result, ServiceError):
                    record(Skipped(name, result.code, str(result)))
                else:
                    best = order(result.probabilities, self._top)
                    probabilities = result.probabilities[best]
                    record(Scored(name, best.astype(np.int32), probabilities, result.features))
