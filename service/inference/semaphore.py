"""
A budget that many share: so much may be in use at once, and who wants more waits for his turn.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """A semaphore whose holders take different amounts; first come, first served."""

    def __init__(self, total: int) -> None:
        """`total` is what may be in use at once."""
        self._total = total
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """What is in use now."""
        return self._used

    @asynccontextmanager
    async def taken(self, amount: int) -> AsyncIterator[None]:
        """Hold `amount` while the block runs, or all there is if that is less; waits for it."""
        amount = min(amount, self._total)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._used -= amount
            self._admit()

    def _admit(self) -> None:
        """Let in whoever is first, as long as there is room."""
        while self._waiting:
            amount, turn = self._waiting[0]
            if not turn.done():
                if self._used + amount > self._total:
                    return
                self._used += amount
                turn.set_result(None)
            self._waiting.popleft()
