"""
Pipelined requests of one connection: one that the application works on, a few that wait.
"""

import asyncio
from collections import deque
from typing import Any, Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from service.http.server.response import Cycle

PIPELINE: Final = 16  # requests of one connection that wait for their turn


class Pipeline:
    """What one client has asked; its length is that of the queue."""

    newest: Cycle  # whose body is being read, or was the last to be; there once `add` was called

    def __init__(
        self, app: Any, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]]
    ) -> None:
        self.running: Cycle | None = None
        self._queue: deque[Cycle] = deque()
        self._app = app
        self._loop = loop
        self._tasks = tasks

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether as many requests wait, or as much of a body, as may."""
        waits_long = self.newest is not self.running and len(self.newest.body) > HIGH_WATER_LIMIT
        return waits_long or len(self) >= PIPELINE

    def add(self, cycle: Cycle) -> None:
        """Run a request, or let it wait."""
        self.newest = cycle
        self._queue.append(cycle)
        if self.running is None:
            self.run_next()

    def run_next(self) -> None:
        """Run the one that has waited longest."""
        self.running = self._queue.popleft()
        task = self._loop.create_task(self.running.run_asgi(self._app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def finish(self) -> None:
        """The running one is answered; what it did not ask for of its body, nobody will."""
        if self.running is not None:
            self.running.body = bytearray()
            self.running = None

    def withdraw(self) -> None:
        """The newest one turned out to be none."""
        self.newest.leave()
        if self.newest is self.running:
            self.running = None
        elif self.newest in self._queue:
            self._queue.remove(self.newest)

    def abandon(self) -> None:
        """The running one broke off its answer: nothing can follow that."""
        self.leave()
        self.finish()

    def leave(self) -> None:
        """The client is gone: nobody need work for it."""
        for cycle in (self.running, *self._queue):
            if cycle is not None:
                cycle.leave()
        self._queue.clear()
