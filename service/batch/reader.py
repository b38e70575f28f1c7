"""
Names of image files -> their best classes.

So many files are read and decoded ahead that the engine's batches are full; how many that are,
and how many bytes they may have together, does not depend on the number of files.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.batch.files import Skipped, read
from service.errors import BodyTooLarge, ServiceError
from service.inference.classifier import Classifier
from service.inference.limits import Limits
from service.inference.predictions import order
from service.inference.semaphore import WeightedSemaphore

SMALL = 2**20  # bytes of a file that are read without asking whether there is room
AHEAD = 3  # batches: one runs, one is ready, one is being read and decoded


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """An image's best classes, the most probable first."""

    name: bytes
    indices: NDArray[np.int32]  # (top,)
    probabilities: NDArray[np.float32]  # (top,)


Outcome = Scored | Skipped


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of each image, and how large its file may be."""

    base: bytes  # the folder that names are relative to
    crops: str
    top: int  # classes
    max_body: int  # bytes of one file
    max_uploads: int  # bytes of all large files that are held at once


def window(limits: Limits) -> int:
    """How many images are under way at once."""
    return min(AHEAD * limits.max_batch, limits.max_queue)


class Scorer:
    """Asks one running classifier."""

    def __init__(self, classifier: Classifier, question: Question, *, window: int) -> None:
        """`window` is how many images are under way at once."""
        self._classifier = classifier
        self._question = question
        self._window = asyncio.Semaphore(window)
        self._workers = window
        self._large = WeightedSemaphore(question.max_uploads)

    async def score(self, names: Iterable[bytes], record: Callable[[Outcome], None]) -> None:
        """
        Hand `record` the outcome of each name, in whatever order they come.

        Raises what `record` does, and any `ServiceError` that is not one image's.
        """
        shared = iter(names)

        async def work() -> None:
            for name in shared:
                async with self._window:
                    record(await self._one(name))

        workers = [asyncio.create_task(work()) for _ in range(self._workers)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()

    async def _one(self, name: bytes) -> Outcome:
        """Small files at once, large ones within the budget."""
        path, most = os.path.join(self._question.base, name), self._question.max_body
        data = await asyncio.to_thread(read, path, min(SMALL, most))
        if not isinstance(data, int):
            return await self._classified(name, data)
        if data <= most:
            async with self._large.acquire(data):
                data = await asyncio.to_thread(read, path, most)
                if not isinstance(data, int):
                    return await self._classified(name, data)
        return Skipped(
            name,
            BodyTooLarge.code,
            f"The file has {data} bytes, more than the {most} allowed. Make it smaller, or raise "
            "ALEXNET_MAX_BODY.",
        )

    async def _classified(self, name: bytes, data: bytes | Skipped) -> Outcome:
        if isinstance(data, Skipped):
            return Skipped(name, data.code, data.error)
        (result,) = await self._classifier.classify([data], crops=self._question.crops)
        if isinstance(result, ServiceError):
            return Skipped(name, result.code, str(result))
        best = order(result.probabilities, self._question.top)
        return Scored(name, best.astype(np.int32), result.probabilities[best])
