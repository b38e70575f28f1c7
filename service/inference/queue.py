"""
The queue of images that wait for the engine.  It has their stage timings, and says which share the
next batch.

Requests of one image and requests of several take turns: while both wait, each gets half of a
batch, so that neither starves the other.  The rest is first come, first served.  A batch has one
run function and one choice of crops.

The stage timings are for the log, metrics, spans and headers: each stage writes down when it was
done.  The clock is `time.monotonic()`, not the event loop's: uvloop's stands still while callbacks
run, and counts in milliseconds.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded

Pixels = NDArray[np.uint8]
Row = Any  # what a run answers for one image
# Images, crops and `one_core` to a row for each image; if that is false, on all cores.
Run = Callable[..., Sequence[Row] | NDArray[np.float32]]

LATE = "The time allowed passed while the image waited for its turn. Try again, or allow more time."


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


@dataclass(eq=False, slots=True)
class Entry:
    """One image, uint8 `(256, 256, 3)`, and the future that its client awaits."""

    pixels: Pixels
    crops: int
    run: Run
    alone: bool  # whether its request has no other image
    deadline: float | None  # the event loop's time, seconds
    answer: asyncio.Future[Row]
    timings: StageTimings

    def shares_with(self, other: "Entry") -> bool:
        """Whether the two can be in one batch."""
        return self.crops == other.crops and self.run == other.run


class ImageQueue:
    """Entries in the order of their arrival, in two queues: of single images and of several."""

    def __init__(self) -> None:
        self._queues: dict[bool, deque[Entry]] = {True: deque(), False: deque()}
        self._turn = True  # which queue leads the next batch, if neither is empty

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Entry]:
        for queue in self._queues.values():
            yield from queue

    def add(self, entry: Entry) -> None:
        """Join the end of its queue."""
        self._queues[entry.alone].append(entry)

    def drop_cancelled(self, now: float) -> None:
        """Forget entries whose client left; refuse those whose deadline has passed."""
        for alone, queue in self._queues.items():
            for entry in queue:
                if entry.deadline is not None and entry.deadline <= now:
                    refuse(entry, DeadlineExceeded(LATE))
            self._queues[alone] = deque(entry for entry in queue if not entry.answer.done())

    def next_batch(self, limit: int) -> list[Entry]:
        """The entries, `limit` at most, that would leave together now, the leader first."""
        first, second = self._queues[self._turn], self._queues[not self._turn]
        if not (leading := first or second):
            return []
        leader = leading[0]
        others = [entry for entry in second if entry.shares_with(leader)]
        if leading is second:
            return others[:limit]
        same = [entry for entry in first if entry.shares_with(leader)]
        # Half each, the odd one to those whose turn it is, and what one half leaves to the other.
        half = min(len(same), max(limit - len(others), (limit + 1) // 2))
        return same[:half] + others[: limit - half]

    def take(self, limit: int) -> list[Entry]:
        """The next batch, which no longer waits; the others keep their order."""
        batch = self.next_batch(limit)
        taken = set(map(id, batch))
        for alone, queue in self._queues.items():
            self._queues[alone] = deque(entry for entry in queue if id(entry) not in taken)
        self._turn = not self._turn
        return batch


def refuse(entry: Entry, error: Exception) -> None:
    """Answer with an error, unless the client has left or has its answer."""
    if not entry.answer.done():
        entry.answer.set_exception(error)
