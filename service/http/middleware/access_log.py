"""
The access log, and the headers of every response.  The headers are `X-Request-ID`,
`Server-Timing` and those of security.

The log has a line for each answer that ALEXNET_ACCESS_LOG wants, but one line a second for all that
a full queue refuses, with their number: under overload each line costs 80 us, as much as the
refusal itself.
"""

import asyncio
import logging
import re
import secrets
import time
from contextvars import Context
from typing import Any, Final, Literal
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.inference.queue import StageTimings
from service.telemetry.logs import ABOUT
from service.telemetry.metrics import Metrics
from service.telemetry.request_record import KEY, RequestRecord

# Asked every few seconds, by machines.
PROBES: Final = re.compile(
    r"/(health|livez|readyz|ping|metrics|v2/health/(live|ready)|v2/models/.+/ready"
    r"|v1/models/[^/:]+)"
)
STATIC: Final = ("/static/", "/static-offline-docs/")  # what pages are made of
QUIET: Final = "alexnet.quiet"  # in a scope: its answer is only counted in the log
FAILED: Final = 400  # and above: statuses of what was not answered as it was asked
PAUSE: Final = 1.0  # seconds between two lines with the number of refusals

REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")  # others are not taken: they go into logs
PLAIN: Final = "!#$%&'()*+,/:;<=>?@[]^`{|}"  # left as it is in a line: not space, quote, backslash

SECURITY_HEADERS: Final = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

log = logging.getLogger("service.routes.observing")


class AccessLog:
    """
    ASGI middleware, the outermost: opens the record, completes the headers of the answer, and
    counts and logs it once it is complete.

    An answer has the `X-Request-ID` that its request came with, or one that is made here, and the
    strictest security headers where its endpoint has not chosen others.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        lines: Literal["all", "requests", "off"] = "requests",
    ) -> None:
        """`lines` is ALEXNET_ACCESS_LOG."""
        self._app = app
        self._metrics = metrics
        self._lines = lines
        self._refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and record its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope[KEY] = RequestRecord(_request_id(scope), time.monotonic())
        # Never reset: an error that is raised is logged later, in the same task.
        ABOUT.set({"request_id": record.request_id})

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = list(message.get("headers", ()))
                chosen = {name for name, _ in headers}
                headers += [header for header in SECURITY_HEADERS if header[0] not in chosen]
                headers.append((b"x-request-id", record.request_id.encode()))
                if record.model is not None or QUIET in scope:
                    headers.append((b"server-timing", _server_timing(record).encode()))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        finally:
            record.ended = time.monotonic()
            if record.status:
                self._metrics.count(scope, record)
                self.log(scope, record)

    def log(self, scope: Scope, record: RequestRecord) -> None:
        """Write `address "POST /v1/predict HTTP/1.1" 200 in 18.2 ms`, or count a refusal for a
        later line."""
        if QUIET in scope:
            if not self._refused:
                loop = asyncio.get_running_loop()
                loop.call_later(PAUSE, self._sum_up, context=Context())  # outside any request
            self._refused += 1
        elif log.isEnabledFor(logging.INFO) and self._wants(scope, record):
            fields = _line(scope, record)
            log.info(
                '%(client)s "%(method)s %(path)s HTTP/%(http_version)s" %(status)d '
                "in %(duration_ms).1f ms",
                fields,
                extra=fields,
            )

    def _wants(self, scope: Scope, record: RequestRecord) -> bool:
        """Whether the answer is a line of the log; a check that fails is one worth reading."""
        if self._lines != "requests":
            return self._lines == "all"
        path = scope["path"]
        usual = PROBES.fullmatch(path) is not None or path.startswith(STATIC)
        return record.status >= FAILED or not usual

    def _sum_up(self) -> None:
        log.warning("The queue is or was full: %d requests refused with 503", self._refused)
        self._refused = 0


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            return text if REQUEST_ID.fullmatch(text) else secrets.token_hex(16)
    return secrets.token_hex(16)


def stage_spans(timings: StageTimings, now: float) -> list[tuple[str, float, float]]:
    """
    The stages that an image has come to: name, beginning, end, as in `StageTimings.spans`.

    The stage that it never left ends when it was refused there, or `now`.
    """
    spans = list(timings.spans())
    if timings.began is not None and timings.answered is None:
        end = spans[-1][2] if spans else timings.began
        stage = ("decode", "queue", "run")[len(spans)]
        spans.append((stage, end, max(end, timings.refused or now)))
    return spans


def _slowest(record: RequestRecord) -> StageTimings | None:
    """Of several images, the one answered last; if none was, one that came as far as any."""
    return record.last or max(
        record.images, key=lambda timings: len(list(timings.spans())), default=None
    )


def _milliseconds(
    record: RequestRecord, timings: StageTimings | None, now: float
) -> dict[str, float]:
    """How long the request was in each stage that it has come to: read, decode, queue, run."""
    durations = {}
    if record.read is not None:
        durations["read"] = 1e3 * (record.read - record.began)
    if timings is not None:
        durations |= {name: 1e3 * (end - begin) for name, begin, end in stage_spans(timings, now)}
    return durations


def _server_timing(record: RequestRecord) -> str:
    """The header of that name, https://www.w3.org/TR/server-timing/; durations in ms."""
    now, timings = time.monotonic(), _slowest(record)
    entries = [f"{name};dur={ms:.1f}" for name, ms in _milliseconds(record, timings, now).items()]
    if timings is not None and timings.batch:
        entries[-1] += f';desc="batch of {timings.batch}"'
    return ", ".join([*entries, f"total;dur={1e3 * (now - record.began):.1f}"])


def _line(scope: Scope, record: RequestRecord) -> dict[str, Any]:
    """The fields of an answer's line; docs/logs-and-traces.md explains them."""
    ended = record.ended or time.monotonic()
    timings = _slowest(record)
    client, query = scope.get("client"), scope["query_string"]
    target = scope.get("raw_path") or scope["path"].encode()
    fields = {
        # A proxy's X-Forwarded-For can hold anything, like the target.
        "client": quote(f"{client[0]}:{client[1]}", PLAIN) if client else "unknown",
        "method": scope["method"],
        "path": quote(b"%s?%s" % (target, query) if query else target, PLAIN),
        "http_version": scope["http_version"],
        "status": record.status,
        "duration_ms": round(1e3 * (ended - record.began), 3),
    }
    for name, milliseconds in _milliseconds(record, timings, ended).items():
        fields[f"{name}_ms"] = round(milliseconds, 3)
    if timings is not None and timings.batch:
        fields["batch"] = timings.batch
    if record.images:
        fields["pictures"] = len(record.images)
    route = getattr(scope.get("route"), "path", None)
    known = {"code": record.code, "model": record.answered_as or record.model, "route": route}
    return fields | {name: value for name, value in known.items() if value is not None}
