"""
What is known of one request when it is answered: for the log, the metrics, traces and headers.

`Observed` opens it and puts it into the scope; whoever learns something writes it down there.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from starlette.requests import HTTPConnection

from service.inference.timings import Steps

KEY: Final = "alexnet.journal"  # in a scope

# What a request asks of: the network takes pixels; the road takes encoded images, and decodes
# them before.  They are the two models of the Open Inference Protocol.
NETWORK: Final = "alexnet"
ROAD: Final = "alexnet_image"


@dataclass(slots=True)
class Journal:
    """One request; moments of `time.monotonic()`, seconds."""

    request_id: str
    began: float
    read: float | None = None  # when its body was there
    model: str | None = None  # NETWORK or ROAD, if it wants something classified
    images: list[Steps] = field(default_factory=list)
    outcomes: list[str | None] = field(default_factory=list)  # of each image: None, or the code
    status: int = 0
    code: str | None = None  # of the refusal
    ended: float | None = None

    @property
    def last(self) -> Steps | None:
        """The image that was answered last: what the request waited for."""
        answered = [steps for steps in self.images if steps.answered is not None]
        return max(answered, key=lambda steps: steps.answered or 0.0, default=None)


def journal(holder: HTTPConnection | MutableMapping[str, Any]) -> Journal:
    """The journal of a request, or of its scope."""
    scope = holder.scope if isinstance(holder, HTTPConnection) else holder
    return cast(Journal, scope[KEY])
