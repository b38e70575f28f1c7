"""Files that are read ahead: their order, how many at once, and how many bytes of them."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from service.batch.reader import SMALL, FileClassifier, read_ahead
from service.errors import BodyTooLarge, FileUnreadable
from service.inference.predictions import Result


class Gates:
    """Work that ends when its gate is opened; counts what is under way."""

    def __init__(self, number: int) -> None:
        self.open = [asyncio.Event() for _ in range(number)]
        self.begun: list[int] = []

    async def work(self, file: int) -> str:
        self.begun.append(file)
        await self.open[file].wait()
        return f"result {file}"


def test_results_come_in_the_order_of_the_files() -> None:
    """Though the later ones are done first, and no more are begun than the window has."""

    async def scenario() -> None:
        gates = Gates(6)
        async with aclosing(read_ahead(range(6), gates.work, window=3)) as results:
            first = asyncio.ensure_future(anext(results))
            for file in (2, 1, 0):
                await asyncio.sleep(0)
                gates.open[file].set()
            assert await first == (0, "result 0")
            assert gates.begun == [0, 1, 2]
            assert await anext(results) == (1, "result 1")
            assert gates.begun == [0, 1, 2, 3]
            for gate in gates.open:
                gate.set()
            assert [file async for file, _ in results] == [2, 3, 4, 5]

    asyncio.run(scenario())


def test_results_come_as_they_are_done_where_the_order_does_not_matter() -> None:
    """The next file is begun in the place of the one that is done."""

    async def scenario() -> None:
        gates = Gates(4)
        generator = read_ahead(range(4), gates.work, window=3, in_order=False)
        async with aclosing(generator) as results:
            for file in (2, 3, 0, 1):
                gates.open[file].set()
                assert await anext(results) == (file, f"result {file}")

    asyncio.run(scenario())


def test_an_error_of_the_work_is_raised_and_the_rest_is_cancelled() -> None:
    async def scenario() -> set[asyncio.Task[Any]]:
        async def work(file: int) -> None:
            if file == 1:
                raise ZeroDivisionError
            await asyncio.Event().wait()

        with pytest.raises(ZeroDivisionError):
            async for _ in read_ahead(range(9), work, window=3, in_order=False):
                pass
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(scenario()) == set()


class Classifying:
    """In place of a classifier: the most images, and bytes of them, that it had at once."""

    def __init__(self) -> None:
        self.now: list[int] = []
        self.most_images = self.most_bytes = 0

    async def classify(self, images: Sequence[bytes], **how: Any) -> list[Result]:
        (data,) = images
        self.now.append(len(data))
        self.most_images = max(self.most_images, len(self.now))
        self.most_bytes = max(self.most_bytes, sum(self.now))
        for _ in range(20):
            await asyncio.to_thread(int)  # others have their turn
        self.now.remove(len(data))
        return [Result(np.ones(1, np.float32))]


def sizes(number: int, size: int) -> Iterator[int]:
    return iter([size] * number)


def read(size: int, limit: int) -> bytes | int:
    """A file of so many bytes."""
    if size < 0:
        raise FileUnreadable("gone")
    return bytes(size) if size <= limit else size


def results(files: Iterator[int], calls: int = 1, **options: Any) -> tuple[Classifying, list[Any]]:
    """What `calls` at once give for files of these sizes."""
    classifying = Classifying()
    settings: dict[str, Any] = {
        "window": 6,
        "max_body": 4 * SMALL,
        "max_uploads": 2 * SMALL,
    } | options

    async def scenario() -> list[Any]:
        reader = FileClassifier[int](
            classifying,  # type: ignore[arg-type]
            read,
            crops="one",
            **settings,
        )

        async def call() -> list[Any]:
            return [result async for _, result in reader.results(files)]

        parts = await asyncio.gather(*(call() for _ in range(calls)))
        return [each for part in parts for each in part]

    return classifying, asyncio.run(scenario())


def test_large_files_wait_until_there_is_room_for_their_bytes() -> None:
    """Small ones do not; calls at once share the window."""
    large, outcomes = results(sizes(12, SMALL + 1), max_uploads=3 * SMALL)
    assert (large.most_images, len(outcomes)) == (2, 12)

    small, outcomes = results(sizes(24, SMALL), calls=2)
    assert 2 < small.most_images <= 6
    assert len(outcomes) == 24


def test_a_file_larger_than_all_the_room_is_read_alone() -> None:
    classifying, outcomes = results(sizes(4, 3 * SMALL))

    assert (classifying.most_images, len(outcomes)) == (1, 4)


def test_a_file_that_is_gone_or_too_large_is_an_error_in_its_place() -> None:
    _, outcomes = results(iter([1, -1, 5 * SMALL, 1]))

    kinds = [type(each) for each in outcomes]
    assert kinds == [Result, FileUnreadable, BodyTooLarge, Result]
    assert f"more than the {4 * SMALL} bytes allowed" in str(outcomes[2])
