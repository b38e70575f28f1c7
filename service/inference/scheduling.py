"""
Plans the next run from what waits and measured costs.

A run takes either all cores, or one while the others run other batches.  One image is answered
soonest by all cores; many images are done soonest by one core each, since threads that share a run
wait for each other at every layer, and for the cores that decode meanwhile.  Where one way begins
to pay and the other ends differs between processors and models, so the costs of runs are measured
while serving, and nothing is assumed of a processor but what the first runs have not shown yet.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

RECENT: Final = 0.2  # weight of the newest value in a moving average
WORSE: Final = 1.03  # a batch that costs so many times the least for each image is as good


Costs = dict[tuple[int, bool], dict[int, float]]


@dataclass(frozen=True)
class Plan:
    """The next run: how many images at most, and whether one core runs them or all do."""

    size: int
    one_core: bool


class Scheduler:
    """Plans runs on `cores` cores, in batches of `max_batch` images at most."""

    def __init__(self, cores: int, max_batch: int) -> None:
        """With one core, or a GPU in its place, every run takes it and all that waits."""
        self.cores = cores
        self._max_batch = max_batch
        # Of runs of late, by images, for each choice of crops on one core and on all: the seconds
        # that passed, and those that the CPU worked, which no neighbour on the core lengthens.
        self._passed: Costs = defaultdict(dict)
        self._worked: Costs = defaultdict(dict)

    def record(
        self, crops: int, size: int, *, one_core: bool, passed: float, worked: float
    ) -> None:
        """A run of `size` images took so many seconds, and so many of the CPU of its thread."""
        for costs, seconds in ((self._passed, passed), (self._worked, worked)):
            known = costs[crops, one_core]
            known[size] = recent(known.get(size, seconds), seconds)

    def plan(self, crops: int, waiting: int, idle: int) -> Plan:
        """
        The next run of these crops, while `waiting` images wait or are about to, at least one, and
        `idle` cores run nothing, at least one.
        """
        if self.cores == 1:
            return Plan(self._max_batch, one_core=False)
        if idle == self.cores and self._sooner_on_all(crops, waiting):
            return Plan(self._max_batch, one_core=False)
        share = min(math.ceil(waiting / idle), self._max_batch)
        return Plan(self._enough(crops, share), one_core=True)

    def _sooner_on_all(self, crops: int, waiting: int) -> bool:
        """Whether one run on all cores ends before runs on one core each."""
        if waiting == 1:  # always: what the others cost with all cores stays known by it
            return True
        each = math.ceil(waiting / self.cores)
        return waiting <= self._max_batch and (
            self._estimate(crops, waiting, one_core=False)
            < self._estimate(crops, each, one_core=True)
        )

    def _enough(self, crops: int, limit: int) -> int:
        """The smallest batch that costs as little for each image as any up to `limit`: what gains
        nothing by being larger only keeps its images waiting."""
        known = self._worked[crops, True]
        if limit not in known:
            return limit
        each = {size: seconds / size for size, seconds in known.items() if size <= limit}
        least = min(each.values())
        return min(size for size, seconds in each.items() if seconds <= WORSE * least)

    def _estimate(self, crops: int, size: int, *, one_core: bool) -> float:
        """Seconds of such a run; in proportion to what is known, of this kind if possible."""
        other = self.cores if one_core else 1 / self.cores
        for kind, factor in ((one_core, 1.0), (not one_core, other)):
            if known := self._passed[crops, kind]:
                nearest = min(known, key=lambda each: abs(math.log(each / size)))
                return known[nearest] * size / nearest * factor
        return size * other if one_core else float(size)


def recent(before: float, newest: float) -> float:
    """The moving average, one value on."""
    return before + RECENT * (newest - before)
