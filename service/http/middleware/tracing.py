"""
OpenTelemetry spans of requests and their stages; off by default.  They go to a collector.

    POST /v1/predict      FastAPI's, from the headers to the answer; `traceparent` is honoured
    +-- decode            of each image, made afterwards from the request record
    +-- queue
    +-- run

Where they go, how many of them and under which name, the SDK reads from its OTEL_* variables.  The
provider is made here, not by FastAPI's `auto_configure`: that one keeps a stop waiting for as long
as a collector does not answer, and is there for the whole process.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode, Tracer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import SettingsInvalid
from service.http.middleware.access_log import PROBES, stage_spans
from service.settings import Settings, spelled
from service.telemetry.logs import ABOUT
from service.telemetry.request_record import RequestRecord, record_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

LAST: Final = 2.0  # seconds that the last spans may take to be sent
NAME: Final = "alexnet"  # of the service, unless OTEL_SERVICE_NAME says otherwise

log = logging.getLogger("service.routes.tracing")


def provider(settings: Settings) -> "TracerProvider | None":
    """What makes and sends spans, or None without tracing; raises `SettingsInvalid`."""
    if not settings.tracing or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    _check_destination()
    # Half a second of imports, for those who trace.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        attributes = OTELResourceDetector().detect().attributes
        resource = Resource.create({SERVICE_NAME: attributes.get(SERVICE_NAME, NAME)})
        tracer = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracer.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except (ValueError, OSError) as error:
        raise SettingsInvalid(
            f"{spelled('tracing')} is on, but one of the OTEL_* variables cannot be used: {error}"
        ) from error
    return tracer


def _check_destination() -> None:
    """Raise `SettingsInvalid` unless the environment names a collector that can be spoken to."""

    def variable(name: str) -> str | None:
        """One for spans wins over one for all signals."""
        prefix = "OTEL_EXPORTER_OTLP"
        return os.environ.get(f"{prefix}_TRACES_{name}") or os.environ.get(f"{prefix}_{name}")

    on = f"{spelled('tracing')} is on, but"
    address = variable("ENDPOINT")
    if not address:
        raise SettingsInvalid(
            f"{on} nothing says where the spans go; set OTEL_EXPORTER_OTLP_ENDPOINT to a "
            "collector's address, such as http://localhost:4318"
        )
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise SettingsInvalid(
            f"{on} OTEL_EXPORTER_OTLP_ENDPOINT is {address!r}; write an address such as "
            "http://localhost:4318"
        )
    if (protocol := variable("PROTOCOL") or "http/protobuf") != "http/protobuf":
        raise SettingsInvalid(
            f"{on} OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; only http/protobuf is spoken here, "
            "usually on port 4318"
        )
    if (exporter := os.environ.get("OTEL_TRACES_EXPORTER") or "otlp") != "otlp":
        raise SettingsInvalid(
            f"{on} OTEL_TRACES_EXPORTER is {exporter!r}; only otlp is known here; take it away, or "
            "turn tracing off"
        )


def telemetry(tracer: "TracerProvider | None") -> TelemetryConfig:
    """What FastAPI does of it: spans of requests, and nothing at all without a provider."""
    return {
        "tracing": tracer is not None,
        "tracer_provider": tracer,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,  # one switch is enough
        "exclude": _untraced,
    }


def _untraced(scope: MutableMapping[str, Any]) -> bool:
    return scope["type"] != "http" or PROBES.fullmatch(scope["path"]) is not None


class Traced:
    """ASGI middleware, inside `AccessLog`: adds the request record to the span of a request."""

    def __init__(self, app: ASGIApp, provider: "TracerProvider") -> None:
        self._app = app
        self._tracer = provider.get_tracer(NAME)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the spans of its stages afterwards."""
        if _untraced(scope):
            await self._app(scope, receive, send)
            return
        record, span, answered = record_of(scope), trace.get_current_span(), 0.0
        context = span.get_span_context()
        ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
        ABOUT.set({**ABOUT.get(), **ids})
        span.set_attribute("alexnet.request_id", record.request_id)

        async def send_and_note(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = time.monotonic()
                for name, value in (("model", record.model), ("code", record.code)):
                    if value is not None:
                        span.set_attribute(f"alexnet.{name}", value)
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if context.trace_flags.sampled:
                _add_stages(self._tracer, span, record, answered or time.monotonic())


def _add_stages(tracer: Tracer, parent: Span, record: RequestRecord, answered: float) -> None:
    """Add the spans of the stages of a request's images."""
    inside = trace.set_span_in_context(parent)
    # A pause between the two readings would set all stages back, before the request's beginning.
    since_epoch = max(time.time_ns() - time.monotonic_ns() for _ in range(3))
    outcomes = record.outcomes or [record.code] * len(record.images)
    for number, (timings, code) in enumerate(zip(record.images, outcomes, strict=True)):
        stages = stage_spans(timings, answered)
        for name, *moments in stages:
            begin, end = (int(1e9 * moment) + since_epoch for moment in moments)
            span = tracer.start_span(
                name, inside, attributes={"alexnet.image": number}, start_time=begin
            )
            if name == "run":
                span.set_attribute("alexnet.batch", timings.batch)
            if code is not None and name == stages[-1][0]:
                span.set_attribute("error.type", code)
                span.set_status(StatusCode.ERROR)
            span.end(end)


async def flush(tracer: "TracerProvider", seconds: float) -> None:
    """Send what is left; what cannot be sent within `seconds`, or `LAST`, is lost."""
    # The provider's own limits are 10 s for each attempt, and 30 s together.
    sending = threading.Thread(target=tracer.shutdown, name="alexnet-spans", daemon=True)
    sending.start()
    loop = asyncio.get_running_loop()
    until = loop.time() + min(seconds, LAST)
    while sending.is_alive() and loop.time() < until:  # noqa: ASYNC110  nothing of it can be awaited
        await asyncio.sleep(0.02)
    if sending.is_alive():
        log.warning("The last spans could not be sent in time: the collector does not take them")
