"""
What is told of every answer, whoever gave it: to the metrics, and to the access log.

The log has a line for each; but of those that a full queue refuses, one line a second with the
number.  Overload is when lines are many and each costs time that is short: 80 us, as much as the
refusal itself.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

Observer = Callable[[Scope, int], None]  # an answer's request and its status

QUIET: Final = "alexnet.quiet"  # in a scope: its answer is told in a sum
PAUSE: Final = 1.0  # seconds that a sum is gathered

log = logging.getLogger(__name__)


class Observed:
    """ASGI middleware: tells `observers` of each answer, when it is complete."""

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        self._app = app
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only look."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            if status:
                for tell in self._observers:
                    tell(scope, status)


class AccessLog:
    """`address - "POST /v1/predict HTTP/1.1" 200`, as an observer."""

    def __init__(self) -> None:
        self._refused = 0

    def __call__(self, scope: Scope, status: int) -> None:
        """Write the line, or count a refusal that is told later."""
        if QUIET in scope:
            if not self._refused:
                asyncio.get_running_loop().call_later(PAUSE, self._sum_up)
            self._refused += 1
        elif log.isEnabledFor(logging.INFO):
            log.info(
                '%s - "%s %s HTTP/%s" %d',
                get_client_addr(scope),  # type: ignore[arg-type]
                scope["method"],
                get_path_with_query_string(scope),  # type: ignore[arg-type]
                scope["http_version"],
                status,
            )

    def _sum_up(self) -> None:
        log.warning("The queue is or was full: %d requests refused with 503", self._refused)
        self._refused = 0
