"""
Prometheus metrics of requests, runs and the service's state.  Requests and runs are counted as they
pass, gauges are read on demand.

`Metrics.count` gets each request that was answered, `Metrics.ran` each run of the network, and
`read` returns the state of the service.  Triton's names are there too, for dashboards that ask for
them: as in an ensemble of Triton's, `alexnet_image` decodes and then asks `alexnet` (or what
ALEXNET_MODEL_NAME calls them).  A request to
the first is one to the second too, where it begins when its image is decoded.  A request that is
not answered counts only for the model that it asked for.
"""

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, UnknownMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import Scope

from service.inference.queue import StageTimings
from service.telemetry.request_record import VERSION, ModelNames, RequestRecord

OPEN_METRICS: Final = "application/openmetrics-text"
UNTYPED: Final = re.compile(rb"^(# TYPE nv_\w+) untyped$", re.MULTILINE)
OK: Final = 200

# Labels are kept for good: any other method is counted under one name.
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER: Final = "other"

# Seconds.  From what decoding a small image takes, 0.5 ms, to what only a raised ALEXNET_TIMEOUT
# allows, whose default, 30 s, is a border.  Each is twice the one before, so that a quantile is
# known to a factor of two at any size; one row for all, so that steps can be compared.
SECONDS: Final = (
    *(0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.125),
    *(0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0),
)
# A tenth each, and finer at both ends: what is not like ImageNet is below, and a network that is
# sure of most images is above.
PROBABILITIES: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BATCHES: Final = tuple(float(2**power) for power in range(11))  # to 1024, as ALEXNET_MAX_BATCH

# Why there is no answer; every code that is in neither set is a refusal.
ABANDONED: Final = frozenset({"client_left"})
FAILED: Final = frozenset({"internal_error", "deadline_exceeded", "not_ready"})

# The reasons that Triton knows for them; every code that is not here is OTHER.
REASONS: Final = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
REASON_OF: Final[Mapping[str, str]] = {
    "overloaded": "REJECTED",
    "deadline_exceeded": "REJECTED",
    "client_left": "CANCELED",
    "internal_error": "BACKEND",
}


@dataclass(frozen=True)
class Snapshot:
    """The state of the service at one moment, for the gauges."""

    pending: int  # images
    limit: int  # images
    batch_limit: int  # images
    in_flight: int  # requests
    held: int  # bytes
    held_limit: int  # bytes
    memory_limit: int | None  # bytes, of the container
    ready: bool
    degraded: bool  # on the CPU, though there is a GPU
    reloads: Mapping[str, bool]  # what SIGHUP reads again: whether that failed
    facts: Mapping[str, str]  # provider, device requested, model


@dataclass(slots=True)
class Statistics:
    """What one model has done since the start, in Triton's terms; durations are sums over requests
    in nanoseconds, of each the times of the image that was answered last."""

    success: int = 0  # requests answered with 200
    success_ns: int = 0  # of those, from the headers to the answer
    failures: dict[str, int] = field(  # other requests that asked for it, by Triton's reason
        default_factory=lambda: dict.fromkeys(REASONS, 0)
    )
    failure_ns: int = 0
    inferences: int = 0  # images answered
    executions: int = 0  # runs of the network; of encoded images, requests
    input_ns: int = 0  # reading and decoding
    queue_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0  # from the end of the run to the answer
    last: int = 0  # ms since 1970, of the last request
    batches: dict[int, tuple[int, int]] = field(default_factory=dict)  # size: runs, nanoseconds

    @property
    def failure(self) -> int:
        """Requests that were not answered with 200, whatever the reason."""
        return sum(self.failures.values())

    def ran(self, images: int, seconds: float) -> None:
        """Count a run of the network."""
        self.executions += 1
        runs, before = self.batches.get(images, (0, 0))
        self.batches[images] = runs + 1, before + _ns(seconds)

    def failed(self, record: RequestRecord) -> None:
        """Count a request that was not answered with 200."""
        self.failures[REASON_OF.get(record.code or "", "OTHER")] += 1
        self.failure_ns += _ns((record.ended or record.began) - record.began)
        self.last = _now()

    def succeeded(
        self, record: RequestRecord, last: StageTimings, *, from_pixels: bool = False
    ) -> None:
        """Count a request whose `last` image was answered then; `from_pixels` leaves out what came
        before its image was pixels."""
        moments = (record.began, last.decoded, last.running, last.answered, record.ended)
        # Each at least the one before: two clocks of different fineness may have been read.
        began, *after = accumulate((moment or 0.0 for moment in moments), max)
        decoded, running, answered, ended = after
        if from_pixels:
            began = decoded
        self.success += 1
        self.success_ns += _ns(ended - began)
        self.input_ns += _ns(decoded - began)
        self.queue_ns += _ns(running - decoded)
        self.infer_ns += _ns(answered - running)
        self.output_ns += _ns(ended - answered)
        self.inferences += record.outcomes.count(None)
        self.last = _now()


