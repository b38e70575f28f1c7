"""
What Prometheus reads: requests counted as they pass, the rest read when it is asked for.

The parts that are measured do not know of it: `Metrics.count` is told of requests that went by,
and `read` tells how the service is at the moment.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector
from starlette.types import Scope

from service.journal import NETWORK, ROAD, Journal

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# Labels are for ever: whatever else strangers think of is counted under one name.
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER: Final = "other"


@dataclass(frozen=True)
class Reading:
    """How the service is at one moment."""

    pending: int  # pictures
    limit: int  # pictures
    in_flight: int  # requests
    ready: bool
    facts: dict[str, str]  # provider, device requested, model


@dataclass(slots=True)
class Statistics:
    """What one model has done since the start, in Triton's terms; durations are sums over requests
    in nanoseconds."""

    success: int = 0  # requests answered with 200
    success_ns: int = 0  # of those, from the headers to the answer
    failure: int = 0  # other requests that asked for it
    failure_ns: int = 0
    inferences: int = 0  # pictures answered
    executions: int = 0  # runs of the network; of the road, requests
    input_ns: int = 0  # reading and decoding
    queue_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0  # from the end of the run to the answer
    last: int = 0  # ms since 1970, of the last request
    batches: dict[int, tuple[int, int]] = field(default_factory=dict)  # size: runs, nanoseconds


class Metrics(Collector):
    """The metrics of one application, in a registry of its own."""

    def __init__(self, read: Callable[[], Reading], routes: Collection[str] = ()) -> None:
        """`routes` are paths that may be answered before the router has named them."""
        self._read = read
        self._routes = frozenset(routes)
        self._registry = CollectorRegistry()
        self.statistics = {model: Statistics() for model in (NETWORK, ROAD)}
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def ran(self, pictures: int, seconds: float) -> None:
        """Count a run of the network."""

    def count(self, scope: Scope, journal: Journal) -> None:
        """Count a request that was answered."""
        # The router writes the route into the scope, if it finds one.
        route = getattr(scope.get("route"), "path", None)
        path, method = scope["path"], scope["method"]
        label = route or (path if path in self._routes else OTHER)
        self._requests[label, method if method in METHODS else OTHER, str(journal.status)] += 1

    def text(self) -> bytes:
        """Everything, in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the registry asks us for each time."""
        requests = CounterMetricFamily(
            "alexnet_http_requests",
            "Requests answered, by the route's path, method and status.",
            labels=["route", "method", "status"],
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        now = self._read()
        for name, text, value in (
            ("alexnet_pictures_pending", "Pictures accepted and unanswered.", now.pending),
            ("alexnet_pictures_limit", "Pictures that may be pending.", now.limit),
            ("alexnet_requests_in_flight", "Requests accepted and unanswered.", now.in_flight),
            ("alexnet_ready", "1 if a picture sent now would be classified.", now.ready),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
        yield InfoMetricFamily("alexnet", "What computes, and with which model.", value=now.facts)
