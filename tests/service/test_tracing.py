"""Spans as a collector gets them: a real server sends them, a receiver of OTLP reads them."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.http.middleware import tracing
from tests.support.commands import alexnet
from tests.support.images import image
from tests.support.servers import PATIENCE, InThread, Live, serving, serving_process, until

PREDICT = "/v1/predict"
JPEG = {"content-type": "image/jpeg"}
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}  # ms between two sendings
ONLY_AT_THE_END = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}


class Told(NamedTuple):
    """One span, and who sent it."""

    span: Span
    service: str

    @property
    def attributes(self) -> dict[str, Any]:
        """As plain values."""
        return plain(self.span.attributes)


def plain(attributes: Any) -> dict[str, Any]:
    """OTLP's key and typed value -> a dictionary."""

    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, str(pair.value.WhichOneof("value")))

    return {pair.key: value(pair) for pair in attributes}


class Collector(ThreadingHTTPServer):
    """Receives OTLP over HTTP, as collectors do: protobuf, posted to /v1/traces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.told: list[Told] = []
        self.paths: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def trace(self, trace_id: str, spans: int) -> list[Told]:
        """The spans of a trace, once there are so many of them, in the order of their starts."""
        until(lambda: len(self.of(trace_id)) >= spans, f"{spans} spans of {trace_id}")
        return sorted(self.of(trace_id), key=lambda step: step.span.start_time_unix_nano)

    def of(self, trace_id: str) -> list[Told]:
        """What has come of a trace."""
        return [step for step in self.told if step.span.trace_id.hex() == trace_id]


class Receiver(BaseHTTPRequestHandler):
    """One connection of a server that sends spans."""

    server: Collector

    def do_POST(self) -> None:
        body = ExportTraceServiceRequest()
        body.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
        self.server.paths.add(self.path)
        for sender in body.resource_spans:
            service = plain(sender.resource.attributes)["service.name"]
            for scope in sender.scope_spans:
                self.server.told += [Told(span, service) for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Not to standard error."""


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector, until the block ends."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


@contextmanager
def traced(model: Path, endpoint: str, **variables: str) -> Iterator[InThread]:
    """A server that is given these OTEL_* variables, and is told to trace."""
    with ExitStack() as stack:
        with variables_set({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **variables}):
            settings = {"tracing": True, "log_format": "json", "access_log": "all"}
            server = stack.enter_context(serving(model, **settings))
        yield server


@contextmanager
def variables_set(values: dict[str, str]) -> Iterator[None]:
    """The environment, which a server is started in, with these."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_proxy() -> Iterator[None]:
    """Of those that are asked whenever spans are sent."""
    with variables_set({"NO_PROXY": "*"}):
        yield


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """One for all servers of these tests; they tell traces apart."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def live(tiny_model: Path, collector: Collector) -> Iterator[InThread]:
    """A server that sends its spans at once."""
    with traced(tiny_model, collector.url, **SOON) as server:
        yield server


def stop(server: InThread) -> None:
    """As an orchestrator would."""
    server.terminate()
    assert server.wait() == 0


def parent(number: int) -> tuple[str, dict[str, str]]:
    """The id of somebody's trace, and the header that a request of it has."""
    trace_id = f"{number:032x}"
    return trace_id, {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}


def ask(server: Live, headers: dict[str, str], data: bytes | None = None) -> int:
    """Have one image classified."""
    body = image() if data is None else data
    return server.client.post(PREDICT, content=body, headers=JPEG | headers).status_code


def test_a_request_is_a_tree_of_its_steps(live: Live, collector: Collector) -> None:
    """Each inside the request's time, each after the one before it."""
    trace_id, headers = parent(1)

    assert ask(live, {**headers, "x-request-id": "mine"}) == 200

    request, *steps = collector.trace(trace_id, spans=4)
    assert request.span.name == f"POST {PREDICT}"
    assert request.span.kind == Span.SPAN_KIND_SERVER
    assert [step.span.name for step in steps] == ["decode", "queue", "run"]
    assert all(step.span.parent_span_id == request.span.span_id for step in steps)
    moments = [request.span.start_time_unix_nano]
    for step in steps:
        moments += [step.span.start_time_unix_nano, step.span.end_time_unix_nano]
    moments.append(request.span.end_time_unix_nano)
    assert moments == sorted(moments)
    assert moments[-2] > moments[-3]  # a run takes time
    assert all(span.service == "alexnet" for span in (request, *steps))
    assert collector.paths == {"/v1/traces"}