# Triton's names are those of counters, but without the ending that OpenMetrics demands of these.
TRITON: Final[Mapping[str, tuple[str, Callable[[Statistics], float]]]] = {
    "request_success": ("Requests answered.", lambda model: model.success),
    "count": ("Images answered.", lambda model: model.inferences),
    "exec_count": (
        "Runs; of the model that takes encoded images, requests.",
        lambda model: model.executions,
    ),
    "request_duration_us": ("Of requests answered.", lambda model: model.success_ns // 1000),
    "queue_duration_us": ("In the queue.", lambda model: model.queue_ns // 1000),
    "compute_input_duration_us": ("Reading and decoding.", lambda model: model.input_ns // 1000),
    "compute_infer_duration_us": ("In the network.", lambda model: model.infer_ns // 1000),
    "compute_output_duration_us": ("From run to answer.", lambda model: model.output_ns // 1000),
}


class Metrics(Collector):
    """The metrics of one application, in a registry of its own."""

    def __init__(
        self, read: Callable[[], Snapshot], names: ModelNames, routes: Collection[str] = ()
    ) -> None:
        """`routes` are paths that may be answered before the router has named them: those that
        classify, which a full queue refuses early."""
        self._read = read
        self._names = names
        self._routes = {
            path: names.tensor if path.startswith(f"/v2/models/{names.tensor}/") else names.image
            for path in routes
        }
        self.statistics = {model: Statistics() for model in (names.tensor, names.image)}
        self._registry = CollectorRegistry()
        # One more series for each, which would be stored and never read.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        counter = partial(Counter, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry, buckets=SECONDS)
        self._requests = counter(
            "alexnet_http_requests",
            "Requests answered, by the route's path, method and status.",
            ["route", "method", "status"],
        )
        self._errors = counter(
            "alexnet_http_errors",
            "Requests answered with an error, by the route's path and the error's code.",
            ["route", "reason"],
        )
        self._images = counter(
            "alexnet_images",
            "Images answered, refused, failed or abandoned, and the error's code.",
            ["outcome", "reason"],
        )
        self._request_seconds = histogram(
            "alexnet_request_duration_seconds",
            "From a request's headers to its answer's end, if it asked for classes and was not "
            "refused.",
            ["route"],
        )
        self._decode_seconds = histogram(
            "alexnet_decode_duration_seconds", "Decoding an image, and waiting for a decoder."
        )
        self._queue_seconds = histogram(
            "alexnet_queue_duration_seconds", "From an image's decoding to its batch's start."
        )
        self._run_seconds = histogram(
            "alexnet_run_duration_seconds", "A run of the network, of one batch."
        )
        self._batches = histogram(
            "alexnet_batch_images", "Images in a run of the network.", buckets=BATCHES
        )
        self._confidences = histogram(
            "alexnet_best_class_probability",
            "The probability of the best class, of images answered.",
            buckets=PROBABILITIES,
        )
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def ran(self, images: int, seconds: float) -> None:
        """Count a run of the network."""
        self._run_seconds.observe(seconds)
        self._batches.observe(images)
        self.statistics[self._names.tensor].ran(images, seconds)

    def count(self, scope: Scope, record: RequestRecord) -> None:
        """Count a request that was answered."""
        # The router writes the route into the scope, if it finds one.
        route = getattr(scope.get("route"), "path", None)
        path, method = scope["path"], scope["method"]
        label = route or (path if path in self._routes else OTHER)
        self._requests.labels(label, method if method in METHODS else OTHER, record.status).inc()
        if record.code is not None:
            self._errors.labels(label, record.code).inc()
        model = record.model
        if model is None and record.status == 503:  # refused at admission
            model = self._routes.get(path)
        if model is not None:
            self._count_for_triton(record, model)
        if record.images:
            self._count_images(record)
        if record.model and record.ended and _outcome(record.code) != "refused":
            self._request_seconds.labels(label).observe(record.ended - record.began)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their media type: OpenMetrics 1.0.0 if it is accepted, or 0.0.4."""
        # Not the header itself: a client does not choose what is parsed as a version, or echoed.
        encode, media_type = choose_encoder(OPEN_METRICS if OPEN_METRICS in accept else "")
        # In the older format a counter may have any name, which the library does not know.
        return UNTYPED.sub(rb"\1 counter", encode(self._registry)), media_type

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for each time: what is read on demand."""
        yield from _gauges(now := self._read())
        yield from _triton_families(self.statistics, self._names, now.pending)

    def _count_for_triton(self, record: RequestRecord, model: str) -> None:
        if record.status != OK:
            self.statistics[model].failed(record)
            return
        encoded = model == self._names.image
        if encoded:
            self.statistics[model].executions += 1
        if (last := record.last) is None:  # it had no image
            return
        if encoded:
            self.statistics[model].succeeded(record, last)
        self.statistics[self._names.tensor].succeeded(record, last, from_pixels=encoded)

    def _count_images(self, record: RequestRecord) -> None:
        for code in record.outcomes or [record.code] * len(record.images):
            # Of v2's rows that are well none is answered if one is not.
            reason = code or record.code
            self._images.labels(_outcome(reason), reason or "").inc()
        if record.status == OK:  # else v2 has answered none of them
            for confidence in record.confidences:
                self._confidences.observe(confidence)
        for timings in record.images:
            if timings.decoded is None:
                continue
            if timings.began is not None and record.model == self._names.image:
                self._decode_seconds.observe(timings.decoded - timings.began)
            if timings.running is not None:
                self._queue_seconds.observe(timings.running - timings.decoded)


def _gauges(now: Snapshot) -> Iterator[Metric]:
    """The gauges of a snapshot, one family after the other."""
    for name, text, value in (
        ("alexnet_images_pending", "Images accepted and unanswered.", now.pending),
        ("alexnet_images_limit", "Images that may be pending.", now.limit),
        ("alexnet_batch_images_limit", "Images that may share a run.", now.batch_limit),
        ("alexnet_requests_in_flight", "Requests accepted and unanswered.", now.in_flight),
        ("alexnet_uploads_held_bytes", "Bodies in memory.", now.held),
        ("alexnet_uploads_limit_bytes", "What bodies may take together.", now.held_limit),
        ("alexnet_memory_limit_bytes", "What the container may take.", now.memory_limit),
        ("alexnet_ready", "1 if an image sent now would be classified.", now.ready),
        ("alexnet_degraded", "1 if the CPU computes though there is a GPU.", now.degraded),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, text, value=float(value))
    reloads = GaugeMetricFamily(
        "alexnet_reload_failed", "1 if the last SIGHUP could not read it again.", labels=["what"]
    )
    for what, failed in now.reloads.items():
        reloads.add_metric([what], float(failed))
    yield reloads
    provider = GaugeMetricFamily(
        "alexnet_provider", "1 for what computes.", labels=["provider", "requested"]
    )
    provider.add_metric([now.facts["provider"], now.facts["device_requested"]], 1.0)
    yield provider
    yield InfoMetricFamily("alexnet", "What computes, and with which model.", value=dict(now.facts))


def _triton_families(
    statistics: Mapping[str, Statistics], names: ModelNames, pending: int
) -> Iterator[Metric]:
    """Triton's counters, and its gauge of pending requests, which counts `pending` images here."""
    labels = ["model", "version"]
    for name, (text, value) in TRITON.items():
        sums = UnknownMetricFamily(f"nv_inference_{name}", text, labels=labels)
        for model, of_model in statistics.items():
            sums.add_metric([model, VERSION], value(of_model))
        yield sums
    failures = UnknownMetricFamily(
        "nv_inference_request_failure",
        "Requests that asked for it and got no answer.",
        labels=[*labels, "reason"],
    )
    for model, of_model in statistics.items():
        for reason, count in of_model.failures.items():
            failures.add_metric([model, VERSION, reason], count)
    yield failures
    waiting = GaugeMetricFamily(
        "nv_inference_pending_request_count", "Images accepted and unanswered.", labels=labels
    )
    waiting.add_metric([names.tensor, VERSION], pending)
    yield waiting


def _outcome(code: str | None) -> str:
    if code is None:
        return "answered"
    return "abandoned" if code in ABANDONED else "failed" if code in FAILED else "refused"


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _now() -> int:
    return int(time.time() * 1000)
