"""Records, probes and process samples -> a trial's figures.  Seconds in, ms and MB out."""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.loadtest.statistics import Record, percentiles

from .health_prober import Probe
from .server import Usage

PROMPT: Final = 0.05  # seconds in which a refusal should come


@dataclass(frozen=True)
class Claim:
    """What is claimed, whether it was met, and the figure that says so."""

    text: str
    met: bool
    figure: str

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'MISSED'}  {self.text}: {self.figure}"


def conclude(results: dict[str, Any], claims: Sequence[Claim], output: Path | None) -> None:
    """Print the claims and write all results; exit with 1 if the trial `ended` early."""
    results["claims"] = [asdict(claim) for claim in claims]
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n")
    print(*claims, sep="\n", flush=True)
    if "ended" in results:
        sys.exit(f"the trial ended early: {results['ended']}")


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the maximum, in ms; zeros of none."""
    p50, _, p99 = percentiles(seconds)
    return {"p50": p50, "p99": p99, "max": 1000 * max(seconds, default=0.0)}


def step(records: Sequence[Record], began: float, until: float, capacity: float) -> dict[str, Any]:
    """
    One rate that was offered: what became of the requests due, and of those answered, from `began`
    to `until`; what was lost, of all.  `capacity` is in requests/s.
    """
    due = [record for record in records if began <= record.due < until]
    accepted = [record for record in due if record.status == 200]
    refused = [record for record in due if record.status == 503]
    answered = sum(record.status == 200 and began <= record.ended < until for record in records)
    rate = answered / (until - began)
    return {
        "offered": len(due) / (until - began),
        "answered": rate,
        "capacity": capacity,
        "share": rate / capacity,
        "accepted": len(accepted),
        "refused": len(refused),
        # How late the generator itself was: what of the next ones is its own doing.
        "late": spread([record.sent - record.due for record in due]),
        "refusal": spread([record.ended - record.sent for record in refused]),
        "refusal_from_due": spread([record.ended - record.due for record in refused]),
        "refused_promptly": share(record.ended - record.sent <= PROMPT for record in refused),
        "latency": spread([record.ended - record.due for record in accepted]),
        "retry_after": retry_after(refused, [r for r in records if r.status == 200]),
        **losses(records),
    }


def losses(records: Sequence[Record]) -> dict[str, Any]:
    """Answers that should not be, and requests without any."""
    other = Counter(str(record.status) for record in records if record.status not in (0, 200, 503))
    lost = Counter(record.reason for record in records if not record.status)
    return {"other": dict(other), "lost": dict(lost)}


def retry_after(refused: Sequence[Record], accepted: Sequence[Record]) -> dict[str, float]:
    """
    Retry-After over the true wait.

    The true wait of a refusal is what an accepted request sent at that moment would have waited,
    which is until the queue as it stood was served: between the latencies of the two accepted ones
    that were sent just before and just after.
    """
    dated = [record for record in refused if record.retry_after is not None]
    counts = {"refusals": float(len(refused)), "without": float(len(refused) - len(dated))}
    if not dated or not accepted:
        return counts
    after = np.array([record.retry_after for record in dated], np.float64)
    ordered = sorted(accepted, key=lambda record: record.sent)
    wait = np.interp(
        [record.sent for record in dated],
        [record.sent for record in ordered],
        [record.ended - record.sent for record in ordered],
    )
    ratio = after / wait
    return counts | {
        "mean": float(after.mean()),
        "mean_wait": float(wait.mean()),
        "mean_ratio": float(ratio.mean()),
        "within_two": float(((ratio >= 0.5) & (ratio <= 2)).mean()),
    }


def probes(answers: Sequence[Probe], began: float, until: float) -> dict[str, dict[str, float]]:
    """By path: how many, how many without a 200, p50, p99 and maximum of the others."""
    rows = {}
    for path in sorted({probe.path for probe in answers}):
        here = [probe for probe in answers if probe.path == path and began <= probe.began < until]
        rows[path] = {
            "number": float(len(here)),
            "failed": float(sum(probe.status != 200 for probe in here)),
            **spread([probe.seconds for probe in here]),
        }
    return rows


def memory(samples: Sequence[Usage], began: float, until: float) -> dict[str, float]:
    """Resident MB first, last and at most, and the cores used; empty of an unknown process."""
    here = [sample for sample in samples if began <= sample.at <= until]
    if len(here) < 2:
        return {}
    first, last = here[0], here[-1]
    return {
        "first": first.resident,
        "last": last.resident,
        "most": max(sample.resident for sample in here),
        "cores": (last.cpu - first.cpu) / (last.at - first.at),
    }


def growth(samples: Sequence[Usage], began: float, until: float) -> dict[str, float]:
    """
    How memory grew from `began` to `until`.

    `slope`, in MB/hour, is that of the line of least squares through the last two thirds,
    `error` its standard error as if the samples were independent.  `early` and `late` are the means
    in MB of a minute, after the first five and at the end; in a short run of a sixth of it each.
    """
    here = [sample for sample in samples if began <= sample.at <= until]
    third = began + (until - began) / 3
    tail = [sample for sample in here if sample.at >= third]
    if len(tail) < 3:
        return {}
    hours = np.array([(sample.at - third) / 3600 for sample in tail])
    resident = np.array([sample.resident for sample in tail])
    slope, level = np.polyfit(hours, resident, 1)
    rest = resident - (slope * hours + level)
    error = np.sqrt((rest**2).sum() / (len(tail) - 2) / ((hours - hours.mean()) ** 2).sum())
    minute = min(60.0, (until - began) / 6)
    start = began + min(300.0, (until - began) / 6)
    early = [s.resident for s in here if start <= s.at <= start + minute]
    late = [s.resident for s in here if s.at >= until - minute]
    return {
        "slope": float(slope),
        "error": float(error),
        "early": statistics.fmean(early or [here[0].resident]),
        "late": statistics.fmean(late or [here[-1].resident]),
    }


def share(outcomes: Any) -> float:
    """The share that is true; 1 of none."""
    known = list(outcomes)
    return sum(known) / len(known) if known else 1.0
