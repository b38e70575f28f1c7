"""Sharing an amount: never more than all of it, in the order of arrival, nothing lost."""

import asyncio
from collections.abc import Awaitable, Callable

from service.inference.semaphore import Budget
from tests.support.servers import PATIENCE


def play(scene: Callable[[Budget], Awaitable[None]]) -> None:
    """A scene with a budget of ten, after which nothing is in use."""

    async def whole() -> None:
        budget = Budget(10)
        await scene(budget)
        assert budget.used == 0

    asyncio.run(asyncio.wait_for(whole(), PATIENCE))


async def holder(budget: Budget, amount: int, name: str, told: list[str]) -> None:
    async with budget.taken(amount):
        told.append(f"{name} in")
        await asyncio.sleep(0.01)
        told.append(f"{name} out")


def test_what_does_not_fit_waits_until_it_does_and_nobody_overtakes() -> None:
    async def scene(budget: Budget) -> None:
        told: list[str] = []
        await asyncio.gather(
            *(holder(budget, amount, name, told) for amount, name in ((6, "a"), (5, "b"), (3, "c")))
        )

        assert told[:2] == ["a in", "a out"]
        assert told[2:4] == ["b in", "c in"]

    play(scene)


def test_more_than_all_is_all() -> None:
    async def scene(budget: Budget) -> None:
        async with budget.taken(1000):
            assert budget.used == 10

    play(scene)


def test_who_gives_up_waiting_takes_nothing_and_keeps_nobody_waiting() -> None:
    async def scene(budget: Budget) -> None:
        told: list[str] = []
        async with budget.taken(8):
            large = asyncio.create_task(holder(budget, 9, "large", told))
            await asyncio.sleep(0)
            small = asyncio.create_task(holder(budget, 2, "small", told))
            await asyncio.sleep(0)
            assert told == []
            large.cancel()
            await small
        assert told == ["small in", "small out"]

    play(scene)


def test_what_a_failure_held_is_free_again() -> None:
    async def scene(budget: Budget) -> None:
        try:
            async with budget.taken(10):
                raise ArithmeticError
        except ArithmeticError:
            pass
        async with budget.taken(10):
            pass

    play(scene)
