"""
The way of one image as a row of moments, for whoever measures it: log, metrics, traces.

Each step writes down when it was done; nobody on the way reads it.  Not in the event loop's time:
uvloop's stands still for the length of a turn, and counts in milliseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Steps:
    """Moments of `time.monotonic()`, seconds; None until they have come."""

    began: float | None = None  # it has a place; from here on it waits for its decoder, or is in it
    decoded: float | None = None  # it joined the queue; at once, if it came as pixels
    running: float | None = None  # its batch started
    answered: float | None = None  # its batch came back
    refused: float | None = None  # it was found at fault, in the step that it had come to
    batch: int = 0  # images in that batch

    def spans(self) -> Iterator[tuple[str, float, float]]:
        """The steps that it has passed, in order: name, beginning, end."""
        moments = (self.began, self.decoded, self.running, self.answered)
        for name, begin, end in zip(("decode", "queue", "run"), moments, moments[1:], strict=False):
            if begin is not None and end is not None:
                yield name, begin, end
