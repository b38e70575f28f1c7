"""
Statistics of the two models in Triton's terms, for its counters and for `/stats`.

As in an ensemble of Triton's, `alexnet_image` decodes and then asks `alexnet`: a request to the
first is one to the second too, where it begins when its image is decoded.  A request that is not
answered counts only for the model that it asked for.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily, UnknownMetricFamily

from service.telemetry.request_record import IMAGE_MODEL, TENSOR_MODEL, RequestRecord

OK: Final = 200
VERSION: Final = "1"  # of both models; which file answers is in their configuration


@dataclass(slots=True)
class Statistics:
    """What one model has done since the start, in Triton's terms; durations are sums over requests
    in nanoseconds, of each the times of the image that was answered last."""

    success: int = 0  # requests answered with 200
    success_ns: int = 0  # of those, from the headers to the answer
    failure: int = 0  # other requests that asked for it
    failure_ns: int = 0
    inferences: int = 0  # images answered
    executions: int = 0  # runs of the network; of alexnet_image, requests
    input_ns: int = 0  # reading and decoding
    queue_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0  # from the end of the run to the answer
    last: int = 0  # ms since 1970, of the last request
    batches: dict[int, tuple[int, int]] = field(default_factory=dict)  # size: runs, nanoseconds

    def ran(self, images: int, seconds: float) -> None:
        """Count a run of the network."""
        self.executions += 1
        runs, before = self.batches.get(images, (0, 0))
        self.batches[images] = runs + 1, before + _ns(seconds)

    def failed(self, record: RequestRecord) -> None:
        """Count a request that was not answered with 200."""
        self.failure += 1
        self.failure_ns += _ns((record.ended or record.began) - record.began)
        self.last = _now()

    def succeeded(self, record: RequestRecord, *, from_pixels: bool) -> None:
        """Count a request; `from_pixels` leaves out what came before its image was pixels."""
        if (last := record.last) is None:  # it had no image
            return
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


# Triton's names are those of counters, but without the ending that the formats demand of these.
TRITON: Final[Mapping[str, tuple[str, Callable[[Statistics], float]]]] = {
    "request_success": ("Requests answered.", lambda model: model.success),
    "request_failure": (
        "Requests that asked for it and got no answer.",
        lambda model: model.failure,
    ),
    "count": ("Images answered.", lambda model: model.inferences),
    "exec_count": ("Runs; of alexnet_image, requests.", lambda model: model.executions),
    "request_duration_us": ("Of requests answered.", lambda model: model.success_ns // 1000),
    "queue_duration_us": ("In the queue.", lambda model: model.queue_ns // 1000),
    "compute_input_duration_us": ("Reading and decoding.", lambda model: model.input_ns // 1000),
    "compute_infer_duration_us": ("In the network.", lambda model: model.infer_ns // 1000),
    "compute_output_duration_us": ("From run to answer.", lambda model: model.output_ns // 1000),
}


def count(statistics: dict[str, Statistics], record: RequestRecord, model: str) -> None:
    """Count a request to `model`, one of the two."""
    if record.status != OK:
        statistics[model].failed(record)
        return
    if model == IMAGE_MODEL:
        statistics[IMAGE_MODEL].executions += 1
        statistics[IMAGE_MODEL].succeeded(record, from_pixels=False)
    statistics[TENSOR_MODEL].succeeded(record, from_pixels=model == IMAGE_MODEL)


def families(statistics: Mapping[str, Statistics], pending: int) -> Iterator[Metric]:
    """Triton's counters, and its gauge of pending requests, which counts `pending` images here."""
    labels = ["model", "version"]
    for name, (text, value) in TRITON.items():
        sums = UnknownMetricFamily(f"nv_inference_{name}", text, labels=labels)
        for model, own in statistics.items():
            sums.add_metric([model, VERSION], value(own))
        yield sums
    waiting = GaugeMetricFamily(
        "nv_inference_pending_request_count", "Images accepted and unanswered.", labels=labels
    )
    waiting.add_metric([TENSOR_MODEL, VERSION], pending)
    yield waiting


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _now() -> int:
    return int(time.time() * 1000)