def test_spans_say_what_they_are_about(live: Live, collector: Collector) -> None:
    trace_id, headers = parent(2)

    ask(live, {**headers, "x-request-id": "about-this"})

    request, *steps = collector.trace(trace_id, spans=4)
    assert {
        "http.route": PREDICT,
        "http.response.status_code": 200,
        "alexnet.request_id": "about-this",
        "alexnet.model": "alexnet_image",
    }.items() <= request.attributes.items()
    assert [step.attributes for step in steps] == [
        {"alexnet.image": 0},
        {"alexnet.image": 0},
        {"alexnet.image": 0, "alexnet.batch": 1},
    ]


def test_the_parent_is_the_callers_span(live: Live, collector: Collector) -> None:
    """As the header says it: https://www.w3.org/TR/trace-context/."""
    trace_id, headers = parent(3)

    ask(live, headers)

    assert collector.trace(trace_id, spans=4)[0].span.parent_span_id.hex() == "00f067aa0ba902b7"


def test_a_caller_that_does_not_sample_has_no_spans(live: Live, collector: Collector) -> None:
    trace_id, headers = parent(4)
    after, others = parent(5)

    ask(live, {"traceparent": headers["traceparent"].removesuffix("01") + "00"})
    ask(live, others)

    collector.trace(after, spans=4)
    assert collector.of(trace_id) == []


def test_each_image_of_a_form_has_its_steps(live: InThread, collector: Collector) -> None:
    """One that cannot be read ends in its decoding, which says why."""
    trace_id, headers = parent(6)
    files = {"a": image(), "b": b"none", "c": image()}

    with live.gate.closed() as gate, ThreadPoolExecutor() as pool:
        form = pool.submit(live.client.post, PREDICT, files=files, headers=headers)
        gate.until_held()
        live.until_queued()  # or refused
        gate.open()
        assert form.result().status_code == 200

    _, *steps = collector.trace(trace_id, spans=8)
    each = [[s for s in steps if s.attributes["alexnet.image"] == number] for number in range(3)]
    assert [[step.span.name for step in steps] for steps in each] == [
        ["decode", "queue", "run"],
        ["decode"],
        ["decode", "queue", "run"],
    ]
    (bad,) = each[1]
    assert bad.attributes["error.type"] == "image_type_unsupported"
    assert bad.span.status.code == Status.STATUS_CODE_ERROR
    # When it was refused, not when its neighbours were answered.
    assert bad.span.end_time_unix_nano < each[2][-1].span.end_time_unix_nano
    assert all(s.span.status.code == Status.STATUS_CODE_UNSET for s in (*each[0], *each[2]))


def test_a_refusal_names_its_code(live: Live, collector: Collector) -> None:
    """On the request's span; a step that it did not come to has none."""
    trace_id, headers = parent(7)

    assert ask(live, headers, image()[:2000]) == 422

    request, *steps = collector.trace(trace_id, spans=2)
    assert request.attributes["alexnet.code"] == "image_unreadable"
    assert [step.span.name for step in steps] == ["decode"]
    assert steps[0].attributes["error.type"] == "image_unreadable"


UNTRACED = (
    "/livez",
    "/readyz",
    "/health",
    "/ping",
    "/metrics",
    "/v2/health/live",
    "/v1/models/alexnet",
)


@pytest.mark.parametrize("path", UNTRACED)
def test_what_machines_ask_all_the_time_is_not_traced(
    live: Live, collector: Collector, path: str
) -> None:
    number = 100 + UNTRACED.index(path)
    trace_id, headers = parent(number)
    after, others = parent(number + 1000)

    live.client.get(path, headers=headers)
    ask(live, others)

    collector.trace(after, spans=4)
    assert collector.of(trace_id) == []


def test_the_log_names_the_trace(tiny_model: Path, collector: Collector) -> None:
    """Of the caller, or its own; what is not traced has none."""
    trace_id, headers = parent(8)
    with traced(tiny_model, collector.url, **SOON) as server:
        ask(server, headers)
        ask(server, {})
        server.client.get("/livez")
        stop(server)
    lines = [json.loads(line) for line in server.log]

    callers, own = (line for line in lines if line.get("path") == PREDICT)
    (livez,) = (line for line in lines if line.get("path") == "/livez")
    assert callers["trace_id"] == trace_id
    assert re.fullmatch(r"[0-9a-f]{32}", own["trace_id"])
    assert own["trace_id"] != trace_id
    assert collector.trace(own["trace_id"], 4)[0].span.span_id.hex() == own["span_id"]
    assert "trace_id" not in livez


