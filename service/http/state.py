"""
The state of one application.  Endpoints reach it through `state_of(request)`; `create_app` put it
there.
"""

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from fastapi import Request

from service.errors import NotReady
from service.inference.classifier import Classifier
from service.inference.engine import Engine
from service.settings import Settings
from service.telemetry.request_record import ModelNames

log = logging.getLogger("service.routes")


@dataclass
class ServiceState:
    """What an application runs on, whether it is ready or draining, and what is in flight."""

    settings: Settings
    classifier: Classifier
    draining: bool = False  # set on SIGTERM: finish what was accepted, accept nothing new
    in_flight: int = 0  # requests accepted and not yet answered
    held: int = 0  # bytes of the bodies that are being read or classified
    admin_port: int | None = None  # the second port, once it is bound
    dead: bool = False  # no image can be classified any more
    stale: set[str] = field(default_factory=set)  # what the last SIGHUP could not read again
    deadline: float = math.inf  # of a stop, in the event loop's time

    @property
    def engine(self) -> Engine:
        """The engine that answers requests which come now."""
        return self.classifier.engine

    @property
    def names(self) -> ModelNames:
        """The names that the model answers to."""
        return ModelNames(self.settings.model_name)

    @property
    def warning(self) -> str | None:
        """What an operator should look at although the service is ready, or None."""
        if self.stale:
            return f"Could not be reloaded, see the log: {', '.join(sorted(self.stale))}."
        return self.engine.warning

    @property
    def ready(self) -> bool:
        """Whether an image sent now would be classified."""
        return self.classifier.batcher.ready and not self.draining

    @property
    def status(self) -> str:
        """One word for people: ready, draining, dead or starting."""
        if self.ready:
            return "ready"
        if self.dead:
            return "dead"
        return "draining" if self.draining else "starting"

    def die(self, reason: str) -> None:
        """No image can be classified any more: end the process, to be started again."""
        log.critical("The service ends, unable to go on: %s", reason)
        self.dead = True

    async def stop(self) -> None:
        """Finish what was accepted, if it can be finished in the time that is left."""
        self.draining = True
        left = self.deadline - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(left, 1.0)):
                await self.classifier.stop()
        except TimeoutError:
            self.die(self.too_late)

    def on_engine_death(self, reason: str) -> None:
        """What runs the model has ended, which is expected while draining."""
        if not self.draining:
            self.die(reason)

    @property
    def too_late(self) -> str:
        """Why a stop did not wait for the rest."""
        return f"a run has not come back in {self.settings.shutdown_timeout:g} s"

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """Count a request as in flight, so that a shutdown waits for it."""
        if not self.ready:
            raise NotReady(f"the service is {self.status}; ask /readyz and try again")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


def state_of(request: Request) -> ServiceState:
    """The state of the application that got this request."""
    return cast(ServiceState, request.app.state.service)
