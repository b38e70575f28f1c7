"""
Admission: while the queue is full, a request is refused before routing and before its body.

At ten times what the engine can do, nine requests of ten end here, and each microsecond that one
takes is missing for those that are served.  No place is reserved yet: that happens once, when the
body is there, so that slow senders cannot fill the queue.
"""

from collections.abc import Collection
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from service import errors
from service.http.middleware.access_log import QUIET
from service.http.middleware.errors import refusal
from service.http.state import ServiceState

METHODS: Final = ("POST", "PUT")


class Admission:
    """ASGI middleware: a request to one of `paths` while the queue is full gets a 503 at once."""

    def __init__(self, app: ASGIApp, state: ServiceState, paths: Collection[str]) -> None:
        self._app = app
        self._state = state
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in METHODS and scope["path"] in self._paths:
            try:
                self._state.classifier.batcher.check_room()
            except errors.ServiceError as error:
                if isinstance(error, errors.Overloaded):
                    scope[QUIET] = True
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
