"""
What is told of every answer, whoever gave it: to the metrics, and to the access log.

The log has a line for each; but of those that a full queue refuses, one line a second with the
number.  Overload is when lines are many and each costs time that is short: 80 us, as much as the
refusal itself.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from service.journal import KEY, Journal

Observer = Callable[[Scope, Journal], None]  # a request, and what is known of it

QUIET: Final = "alexnet.quiet"  # in a scope: its answer is told in a sum
PAUSE: Final = 1.0  # seconds that a sum is gathered

REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")  # others are not taken: they go into logs

log = logging.getLogger(__name__)


class Observed:
    """
    ASGI middleware: opens the journal, and tells `observers` of each answer, when it is complete.

    An answer has the `X-Request-ID` that its request came with, or one that is made here.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        self._app = app
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only look."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        journal = scope[KEY] = Journal(_request_id(scope), loop.time())
        named = (b"x-request-id", journal.request_id.encode())

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                journal.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), named]}
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            journal.ended = loop.time()
            if journal.status:
                for tell in self._observers:
                    tell(scope, journal)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


class AccessLog:
    """`address - "POST /v1/predict HTTP/1.1" 200`, as an observer."""

    def __init__(self) -> None:
        self._refused = 0

    def __call__(self, scope: Scope, journal: Journal) -> None:
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
                journal.status,
            )

    def _sum_up(self) -> None:
        log.warning("The queue is or was full: %d requests refused with 503", self._refused)
        self._refused = 0
