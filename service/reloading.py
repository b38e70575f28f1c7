"""
SIGHUP: the model file, the API keys and the certificate are read again, while serving.

A model passes the same checks as at the start before it takes over; one that fails them changes
nothing.  Requests that have begun are finished by the model that they began with, so none is lost;
for that time both are in memory.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from service.engine import Engine
from service.errors import ServiceError
from service.routes import Running

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
            steps = {**self._others, "model": self._replace_model}
            done = [await _succeeds(name, step) for name, step in steps.items()]
            self._running.reload_failed = not all(done)
            if not self._again:
                return

    def _replace_model(self) -> None:
        engine = self._load()
        self._running.classifier.replace(engine)
        log.info("Serving %s, version %s", engine.model.path, engine.model.version)
        if engine.warning:
            log.warning(engine.warning)


async def _succeeds(name: str, step: Callable[[], object]) -> bool:
    """Whether a step does, in a thread of its own; if not, the log says why."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[None] = loop.create_future()

    def work() -> None:
        error: Exception | None = None
        try:
            step()
        except Exception as failed:
            error = failed
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(_settle, outcome, error)

    # Not in a pool: its threads are waited for at the end, and a model may never finish its check.
    threading.Thread(target=work, name="alexnet-reload", daemon=True).start()
    try:
        await outcome
    except ServiceError as error:
        log.error("The %s stays as it was: %s", name, error)
    except Exception:
        log.exception("The %s stays as it was", name)
    else:
        log.info("The %s has been read again", name)
        return True
    return False


def _settle(outcome: asyncio.Future[None], error: Exception | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(None)
    else:
        outcome.set_exception(error)
