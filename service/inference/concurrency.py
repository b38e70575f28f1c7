"""For asyncio: a weighted semaphore, concurrent coroutines, a deadline.  Requests share them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from service.errors import DeadlineExceeded

T = TypeVar("T")


class WeightedSemaphore:
    """A semaphore whose holders take different amounts; first come, first served."""

    def __init__(self, total: int) -> None:
        """`total` is what may be in use at once."""
        self._total = total
        self._used = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """What is in use now."""
        return self._used

    @asynccontextmanager
    async def acquire(self, amount: int) -> AsyncIterator[None]:
        """Wait for `amount`, or for the total if that is less, and hold it while the block runs."""
        amount = min(amount, self._total)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((amount, turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._used -= amount
            self._admit()

    def _admit(self) -> None:
        """Admit the first in the queue, as long as there is room."""
        while self._queue:
            amount, turn = self._queue[0]
            if not turn.done():
                if self._used + amount > self._total:
                    return
                self._used += amount
                turn.set_result(None)
            self._queue.popleft()


async def all_results(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All the results, in order; when one raises, the others are cancelled."""
    work = list(coroutines)
    if len(work) == 1:  # the common case, spared a task
        return [await work[0]]
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def before(deadline: float | None) -> AsyncIterator[None]:
    """Raise `DeadlineExceeded` if the block lasts beyond `deadline`, in the event loop's time."""
    clock = asyncio.timeout_at(deadline)
    try:
        async with clock:
            yield
    except TimeoutError as error:
        if not clock.expired():
            raise
        raise DeadlineExceeded(
            "There is no answer in the time allowed. Try again, or have ALEXNET_TIMEOUT raised."
        ) from error