def test_the_last_spans_are_sent_before_the_end(
    tiny_model: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would wait for more; SIGTERM sends them.  OTEL_SERVICE_NAME names who sent them."""
    monkeypatch.setattr(tracing, "LAST", PATIENCE)
    trace_id, headers = parent(9)
    with traced(tiny_model, collector.url, OTEL_SERVICE_NAME="cats", **ONLY_AT_THE_END) as server:
        ask(server, headers)
        early = collector.of(trace_id)
        stop(server)

    assert early == []
    assert len(collector.of(trace_id)) == 4
    assert {span.service for span in collector.of(trace_id)} == {"cats"}


def test_nothing_is_sent_while_tracing_is_off(tiny_model: Path) -> None:
    """Whatever the OTEL_* variables say, and FastAPI's own switch: it has this one."""
    with collecting() as idle:
        switches = {"FASTAPI_OTEL_AUTO_CONFIGURE": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": idle.url}
        with variables_set(switches | SOON), serving(tiny_model, log_format="json") as server:
            assert ask(server, parent(10)[1]) == 200
            stop(server)

        assert idle.told == []
    assert "trace_id" not in "".join(server.log)


@pytest.fixture(params=["refuses", "never answers"])
def broken(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of no collector."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "never answers":
            listener.listen(100)  # the system takes connections; nobody reads them
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


PATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "300", "OTEL_BSP_EXPORT_TIMEOUT": "300000"}


@pytest.fixture
def soon_given_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Servers hardly wait for the last spans; and what goes on sending them is ended at last."""
    exporters: list[OTLPSpanExporter] = []
    before = set(threading.enumerate())

    class Noted(OTLPSpanExporter):
        def __init__(self) -> None:
            super().__init__()
            exporters.append(self)

    monkeypatch.setattr(f"{OTLPSpanExporter.__module__}.OTLPSpanExporter", Noted)
    monkeypatch.setattr(tracing, "LAST", 0.05)
    yield
    for exporter in exporters:
        exporter.shutdown()  # type: ignore[no-untyped-call]
    for thread in set(threading.enumerate()) - before:
        if thread.name in ("alexnet-spans", "OtelBatchSpanRecordProcessor"):
            thread.join(PATIENCE)
            assert not thread.is_alive(), thread.name


@pytest.mark.usefixtures("soon_given_up")
def test_a_collector_that_is_not_there_harms_nobody(tiny_model: Path, broken: str) -> None:
    """Answers are given, and the stop does not wait for it: far less than the minutes allowed to
    the exporter."""
    with traced(tiny_model, broken, **SOON, **PATIENT) as server:
        statuses = {ask(server, {}) for _ in range(20)}
        stop(server)

    assert statuses == {200}
    assert any("spans could not be sent" in line for line in server.log)
    assert all(json.loads(line) for line in server.log)


@pytest.mark.parametrize("broken", ["never answers"], indirect=True)
def test_a_process_ends_while_its_collector_keeps_it_waiting(tiny_model: Path, broken: str) -> None:
    """Nothing that still sends keeps it: no thread, nor anything that is done at exit."""
    with ExitStack() as stack:
        with variables_set({"OTEL_EXPORTER_OTLP_ENDPOINT": broken, **SOON, **PATIENT}):
            server = stack.enter_context(serving_process(tiny_model, tracing=True))
        assert ask(server, {}) == 200
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0

    assert server.logged("spans could not be sent")


@pytest.mark.parametrize(
    ("variables", "hint"),
    [
        ({}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "collector:4318"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            },
            "http/protobuf",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
                "OTEL_TRACES_EXPORTER": "console",
            },
            "OTEL_TRACES_EXPORTER",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
                "OTEL_BSP_MAX_QUEUE_SIZE": "0",
            },
            "max_queue_size",
        ),
    ],
)
def test_tracing_to_nowhere_does_not_start(
    tiny_model: Path, variables: dict[str, str], hint: str
) -> None:
    """One sentence, as of any setting that cannot be used."""
    with variables_set(variables):
        done = alexnet("serve", "--port", "0", "--tracing", "true", model=tiny_model)

    assert done.returncode == 1
    text = done.stderr.decode()
    assert text.startswith("alexnet: ALEXNET_TRACING / --tracing is on, but")
    assert hint in text
    assert text.count("\n") == 1
