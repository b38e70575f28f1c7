"""
What Prometheus reads: requests and runs counted as they pass, the rest read when it is asked for.

The parts that are measured do not know of it: `Metrics.count` is told of requests that went by,
`Metrics.ran` of runs of the network, and `read` tells how the service is at the moment.  Beside our
own names stand Triton's, for dashboards that ask for them.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import Scope

from service.telemetry import triton_metrics
from service.telemetry.gauges import Reading, gauges
from service.telemetry.request_record import IMAGE_MODEL, TENSOR_MODEL, RequestRecord
from service.telemetry.triton_metrics import Statistics

OPEN_METRICS: Final = "application/openmetrics-text"

# Labels are for ever: whatever else strangers think of is counted under one name.
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

# Whose fault it is that there is no answer; whatever is in neither was refused.
ABANDONED: Final = frozenset({"client_left"})
FAILED: Final = frozenset({"internal_error", "deadline_exceeded", "not_ready"})


class Metrics(Collector):
    """The metrics of one application, in a registry of its own."""

    def __init__(self, read: Callable[[], Reading], routes: Collection[str] = ()) -> None:
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
        if model is None and record.status == 503:  # at the threshold
            model = self._routes.get(path)
        if model is not None:
            triton_metrics.count(self.statistics, record, model)
        if record.images:
            self._count_images(record)
        if record.model and record.ended and _outcome(record.code) != "refused":
            self._request_seconds.labels(label).observe(record.ended - record.began)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Everything, and its media type: OpenMetrics 1.0.0 for who accepts it, or 0.0.4."""
        # Not the header itself: who asks does not choose what is parsed as a version, or echoed.
        encode, media_type = choose_encoder(OPEN_METRICS if OPEN_METRICS in accept else "")
        return encode(self._registry), media_type

    def collect(self) -> Iterator[Metric]:
        """What the registry asks us for each time."""
        yield from self._counters()
        yield from self._histograms()
        yield from gauges(now := self._read())
        yield from triton_metrics.tritons(self.statistics, now.pending)

    def _count_images(self, record: RequestRecord) -> None:
        for code in record.outcomes or [record.code] * len(record.images):
            # Of v2's rows that are well none is answered if one is not.
            self._images[code or record.code] += 1
        for steps in record.images:
            if steps.decoded is None:
                continue
            if steps.began is not None and record.model == IMAGE_MODEL:
                self._decode_seconds.observe(steps.decoded - steps.began)
            if steps.running is not None:
                self._queue_seconds.observe(steps.running - steps.decoded)

    def _histograms(self) -> Iterator[Metric]:
        for histogram in (
            self._request_seconds,
            self._decode_seconds,
            self._queue_seconds,
            self._run_seconds,
            self._batches,
        ):
            for metric in histogram.collect():
                # One more series for each, which would be stored and which nobody reads.
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
