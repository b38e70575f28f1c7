"""
Load statistics: counts, rate and latencies of requests.

Answers come in lumps, a batch at a time, so "answered / seconds" depends on where the clock cut a
lump.  The rate is the slope of the line through the completions instead: equal lumps at equal
distances give their exact rate, however many fit.  (Not so for the random times of an open loop,
where a chance gap would tilt the line: there the completions of the time are counted.)  Only
completions under full load count: those after the warm-up and before the last request was sent.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import linear_regression
from typing import Final, NamedTuple

RECENT: Final = 2.0  # seconds that the figures on display look back


class Record(NamedTuple):
    """One request: when it was due, sent and answered, in seconds of `time.perf_counter()`."""

    due: float
    sent: float  # when it was handed to the client, which takes a kept connection or a new one
    ended: float
    status: int  # 0: no answer
    reason: str = ""  # why there is none
    retry_after: float | None = None  # seconds
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a load came to.  The times are those of answered requests alone."""

    requests: int  # due after the warm-up; the sum of the next three
    answered: int
    refused: dict[str, int]  # by HTTP status
    failed: dict[str, int]  # without any answer, by reason
    seconds: float
    rate: float  # answers/s
    p50: float  # ms
    p95: float
    p99: float
    cpu: float  # the generator's own share of one core, 0-1


@dataclass
class LoadStatistics:
    """A record of each request, in the order in which they ended."""

    began: float  # the end of the warm-up
    full_until: float = math.inf  # from here on fewer are in flight
    at_random: bool = False  # whether requests come at times of their own, as in an open loop
    completions: list[float] = field(default_factory=list)  # of answers, the warm-up's too
    latencies: list[float] = field(default_factory=list)  # of the same answers
    counted: list[float] = field(default_factory=list)  # latencies of what was due after `began`
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count one that has ended."""
        latency = record.ended - record.due
        if record.status == 200:
            self.completions.append(record.ended)
            self.latencies.append(latency)
        if record.due < self.began:
            return
        if record.status == 200:
            self.counted.append(latency)
        elif record.status:
            self.refused[str(record.status)] += 1
        else:
            self.failed[record.reason] += 1

    def figures(self, now: float, cpu: float) -> Figures:
        """All of it; `cpu` is what the generator used since `began`, in seconds."""
        seconds = max(now - self.began, 1e-9)
        until = min(self.full_until, now)
        full = [at for at in self.completions if self.began <= at <= until]
        if self.at_random:
            rate = len(full) / max(until - self.began, 1e-9)
        elif full and full[-1] - full[0] >= (until - self.began) / 2:
            rate = rate_of(full)
        else:  # a single lump, or next to nothing: no line to draw
            rate = len(self.counted) / seconds
        return self._figures(self.counted, rate, seconds, cpu / seconds)

    def recent(self, now: float) -> Figures:
        """Rate and latencies of the last two seconds, for a display; the counts are of all."""
        newest = itertools.takewhile(lambda at: at > now - RECENT, reversed(self.completions))
        number = sum(1 for _ in newest)
        latencies = self.latencies[len(self.latencies) - number :]
        seconds = max(now - self.began, 0.0)
        return self._figures(latencies, number / min(RECENT, max(seconds, 1.0)), seconds, 0.0)

    def _figures(
        self, latencies: Sequence[float], rate: float, seconds: float, cpu: float
    ) -> Figures:
        p50, p95, p99 = percentiles(latencies)
        return Figures(
            requests=len(self.counted) + self.refused.total() + self.failed.total(),
            answered=len(self.counted),
            refused=dict(sorted(self.refused.items())),
            failed=dict(self.failed),
            seconds=seconds,
            rate=rate,
            p50=p50,
            p95=p95,
            p99=p99,
            cpu=cpu,
        )


def percentiles(latencies: Sequence[float]) -> tuple[float, float, float]:
    """Seconds to p50, p95, p99 in ms: the least that such a share does not exceed; 0 of none."""
    if not latencies:
        return 0.0, 0.0, 0.0
    ordered = sorted(latencies)
    p50, p95, p99 = (
        1000 * ordered[math.ceil(len(ordered) * share / 100) - 1] for share in (50, 95, 99)
    )
    return p50, p95, p99


def rate_of(completions: Sequence[float]) -> float:
    """Completions per second, by least squares; 0 where there are too few to tell."""
    if len(completions) < 2 or completions[0] == completions[-1]:
        return 0.0
    return linear_regression(completions, range(len(completions))).slope
