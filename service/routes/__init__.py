"""
The doors: each module holds one door's routes, `errors` the shape and status of refusals.

Routes reach what is running through `running(request)`; `create_app` put it there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from fastapi import Request

from service.classifier import Classifier
from service.engine import Engine
from service.errors import NotReady
from service.settings import Settings


@dataclass
class Running:
    """What one application runs on, and what it is in the middle of."""

    settings: Settings
    engine: Engine
    classifier: Classifier
    draining: bool = False  # set on SIGTERM: finish what was accepted, take nothing new
    in_flight: int = 0  # requests accepted and not yet answered
    admin_port: int | None = None  # the second port, once it is bound

    @property
    def ready(self) -> bool:
        """Whether a picture sent now would be classified."""
        return self.classifier.ready and not self.draining

    @property
    def status(self) -> str:
        """One word for people: ready, draining or starting."""
        if self.ready:
            return "ready"
        return "draining" if self.draining or self.classifier.draining else "starting"

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


def running(request: Request) -> Running:
    """What the application that got this request runs on."""
    return cast(Running, request.app.state.running)
