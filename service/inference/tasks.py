"""asyncio: several coroutines at once, and a deadline."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from service.errors import DeadlineExceeded

T = TypeVar("T")


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
