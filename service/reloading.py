"""
SIGHUP: the model file, the API keys and the certificate are read again, while serving.

A model passes the same checks as at the start before it takes over; one that fails them changes
nothing.  Requests that have begun are finished by the model they began with, so none is lost, but
both models are in memory for that time, and creating a session holds Python's lock: at that moment
other answers come later (0.1 s with the bundled model).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from service.engine import Engine
from service.errors import ServiceError
from service.routes import Running

T = TypeVar("T")
log = logging.getLogger(__name__)


class Reloader:
    """Reads again what can change, one time after the other."""

    def __init__(
        self,
        running: Running,
        load: Callable[[], Engine],
        others: Mapping[str, Callable[[], object]],
    ) -> None:
        """`others` are what else is read again, each by its name for the log."""
        self._running = running
        self._load = load
        self._others = others
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def request(self) -> None:
        """Read everything again, or once more if that is under way."""
        if self._task is not None and not self._task.done():
            self._again = True
            return
        self._task = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        while True:
            self._again = False
            for name, read in self._others.items():
                await _read(name, read)
            engine = await _read("model", self._load)
            self._running.reload_failed = engine is None
            if engine is not None:
                self._running.classifier.replace(engine)
                model = engine.model
                log.info("Serving %s, version %s, from now on", model.path, model.version)
                if engine.warning:
                    log.warning(engine.warning)
            if not self._again:
                return


async def _read(name: str, read: Callable[[], T]) -> T | None:
    """What is read, in a thread of its own; or None, and a line in the log that says why."""
    try:
        found = await asyncio.to_thread(read)
    except ServiceError as error:
        log.error("The %s stays as it was: %s", name, error)
    except Exception:
        log.exception("The %s stays as it was", name)
    else:
        log.info("The %s has been read again", name)
        return found
    return None
