"""
Files, folders and standard input -> bytes -> outcomes, in the order of their names.

However many images there are, a window of them is under way, and of a folder no more is kept
than the names that are directly in it.
"""

import asyncio
import os
import stat
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Final, NamedTuple

from service.batch.files import Images, Skipped, read
from service.batch.reader import SMALL
from service.errors import BodyTooLarge, FileUnreadable, ServiceError
from service.inference.classifier import Classifier
from service.inference.predictions import Prediction, top_k
from service.inference.semaphore import WeightedSemaphore

STANDARD_INPUT: Final = "-"

Outcome = list[Prediction] | ServiceError


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
        for found in Images((place,), in_order=True):
            if isinstance(found, Skipped):
                name, error = found.name, FileUnreadable(found.error)
                yield Source(os.path.join(place, os.fsdecode(name)), error)
            else:
                yield Source(os.path.join(place, os.fsdecode(found)), named=False)


class Asker:
    """Asks one running classifier the same of all images."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        crops: str,
        top: int,
        window: int,
        most: int,
        at_once: int,
        standard_input: bytes = b"",
    ) -> None:
        """
        `window` is how many images are under way at once, `most` the bytes of one of them, and
        `at_once` those of all large ones that are held.
        """
        self._classifier = classifier
        self._crops, self._top = crops, top
        self._window, self._most = window, most
        self._large = WeightedSemaphore(max(most, at_once))
        self._standard_input = standard_input

    async def outcomes(self, places: Iterable[str]) -> AsyncGenerator[tuple[str, Outcome]]:
        """
        Names and what became of them, in order, each as soon as it is there.

        Raises any `ServiceError` that is not one image's.
        """
        under_way: deque[tuple[str, asyncio.Task[Outcome]]] = deque()
        try:
            for source in walk(places):
                if len(under_way) == self._window:
                    name, task = under_way.popleft()
                    yield name, await task
                under_way.append((source.name, asyncio.create_task(self._one(source))))
            while under_way:
                name, task = under_way.popleft()
                yield name, await task
        finally:
            tasks = [task for _, task in under_way]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, source: Source) -> Outcome:
        """Small files at once, large ones within the budget."""
        if source.error is not None:
            return source.error
        if source.name == STANDARD_INPUT:
            return await self._classified(self._standard_input)
        data = await self._read(source, min(SMALL, self._most))
        if not isinstance(data, int) or data > self._most:
            return await self._classified(data)
        async with self._large.acquire(data):
            return await self._classified(await self._read(source, self._most))

    async def _read(self, source: Source, at_first: int) -> bytes | int | ServiceError:
        return await asyncio.to_thread(_read, source, self._most, at_first)

    async def _classified(self, data: bytes | int | ServiceError) -> Outcome:
        if isinstance(data, ServiceError):
            return data
        if isinstance(data, int) or len(data) > self._most:
            return BodyTooLarge(
                f"The file has more than the {self._most} bytes allowed. Make it smaller, or raise "
                "ALEXNET_MAX_BODY."
            )
        labels = self._classifier.engine.model.labels
        (result,) = await self._classifier.classify([data], crops=self._crops)
        if isinstance(result, ServiceError):
            return result
        return top_k(result.probabilities, labels, self._top)


def standard_input(most: int) -> bytes:
    """One image; of a larger one no more than is needed to refuse it."""
    return sys.stdin.buffer.read(most + 1)


def _read(source: Source, most: int, at_first: int) -> bytes | int | ServiceError:
    """The file's bytes if it has no more than `at_first`, else how many it has."""
    try:
        # The shell's <(command); who waits for one that lies in a folder may wait for ever.
        if source.named and stat.S_ISFIFO(os.stat(source.name).st_mode):
            with open(source.name, "rb") as pipe:
                return pipe.read(most + 1)
        found = read(os.fsencode(source.name), at_first)
    except OSError as error:
        return FileUnreadable(f"The file cannot be read: {error.strerror}.")
    except ValueError:
        return FileUnreadable("The file cannot be read: its name is no name.")
    return FileUnreadable(found.error) if isinstance(found, Skipped) else found
