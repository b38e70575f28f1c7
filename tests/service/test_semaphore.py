"""Sharing an amount: never more than all of it, in the order of arrival, nothing lost."""

import asyncio
from collections.abc import Awaitable, Callable

from service.inference.concurrency import WeightedSemaphore
from tests.support.servers import PATIENCE


def play(scene: Callable[[WeightedSemaphore], Awaitable[None]]) -> None:
    """A scene with a semaphore of ten, after which nothing is in use."""

    async def whole() -> None:
        semaphore = WeightedSemaphore(10)
        await scene(semaphore)
        assert semaphore.used == 0

    asyncio.run(asyncio.wait_for(whole(), PATIENCE))


async def holder(semaphore: WeightedSemaphore, amount: int, name: str, told: list[str]) -> None:
    async with semaphore.acquire(amount):
        told.append(f"{name} in")
        await asyncio.sleep(0.01)
        told.append(f"{name} out")


def test_what_does_not_fit_waits_until_it_does_and_nobody_overtakes() -> None:
    async def scene(semaphore: WeightedSemaphore) -> None:
        told: list[str] = []
        await asyncio.gather(
            *(
                holder(semaphore, amount, name, told)
                for amount, name in ((6, "a"), (5, "b"), (3, "c"))
            )
        )

        assert told[:2] == ["a in", "a out"]
        assert told[2:4] == ["b in", "c in"]

    play(scene)


def test_more_than_all_is_all() -> None:
    async def scene(semaphore: WeightedSemaphore) -> None:
        async with semaphore.acquire(1000):
            assert semaphore.used == 10

    play(scene)


def test_who_gives_up_waiting_takes_nothing_and_keeps_nobody_waiting() -> None:
    async def scene(semaphore: WeightedSemaphore) -> None:
        told: list[str] = []
        async with semaphore.acquire(8):
            large = asyncio.create_task(holder(semaphore, 9, "large", told))
            await asyncio.sleep(0)
            small = asyncio.create_task(holder(semaphore, 2, "small", told))
            await asyncio.sleep(0)
            assert told == []
            large.cancel()
            await small
        assert told == ["small in", "small out"]

    play(scene)


def test_what_a_failure_held_is_free_again() -> None:
    async def scene(semaphore: WeightedSemaphore) -> None:
        try:
            async with semaphore.acquire(10):
                raise ArithmeticError
        except ArithmeticError:
            pass
        async with semaphore.acquire(10):
            pass

    play(scene)
