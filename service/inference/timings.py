"""
The stage timings of one image, for the log, metrics, spans and headers.

Each stage writes down when it was done.  The clock is `time.monotonic()`, not the event loop's:
uvloop's stands still while callbacks run, and counts in milliseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class StageTimings:
    """Moments of `time.monotonic()`, seconds; None until they have come."""

    began: float | None = None  # accepted; it waits for a decoder, or is being decoded
    decoded: float | None = None  # it joined the queue; at once, if it came as pixels
    running: float | None = None  # its batch started
    answered: float | None = None  # its batch came back
    refused: float | None = None  # it was found at fault, in the stage that it had come to
    batch: int = 0  # images in its batch

    def spans(self) -> Iterator[tuple[str, float, float]]:
        """The stages that it has passed, in order: name, beginning, end."""
        moments = (self.began, self.decoded, self.running, self.answered)
        for name, begin, end in zip(("decode", "queue", "run"), moments, moments[1:], strict=False):
            if begin is not None and end is not None:
                yield name, begin, end
