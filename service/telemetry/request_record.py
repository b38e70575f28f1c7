"""
Everything recorded about one request.  It is for the log, metrics, spans and headers.

The outermost middleware opens the record and puts it into the scope; the parts that the request
passes add what they learn.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from starlette.requests import HTTPConnection

from service.inference.queue import StageTimings

KEY: Final = "alexnet.record"  # in a scope

VERSION: Final = "1"  # of both models; which file answers is in their configuration


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The names of the Open Inference Protocol's two models; other endpoints ask for the first."""

    tensor: str  # takes pixels; ALEXNET_MODEL_NAME

    @property
    def image(self) -> str:
        """Takes encoded images, which it decodes first."""
        return f"{self.tensor}_image"


@dataclass(slots=True)
class RequestRecord:
    """One request; moments of `time.monotonic()`, seconds."""

    request_id: str
    began: float
    read: float | None = None  # when its body was there
    model: str | None = None  # one of `ModelNames`, of a request to classify
    images: list[StageTimings] = field(default_factory=list)
    outcomes: list[str | None] = field(default_factory=list)  # of each image: None, or the code
    status: int = 0
    code: str | None = None  # of the refusal
    ended: float | None = None
    confidences: list[float] = field(default_factory=list)  # the best class's, of images answered
    answered_as: str | None = None  # the model's name in the answer, if that is another

    @property
    def last(self) -> StageTimings | None:
        """The image that was answered last: what the request waited for."""
        answered = [timings for timings in self.images if timings.answered is not None]
        return max(answered, key=lambda timings: timings.answered or 0.0, default=None)


def record_of(holder: HTTPConnection | MutableMapping[str, Any]) -> RequestRecord:
    """The record of a request, or of its scope."""
    scope = holder.scope if isinstance(holder, HTTPConnection) else holder
    return cast(RequestRecord, scope[KEY])
