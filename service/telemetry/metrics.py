"""
Prometheus metrics: requests and runs are counted as they pass, gauges are read on demand.

The parts that are measured do not know of it: `Metrics.count` gets each request that was answered,
`Metrics.ran` each run of the network, and `read` returns the state of the service.  Triton's names
are there too, for dashboards that ask for them.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import Scope

from service.telemetry import triton_metrics
from service.telemetry.request_record import IMAGE_MODEL, TENSOR_MODEL, RequestRecord
from service.telemetry.triton_metrics import Statistics

OPEN_METRICS: Final = "application/openmetrics-text"

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
BATCHES: Final = tuple(float(2**power) for power in range(11))  # to 1024, as ALEXNET_MAX_BATCH

# Why there is no answer; every code that is in neither set is a refusal.
ABANDONED: Final = frozenset({"client_left"})
FAILED: Final = frozenset({"internal_error", "deadline_exceeded", "not_ready"})


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


class Metrics(Collector):
    """The metrics of one application, in a registry of its own."""

    def __init__(self, read: Callable[[], Snapshot], routes: Collection[str] = ()) -> None:
        """`routes` are paths that may be answered before the router has named them: those that
        classify, which a full queue refuses early."""
        self._read = read
        self._routes = {
            path: TENSOR_MODEL if f"/models/{TENSOR_MODEL}/" in path else IMAGE_MODEL
            for path in routes
        }
        self._registry = CollectorRegistry()
        self.statistics = {model: Statistics() for model in (TENSOR_MODEL, IMAGE_MODEL)}
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._errors: Counter[tuple[str, str]] = Counter()
        self._images: Counter[str | None] = Counter()
        self._request_seconds = Histogram(
            "alexnet_request_duration_seconds",
            "From a request's headers to its answer's end, if it asked for classes and was not "
            "refused.",
            ["route"],
            buckets=SECONDS,
            registry=None,
        )
        self._decode_seconds = _histogram(
            "alexnet_decode_duration_seconds", "Decoding an image, and waiting for a decoder."
        )
        self._queue_seconds = _histogram(
            "alexnet_queue_duration_seconds", "From an image's decoding to its batch's start."
        )
        self._run_seconds = _histogram(
            "alexnet_run_duration_seconds", "A run of the network, of one batch."
        )
        self._batches = _histogram(
            "alexnet_batch_images", "Images in a run of the network.", BATCHES
        )
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def ran(self, images: int, seconds: float) -> None:
        """Count a run of the network."""
        self._run_seconds.observe(seconds)
        self._batches.observe(images)
        self.statistics[TENSOR_MODEL].ran(images, seconds)

    def count(self, scope: Scope, record: RequestRecord) -> None:
        """Count a request that was answered."""
        # The router writes the route into the scope, if it finds one.
        route = getattr(scope.get("route"), "path", None)
        path, method = scope["path"], scope["method"]
        label = route or (path if path in self._routes else OTHER)
        self._requests[label, method if method in METHODS else OTHER, str(record.status)] += 1
        if record.code is not None:
            self._errors[label, record.code] += 1
        model = record.model
        if model is None and record.status == 503:  # refused at admission
            model = self._routes.get(path)
        if model is not None:
            triton_metrics.count(self.statistics, record, model)
        if record.images:
            self._count_images(record)
        if record.model and record.ended and _outcome(record.code) != "refused":
            self._request_seconds.labels(label).observe(record.ended - record.began)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their media type: OpenMetrics 1.0.0 if it is accepted, or 0.0.4."""
        # Not the header itself: a client does not choose what is parsed as a version, or echoed.
        encode, media_type = choose_encoder(OPEN_METRICS if OPEN_METRICS in accept else "")
        return encode(self._registry), media_type

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for each time."""
        yield from self._counters()
        yield from self._histograms()
        yield from _gauges(now := self._read())
        yield from triton_metrics.families(self.statistics, now.pending)

    def _count_images(self, record: RequestRecord) -> None:
        for code in record.outcomes or [record.code] * len(record.images):
            # Of v2's rows that are well none is answered if one is not.
            self._images[code or record.code] += 1
        for timings in record.images:
            if timings.decoded is None:
                continue
            if timings.began is not None and record.model == IMAGE_MODEL:
                self._decode_seconds.observe(timings.decoded - timings.began)
            if timings.running is not None:
                self._queue_seconds.observe(timings.running - timings.decoded)

    def _histograms(self) -> Iterator[Metric]:
        for histogram in (
            self._request_seconds,
            self._decode_seconds,
            self._queue_seconds,
            self._run_seconds,
            self._batches,
        ):
            for metric in histogram.collect():
                # One more series for each, which would be stored and never read.
                metric.samples = [
                    sample for sample in metric.samples if not sample.name.endswith("_created")
                ]
                yield metric

    def _counters(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "alexnet_http_requests",
            "Requests answered, by the route's path, method and status.",
            labels=["route", "method", "status"],
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        errors = CounterMetricFamily(
            "alexnet_http_errors",
            "Requests answered with an error, by the route's path and the error's code.",
            labels=["route", "reason"],
        )
        for words, count in self._errors.items():
            errors.add_metric(words, count)
        yield errors
        images = CounterMetricFamily(
            "alexnet_images",
            "Images answered, refused, failed or abandoned, and the error's code.",
            labels=["outcome", "reason"],
        )
        for code, count in self._images.items():
            images.add_metric([_outcome(code), code or ""], count)
        yield images


def _histogram(name: str, text: str, buckets: Sequence[float] = SECONDS) -> Histogram:
    return Histogram(name, text, buckets=buckets, registry=None)


def _outcome(code: str | None) -> str:
    if code is None:
        return "answered"
    return "abandoned" if code in ABANDONED else "failed" if code in FAILED else "refused"
