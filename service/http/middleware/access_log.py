"""
What is told of every answer, whoever gave it: to the metrics, to the access log, and in the answer
itself its `X-Request-ID` and, if it is about images, the times of its steps.

The log has a line for each; but of those that a full queue refuses, one line a second with the
number.  Overload is when lines are many and each costs time that is short: 80 us, as much as the
refusal itself.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Final
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.inference.timings import Steps
from service.telemetry.logs import ABOUT
from service.telemetry.request_record import KEY, Journal

Observer = Callable[[Scope, Journal], None]  # a request, and what is known of it

QUIET: Final = "alexnet.quiet"  # in a scope: its answer is told in a sum
PAUSE: Final = 1.0  # seconds that a sum is gathered

REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")  # others are not taken: they go into logs
PLAIN: Final = "!#$%&'()*+,/:;<=>?@[]^`{|}"  # left as it is in a line: not space, quote, backslash

log = logging.getLogger("service.routes.observing")


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
        journal = scope[KEY] = Journal(_request_id(scope), time.monotonic())
        # Never taken back: an error that is raised is logged after us, in the same task.
        ABOUT.set({"request_id": journal.request_id})
        named = (b"x-request-id", journal.request_id.encode())

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                journal.status = message["status"]
                headers = [*message.get("headers", ()), named]
                if journal.model is not None or QUIET in scope:
                    headers.append((b"server-timing", _server_timing(journal).encode()))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            journal.ended = time.monotonic()
            if journal.status:
                for tell in self._observers:
                    tell(scope, journal)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    return secrets.token_hex(16)


def stretches(steps: Steps, now: float) -> list[tuple[str, float, float]]:
    """
    The steps that an image has come to: name, beginning, end, as in `Steps.spans`.

    The one that it never left ends when it was refused there, or `now`.
    """
    found = list(steps.spans())
    if steps.began is not None and steps.answered is None:
        end = found[-1][2] if found else steps.began
        found.append((("decode", "queue", "run")[len(found)], end, max(end, steps.refused or now)))
    return found


def _slowest(journal: Journal) -> Steps | None:
    """Of several images, the one answered last; if none was, one that came as far as any."""
    return journal.last or max(
        journal.images, key=lambda steps: len(list(steps.spans())), default=None
    )


def _milliseconds(journal: Journal, steps: Steps | None, now: float) -> dict[str, float]:
    """How long the request was in each step that it has come to: read, decode, queue, run."""
    found = {}
    if journal.read is not None:
        found["read"] = 1e3 * (journal.read - journal.began)
    if steps is not None:
        found |= {name: 1e3 * (end - begin) for name, begin, end in stretches(steps, now)}
    return found


def _server_timing(journal: Journal) -> str:
    """The header of that name, https://www.w3.org/TR/server-timing/; durations in ms."""
    now, steps = time.monotonic(), _slowest(journal)
    told = [f"{name};dur={ms:.1f}" for name, ms in _milliseconds(journal, steps, now).items()]
    if steps is not None and steps.batch:
        told[-1] += f';desc="batch of {steps.batch}"'
    return ", ".join([*told, f"total;dur={1e3 * (now - journal.began):.1f}"])


class AccessLog:
    """`address "POST /v1/predict HTTP/1.1" 200 in 18.2 ms`, as an observer."""

    def __init__(self) -> None:
        self._refused = 0

    def __call__(self, scope: Scope, journal: Journal) -> None:
        """Write the line, or count a refusal that is told later."""
        if QUIET in scope:
            if not self._refused:
                loop = asyncio.get_running_loop()
                loop.call_later(PAUSE, self._sum_up, context=Context())  # it is no one's request
            self._refused += 1
        elif log.isEnabledFor(logging.INFO):
            fields = _line(scope, journal)
            log.info(
                '%(client)s "%(method)s %(path)s HTTP/%(http_version)s" %(status)d '
                "in %(duration_ms).1f ms",
                fields,
                extra=fields,
            )

    def _sum_up(self) -> None:
        log.warning("The queue is or was full: %d requests refused with 503", self._refused)
        self._refused = 0


def _line(scope: Scope, journal: Journal) -> dict[str, Any]:
    """What the log tells of an answer; docs/logs-and-traces.md explains it."""
    ended = journal.ended or time.monotonic()
    steps = _slowest(journal)
    client, query = scope.get("client"), scope["query_string"]
    target = scope.get("raw_path") or scope["path"].encode()
    fields = {
        # A proxy's X-Forwarded-For can hold anything, like the target.
        "client": quote(f"{client[0]}:{client[1]}", PLAIN) if client else "unknown",
        "method": scope["method"],
        "path": quote(b"%s?%s" % (target, query) if query else target, PLAIN),
        "http_version": scope["http_version"],
        "status": journal.status,
        "duration_ms": round(1e3 * (ended - journal.began), 3),
    }
    for name, milliseconds in _milliseconds(journal, steps, ended).items():
        fields[f"{name}_ms"] = round(milliseconds, 3)
    if steps is not None and steps.batch:
        fields["batch"] = steps.batch
    if journal.images:
        fields["pictures"] = len(journal.images)
    route = getattr(scope.get("route"), "path", None)
    known = {"code": journal.code, "model": journal.model, "route": route}
    return fields | {name: value for name, value in known.items() if value is not None}
