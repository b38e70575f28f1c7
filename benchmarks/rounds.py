"""
Model files -> results of each file and choice of crops, in rounds.

A case is measured against the bare runtime within seconds, in the same round; rounds alternate
over all cases and change the order, so that what else the machine does falls on both sides alike.
Ratios are taken within a round, medians over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from service.inference.engine import inspect
from service.settings import Settings

from .baseline import Bare, bare
from .photographs import Photographs
from .processes import Server, load, serving

MAX_BATCH: Final = int(Settings.model_fields["max_batch"].default)
IN_FLIGHT: Final = (1, 8, 32)
SHARES: Final = (50, 80, 95)  # percent of the closed loop's best rate
MIXED: Final = 8  # in flight, with images of 12 megapixels among them
WAVES: Final = 4  # of all that is in flight, at least, however slow the model
WARM_UP: Final = 0.4  # seconds, at least
LONGEST: Final = 20.0  # seconds of one measurement

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One row: a model, a choice of crops, a load."""

    model: str
    crops: str
    kind: str  # closed, mixed, open
    amount: int  # in flight, or percent

    @property
    def name(self) -> str:
        """As the table and --only know it."""
        load = {
            "closed": f"{self.amount} in flight",
            "mixed": f"{self.amount} in flight, 1 in 10 of 12 MP",
            "open": f"open at {self.amount} %",
        }[self.kind]
        return f"{self.model}, {self.crops}, {load}"


@dataclass(frozen=True)
class Plan:
    """What to measure, and for how long."""

    models: Mapping[str, Path]
    photographs: Photographs
    device: str = "auto"
    rounds: int = 3
    seconds: float = 2.0  # of one load; the bare runtime has half of it
    waves: int = WAVES
    crops: Sequence[str] = ()  # all that a model offers, by default
    only: str = ""

    def cases(self, model: str) -> list[Case]:
        """The rows of one model."""
        offered = inspect(self.models[model]).crops
        every = [
            Case(model, crops, kind, amount)
            for crops in offered
            if not self.crops or crops in self.crops
            for kind, amounts in (("closed", IN_FLIGHT), ("mixed", [MIXED]), ("open", SHARES))
            for amount in amounts
        ]
        return [case for case in every if self.only in case.name]


def measure(plan: Plan, say: Callable[[str], None]) -> Iterator[Record]:
    """Every record of every round, as they come; `say` is told of each."""
    cases = {model: plan.cases(model) for model in plan.models}
    names = [model for model in plan.models if cases[model]]
    if not names:
        raise SystemExit("no case is left: see --only and --crops")
    for turn in range(plan.rounds):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for model in order:
            for record in _Round(plan, turn, model, cases[model]).records():
                say(f"round {turn + 1} of {plan.rounds}: {record.pop('line')}")
                yield record


class _Round:
    """One model's turn in one round: a server and a bare runtime, busy one at a time."""

    def __init__(self, plan: Plan, turn: int, model: str, cases: Sequence[Case]) -> None:
        self._plan, self._turn, self._model, self._cases = plan, turn, model, cases

    def records(self) -> Iterator[Record]:
        """One for each case; the model's own comes last, as its peak of memory is known then."""
        plan, path = self._plan, self._plan.models[self._model]
        with bare(path, plan.device) as roof, serving(path, device=plan.device) as server:
            resident = server.resident()
            folders = plan.photographs
            decoding = roof.ask(
                "decode",
                typical=str(folders.typical),
                large=str(folders.large),
                seconds=plan.seconds / 2,
            )
            yield self._record(f"decoding alone {decoding['rate']:.0f}/s", "decoding", decoding)
            for crops in dict.fromkeys(case.crops for case in self._cases):
                cases = [case for case in self._cases if case.crops == crops]
                yield from self._group(roof, server, cases, decoding)
            own = {
                "start": server.seconds,
                "resident": resident,
                "peak": server.peak(),
                "file": path.stat().st_size / 1e6,
                "provider": roof.about["provider"],
            }
            yield self._record(f"{self._model} ready in {server.seconds:.2f} s", "model", own)

    def _group(
        self, roof: Bare, server: Server, cases: Sequence[Case], decoding: Record
    ) -> Iterator[Record]:
        """One choice of crops: the closed loops, then the open ones at shares of their best."""
        best = 0.0
        for case in cases:
            if case.kind != "open":
                record = self._closed(roof, server, case)
                if case.kind == "closed":
                    best = max(best, record["rate"])
                if case.kind == "closed" and case.amount == 1:
                    record["decode_ms"] = decoding["typical_ms"]
                    record["extra_ms"] = record["p50"] - record["raw_ms"] - decoding["typical_ms"]
            else:
                # With --only there may be no closed loop to take the share of.
                best = (
                    best
                    or self._closed(
                        roof, server, Case(case.model, case.crops, "closed", MAX_BATCH)
                    )["rate"]
                )
                record = self._open(server, case, best)
            line = f"{case.name}: {record['rate']:.1f}/s" + (
                f", {record['ratio']:.2f} of the bare runtime" if "ratio" in record else ""
            )
            yield self._record(line, case.kind, record, case)

    def _closed(self, roof: Bare, server: Server, case: Case) -> Record:
        """The service between two measurements of the bare runtime and of its own engine."""
        views = roof.about["crops"][case.crops]
        batch = min(case.amount, MAX_BATCH)
        question = {"views": views, "batch": batch, "seconds": self._plan.seconds / 4}
        before = [roof.ask(what, **question) for what in ("raw", "engine")]
        wave = case.amount / before[0]["rate"]  # seconds, at least, that all in flight take
        mixed, folders = case.kind == "mixed", self._plan.photographs
        served = load(
            server,
            folders.mixed if mixed else folders.typical,
            crops=case.crops,
            seconds=min(max(self._plan.seconds, self._plan.waves * wave), LONGEST),
            warm_up=min(max(WARM_UP, 2 * wave), LONGEST),
            in_flight=case.amount,
        )
        after = [roof.ask(what, **question) for what in ("raw", "engine")]
        raw, engine = ((b["rate"] + a["rate"]) / 2 for b, a in zip(before, after, strict=True))
        return served | {
            "batch": batch,
            "raw": raw,
            "engine": engine,
            "ratio": served["rate"] / raw,
            "raw_ms": (before[0]["ms"] + after[0]["ms"]) / 2,
        }

    def _open(self, server: Server, case: Case, best: float) -> Record:
        """The service at a share of its best rate, for as long as a percentile needs."""
        rate = best * case.amount / 100
        seconds = min(max(self._plan.seconds, self._plan.waves * 8 / rate), LONGEST)
        served = load(
            server,
            self._plan.photographs.typical,
            crops=case.crops,
            seconds=seconds,
            warm_up=min(max(WARM_UP, MAX_BATCH / rate), LONGEST),
            rate=rate,
            seed=1000 * self._turn + self._cases.index(case),  # other times each time
        )
        return served | {"offered": rate, "sent": served["requests"] / seconds}

    def _record(self, line: str, kind: str, what: Record, case: Case | None = None) -> Record:
        about = {"model": self._model, "kind": kind, "round": self._turn, "line": line}
        if case is not None:
            about |= {"case": case.name, "crops": case.crops, "amount": case.amount}
        return what | about
