"""
SIGHUP: model file, API keys and certificate are read again.  Serving goes on.

A model passes the same checks as at the start before it takes over; one that fails them changes
nothing.  Requests that have begun are finished by the model that they began with, so none is lost;
for that time both are in memory.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar

from service.errors import ServiceError
from service.http.state import ServiceState
from service.inference.engine import Engine

T = TypeVar("T")

PATIENCE: Final = 300.0  # seconds that a model may take to be loaded and checked
MODEL: Final = "model"

log = logging.getLogger("service.reloading")


class Reloader:
    """Reads again what can change."""

    def __init__(
        self,
        state: ServiceState,
        load: Callable[[Engine], Engine],
        others: Mapping[str, Callable[[], object]],
    ) -> None:
        """`others` are what else is read again, each by its name for the log."""
        self._state = state
        self._load = load
        self._others = others
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading = False
        self._again = False

    def request(self) -> None:
        """Read everything again; the model once more if that is under way."""
        self._start(self._read_others())
        if self._loading:
            self._again = True
        else:
            self._loading = True
            self._start(self._read_model())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_others(self) -> None:
        for name, read in self._others.items():
            await self._read(name, read)

    async def _read_model(self) -> None:
        try:
            self._again = True
            while self._again:
                self._again = False
                engine = await self._read(MODEL, partial(self._load, self._state.engine))
                if engine is not None:
                    self._state.classifier.engine = engine
                    log.info("Serving %s, version %s", engine.model.path, engine.model.version)
                    if engine.warning:
                        log.warning(engine.warning)
        finally:
            self._loading = False

    async def _read(self, name: str, read: Callable[[], T]) -> T | None:
        """What is read, or None and a line in the log that says why."""
        try:
            async with asyncio.timeout(PATIENCE):
                value = await _in_thread(read)
        except TimeoutError:
            log.error("The %s stays as it was: not read and checked in %g s", name, PATIENCE)
        except ServiceError as error:
            log.error("The %s stays as it was: %s", name, error)
        except Exception:
            log.exception("The %s stays as it was", name)
        else:
            log.info("The %s has been read again", name)
            self._state.stale.discard(name)
            return value
        self._state.stale.add(name)
        return None


async def _in_thread(read: Callable[[], T]) -> T:
    """Not in a pool: its threads are waited for at the end, and a model may never be done."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # what comes too late is dropped

    def work() -> None:
        try:
            future.set_result(read())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, name="alexnet-reload", daemon=True).start()
    return await asyncio.wrap_future(future)
