"""
The images that wait for the engine, and which of them share the next batch.

Requests of one image and requests of several take turns: while both wait, each gets half of a
batch, so that neither a client with sixty-four images starves those with one, nor they it.  The
rest is first come, first served; a batch is of one run and one choice of crops.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded
from service.inference.timings import Steps

Pixels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]
Run = Callable[[Pixels, int], Probabilities]  # images and crops to a row for each image

LATE = "The time allowed passed while the image waited for its turn. Try again, or allow more time."


@dataclass(eq=False, slots=True)
class Entry:
    """One image, uint8 `(256, 256, 3)`, and the future that its client awaits."""

    pixels: Pixels
    crops: int
    run: Run
    alone: bool  # whether its request has no other image
    deadline: float | None  # the event loop's time, seconds
    answer: asyncio.Future[Probabilities]
    steps: Steps

    def shares_with(self, other: "Entry") -> bool:
        """Whether the two can be in one batch."""
        return self.crops == other.crops and self.run == other.run


class Waiting:
    """Entries in the order of their arrival, in two lines."""

    def __init__(self) -> None:
        self._lines: dict[bool, deque[Entry]] = {True: deque(), False: deque()}
        self._turn = True  # whose entry leads the next batch, if both lines wait

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Entry]:
        for line in self._lines.values():
            yield from line

    def add(self, entry: Entry) -> None:
        """Join the end of the line."""
        self._lines[entry.alone].append(entry)

    def drop_the_gone(self, now: float) -> None:
        """Forget entries whose client left; refuse those whose deadline has passed."""
        for alone, line in self._lines.items():
            for entry in line:
                if entry.deadline is not None and entry.deadline <= now:
                    refuse(entry, DeadlineExceeded(LATE))
            self._lines[alone] = deque(entry for entry in line if not entry.answer.done())

    def next_batch(self, most: int) -> list[Entry]:
        """The entries, `most` at most, that would leave together now, the leader first."""
        first, second = self._lines[self._turn], self._lines[not self._turn]
        if not (leading := first or second):
            return []
        leader = leading[0]
        others = [entry for entry in second if entry.shares_with(leader)]
        if leading is second:
            return others[:most]
        same = [entry for entry in first if entry.shares_with(leader)]
        # Half each, the odd one to those whose turn it is, and what one half leaves to the other.
        ours = min(len(same), max(most - len(others), (most + 1) // 2))
        return same[:ours] + others[: most - ours]

    def take(self, most: int) -> list[Entry]:
        """The next batch, which no longer waits; the others keep their order."""
        batch = self.next_batch(most)
        taken = set(map(id, batch))
        for alone, line in self._lines.items():
            self._lines[alone] = deque(entry for entry in line if id(entry) not in taken)
        self._turn = not self._turn
        return batch


def refuse(entry: Entry, error: Exception) -> None:
    """Answer with an error, unless the client has left or has its answer."""
    if not entry.answer.done():
        entry.answer.set_exception(error)
