"""
How the service is at one moment, as Prometheus's gauges.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily


@dataclass(frozen=True)
class Reading:
    """How the service is at one moment."""

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


def gauges(now: Reading) -> Iterator[Metric]:
    """One family after the other."""
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
