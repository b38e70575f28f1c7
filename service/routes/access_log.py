"""
A line for each answer; of those that a full queue refuses, one line a second tells the number.

Overload is when lines are many and each costs time that is short: 80 us, as much as the refusal.
"""

import asyncio
import logging
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

QUIET: Final = "alexnet.quiet"  # in a scope: its answer is told in a sum
PAUSE: Final = 1.0  # seconds between two sums

log = logging.getLogger(__name__)


class AccessLog:
    """ASGI middleware: `address - "POST /v1/predict HTTP/1.1" 200` once an answer is sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and note the status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._tell(scope, status)

    def _tell(self, scope: Scope, status: int) -> None:
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
