"""
Several times the load that the server can take; Linux.  It takes about 10 minutes.

    scripts/overload [--seconds 60] [--factors 2,5,10] [--json overload.json]

A closed loop measures the capacity, an open loop offers a multiple of it, a closed loop measures
the capacity again, and so on: each multiple is compared with the mean of the two capacities beside
it, so that a machine that has others to serve too does not pass for a loss.  Server, load and
prober share its cores; the load's part is measured too.  docs/robustness.md defines each figure.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from alexnet_client import AsyncClient, ClientError
from benchmarks import machine
from benchmarks.processes import end_politely
from service.loadtest.generator import (
    Client,
    LoadImpossible,
    Request,
    closed_loop,
    connected,
    probe,
    run,
)
from service.loadtest.statistics import Record, rate_of

from . import figures
from .figures import Claim
from .health_prober import Probe, probing
from .server import ServerDied, Tried, Usage, say, serving, watched
from .workload import REFUSED, TIMEOUT, form, offer, singles

LOOK: Final = 0.5  # seconds between two looks at the server's memory
RAMP: Final = 5.0  # seconds, at most a quarter of a step, in which the queue fills
CALM: Final = 5.0  # seconds
FORMS, FILES = 4, 64  # in flight, and images in each
GOODPUT: Final = 0.95
PROBE: Final = 100.0  # ms
SAME: Final = 1.2  # "as before": at most so many times the lone latency
SLACK: Final = 1.1  # times the queue's images over the capacity: the goodput may be 95%
FLAT: Final = 1.1  # the last step's memory over the first one's


@dataclass
class Trial:
    """What is measured, on what, and what was measured so far."""

    server: Tried
    client: Client
    service: AsyncClient
    images: Sequence[bytes]
    crops: str
    seconds: float
    in_flight: int
    probes: list[Probe]
    samples: list[Usage]
    results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.query = f"?crops={self.crops}"
        self._rotation = itertools.cycle(self.images)

    @property
    def calm(self) -> float:
        """Seconds of lone requests, and of rest before each part; shorter in a short trial."""
        return min(CALM, self.seconds / 4)

    def next(self) -> Request:
        """A single image."""
        return Request(next(self._rotation), query=self.query)

    async def capacity(self) -> float:
        """Answers a second to a closed loop."""
        await asyncio.sleep(self.calm)
        seconds, warm_up = min(self.seconds, 20.0), min(1.0, self.seconds / 4)
        start, cpu = time.perf_counter() + warm_up, time.process_time()
        records = await self.singles(warm_up + seconds, self.in_flight)
        cpu = (time.process_time() - cpu) / (warm_up + seconds)
        self.server.check("the measurement of its capacity")
        full = [r for r in records if r.status == 200 and start <= r.ended < start + seconds]
        rate = rate_of([record.ended for record in full])
        if not rate:
            raise LoadImpossible(f"too little was answered: {figures.losses(records)}")
        self.results.setdefault("capacities", []).append(rate)
        latency = figures.spread([record.ended - record.due for record in full])
        say(
            f"capacity {rate:.1f}/s, {self.in_flight} in flight, p50 {latency['p50']:.0f} ms, "
            f"the load's CPU {cpu:.0%} of a core"
        )
        return rate

    async def lone(self) -> dict[str, float]:
        """Latencies of requests without others beside them, in ms."""
        records = await self.singles(self.calm)
        return figures.spread([r.ended - r.due for r in records if r.status == 200])

    async def singles(self, seconds: float, in_flight: int = 1) -> list[Record]:
        """A client of single images that comes again with each answer."""

        return await self.keep(self.next, seconds, in_flight)

    async def keep(
        self, request: Callable[[], Request], seconds: float, in_flight: int
    ) -> list[Record]:
        """Clients that come again with each answer, for so long or while the server lives."""
        until, records = time.perf_counter() + seconds, list[Record]()

        async def send(due: float) -> bool:
            records.append(await self.client.post(request(), due, TIMEOUT))
            return records[-1].status not in REFUSED

        await closed_loop(
            send, in_flight=in_flight, go_on=lambda now: now < until and self.server.alive()
        )
        return sorted(records, key=lambda record: record.ended)

    async def step(self, factor: float) -> None:
        """Offer a multiple of the capacity."""
        before = self.results["capacities"][-1]
        await asyncio.sleep(self.calm)
        ramp = min(RAMP, self.seconds / 4)
        records: list[Record] = []

        async def send(due: float) -> bool:
            record = await self.client.post(self.next(), due, TIMEOUT)
            records.append(record._replace(body=b""))
            return True

        start = time.perf_counter()
        until = start + ramp + self.seconds
        offered = await offer(
            send,
            rate=factor * before,
            seconds=ramp + self.seconds,
            seed=round(factor * 10),
            alive=self.server.alive,
        )
        ended = time.perf_counter()
        row = {
            "factor": factor,
            **offered,
            "probes": figures.probes(self.probes, start, ended),
        }
        row["memory"] = figures.memory(self.samples, start, ended)
        self.results.setdefault("steps", []).append(row)
        if not self.server.alive():
            row |= figures.losses(records)
            self.server.check(f"{factor:g} times its capacity")
        after = await self.capacity()
        row |= figures.step(records, start + ramp, until, (before + after) / 2)
        say(sentence(row))

    async def fairness(self) -> None:
        """A lone client of single images beside one of large forms, and beside singles."""
        capacity = self.results["capacities"][-1]
        whole = itertools.islice(itertools.cycle(self.images), FILES)
        body, headers = form([("picture", image) for image in whole])
        large = Request(body, headers, self.query)

        async def other(due: float) -> bool:
            await self.client.post(self.next(), due, TIMEOUT)
            return True

        seconds = self.seconds
        lead = min(1.0, seconds / 4)
        rows = self.results["fairness"] = {
            "quiet": _alone(await self.singles(self.calm), self.calm)
        }
        beside = asyncio.create_task(self.keep(lambda: large, lead + seconds, FORMS))
        await asyncio.sleep(lead)
        start = time.perf_counter()
        rows["forms"] = _alone(await self.singles(seconds), seconds)
        until = time.perf_counter()
        forms = await beside
        done = [r for r in forms if r.status == 200]
        rows["forms"] |= {
            # A form counts by the part of its time that lies within.
            "pictures": sum(FILES * _overlap(r, start, until) for r in done) / (until - start),
            "form": figures.spread([r.ended - r.due for r in done]),
            "forms_refused": sum(r.status == 503 for r in forms),
            **{f"forms_{name}": value for name, value in figures.losses(forms).items()},
        }
        self.server.check("the forms of 64 images")
        await asyncio.sleep(self.calm)
        full_load = asyncio.create_task(
            offer(other, rate=capacity, seconds=lead + seconds, alive=self.server.alive)
        )
        await asyncio.sleep(lead)
        rows["full"] = _alone(await self.singles(seconds), seconds)
        await full_load
        self.server.check("100% load")
        say(
            "a single image at a time: "
            + "; ".join(
                f"{name} {row['latency']['p50']:.0f}, p99 {row['latency']['p99']:.0f} ms, "
                f"{row['refused']} refused"
                for name, row in rows.items()
            )
        )


def _alone(records: Sequence[Record], seconds: float) -> dict[str, Any]:
    return {
        "latency": figures.spread([r.ended - r.due for r in records if r.status == 200]),
        "answered": sum(r.status == 200 for r in records),
        "refused": sum(r.status == 503 for r in records),
        "rate": sum(r.status == 200 for r in records) / seconds,
        **figures.losses(records),
    }


def _overlap(record: Record, began: float, until: float) -> float:
    inside = min(record.ended, until) - max(record.due, began)
    return max(0.0, inside) / (record.ended - record.due)


def sentence(row: dict[str, Any]) -> str:
    """A step in a line."""
    after, memory = row["retry_after"], row["memory"]
    return (
        f"x{row['factor']:g}: offered {row['offered']:.0f}/s, answered {row['answered']:.1f}/s "
        f"({row['share']:.1%}), {row['refused']} refused in p50 {row['refusal']['p50']:.1f} "
        f"p99 {row['refusal']['p99']:.1f} max {row['refusal']['max']:.0f} ms "
        f"(from the intended time p99 {row['refusal_from_due']['p99']:.1f}), "
        f"Retry-After {after.get('mean', 0):.1f} s for {after.get('mean_wait', 0):.1f} s, "
        f"accepted p50 {row['latency']['p50']:.0f} p99 {row['latency']['p99']:.0f} "
        f"max {row['latency']['max']:.0f} ms, other {row['other']}, lost {row['lost']}, "
        f"at most {row['most_outstanding']} outstanding, "
        f"the load's CPU {row['cpu']:.0%} of a core, "
        f"the server's {memory.get('cores', 0):.2f} cores, "
        f"{memory.get('most', 0):.0f} MB at most, probes max "
        + ", ".join(f"{path} {probe['max']:.0f} ms" for path, probe in row["probes"].items())
    )


async def measure(trial: Trial, factors: Sequence[float], after: float, fair: bool) -> None:
    """All of it, in order."""
    results = trial.results
    answer = await probe(trial.server.url, trial.images[0], crops=trial.crops)
    health = await trial.service.health()
    results |= {
        "machine": machine.describe(health.provider),
        "model": answer["model"],
        "crops": answer["crops"],
        "limit": health.queue.limit,
    }
    await trial.capacity()  # warms up all there is
    results["capacities"].clear()
    await asyncio.sleep(trial.calm)
    results["before"] = await trial.lone()
    await trial.capacity()
    for factor in factors:
        await trial.step(factor)
    say(f"waiting {after:g} s")
    await asyncio.sleep(after)
    results["resident_after"] = trial.samples[-1].resident if trial.samples else None
    health = await trial.service.health()
    results["after"] = await trial.lone() | {"pending": health.queue.pending}
    if fair:
        await trial.fairness()


def claims(results: dict[str, Any]) -> list[Claim]:
    """What the issue claims against what was measured."""
    verdicts: list[Claim] = []
    steps = [row for row in results.get("steps", ()) if "share" in row]
    for row in steps:
        bound = 1000 * results["limit"] / row["capacity"]
        times, after, latency = f"at {row['factor']:g}x", row["retry_after"], row["latency"]
        probes = row["probes"]
        slowest = max((probe["max"] for probe in probes.values()), default=0.0)
        number = sum(probe["number"] for probe in probes.values())
        failed = sum(probe["failed"] for probe in probes.values())
        ratio = after.get("mean_ratio", 0.0)
        verdicts += [
            Claim(f"{times} the goodput stays", row["share"] >= GOODPUT, f"{row['share']:.1%}"),
            Claim(
                f"{times} 99% of the refusals come within 50 ms",
                row["refusal"]["p99"] <= 1000 * figures.PROMPT,
                f"{row['refused_promptly']:.2%} do, p99 {row['refusal']['p99']:.1f} ms, "
                f"max {row['refusal']['max']:.0f} ms",
            ),
            Claim(
                f"{times} Retry-After is right within a factor of two",
                0.5 <= ratio <= 2 and not after["without"],
                f"{ratio:.2f} times the true wait on average, {after.get('within_two', 0):.0%} "
                f"of them within the factor, {after['without']:.0f} of {after['refusals']:.0f} "
                "without one",
            ),
            Claim(
                f"{times} /livez and /readyz answer within 100 ms",
                slowest <= PROBE and number > 0 and not failed,
                f"max {slowest:.0f} ms, p99 "
                f"{max((probe['p99'] for probe in probes.values()), default=0.0):.0f} ms, "
                f"{failed:.0f} of {number:.0f} without a 200",
            ),
            Claim(
                f"{times} accepted requests wait as long as the queue at most",
                latency["p99"] <= SLACK * bound,
                f"p99 {latency['p99']:.0f} ms, max {latency['max']:.0f} ms; {results['limit']} "
                f"images take {bound:.0f} ms",
            ),
            Claim(
                f"{times} nothing is lost, no error but 503",
                not row["other"] and not row["lost"],
                f"other {row['other']}, lost {row['lost']}",
            ),
        ]
    if steps and all(row["memory"] for row in steps):
        first, last = steps[0]["memory"]["most"], steps[-1]["memory"]["most"]
        verdicts.append(
            Claim(
                "memory is flat",
                last <= FLAT * first,
                f"{steps[0]['memory']['first']:.0f} MB before, at most {first:.0f} MB in the first "
                f"step, {last:.0f} MB in the last"
                + (
                    f", {results['resident_after']:.0f} MB later"
                    if "resident_after" in results
                    else ""
                ),
            )
        )
    if "after" in results:
        before, after = results["before"], results["after"]
        verdicts.append(
            Claim(
                "a minute after all is as before",
                0 < after["p50"] <= SAME * before["p50"] and not after["pending"],
                f"a lone request takes {after['p50']:.1f} ms, before {before['p50']:.1f} ms; "
                f"{after['pending']} pending",
            )
        )
    if "full" in results.get("fairness", {}):
        rows = results["fairness"]
        beside, bound = rows["forms"], 1000 * FILES / results["capacities"][-1]
        verdicts.append(
            Claim(
                "large forms do not starve single images",
                beside["latency"]["p99"] <= bound
                and beside["answered"] > 0
                and not (beside["refused"] or beside["other"] or beside["lost"]),
                f"p50 {beside['latency']['p50']:.0f}, p99 {beside['latency']['p99']:.0f} ms beside "
                f"{beside['pictures']:.0f} images/s in forms, of which one takes {bound:.0f} ms; "
                f"{beside['answered']} answered, {beside['refused']} refused; quiet "
                f"{rows['quiet']['latency']['p50']:.0f}, at 100% load of single ones p50 "
                f"{rows['full']['latency']['p50']:.0f}, "
                f"p99 {rows['full']['latency']['p99']:.0f} ms",
            )
        )
    return verdicts


def overload(
    model: Annotated[Path | None, typer.Option(help="By default the bundled one.")] = None,
    crops: Annotated[str, typer.Option(help="ten, one or dense.")] = "ten",
    url: Annotated[str, typer.Option(help="Try this running server instead.")] = "",
    pid: Annotated[int | None, typer.Option(help="Its process, for memory and CPU.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each step.")] = 60.0,
    factors: Annotated[str, typer.Option(help="Times the capacity.")] = "2,5,10",
    in_flight: Annotated[int, typer.Option(min=1, help="For the capacity.")] = 32,
    after: Annotated[float, typer.Option(min=0.0, help="Seconds of rest at the end.")] = 60.0,
    fairness: Annotated[bool, typer.Option(help="Try large forms beside single images.")] = True,
    images: Annotated[
        Path | None, typer.Option("--pictures", help="Send these JPEGs instead.")
    ] = None,
    serve: Annotated[str, typer.Option(help="More flags for `alexnet serve`.")] = "",
    output: Annotated[Path | None, typer.Option("--json", help="Write everything here.")] = None,
) -> None:
    """Offer several times what the server can take."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alexnet-overload-")))
        bodies, about = singles(images)
        flags = [*(("--model", str(model)) if model else ()), *serve.split()]
        server = (
            Tried(url, pid) if url else stack.enter_context(serving(work / "server.log", flags))
        )
        results: dict[str, Any] = {"pictures": about, "seconds": seconds}
        say(f"trying {server.url}, process {server.pid or 'unknown'}")
        samples = stack.enter_context(watched(server, LOOK))
        probes = stack.enter_context(probing(server.url))

        async def all_of_it() -> None:
            async with connected(server.url) as client, AsyncClient(server.url) as service:
                trial = Trial(
                    *(server, client, service, bodies, crops, seconds, in_flight),
                    *(probes, samples, results),
                )
                await measure(trial, list(map(float, factors.split(","))), after, fairness)

        try:
            run(all_of_it())
        except (ServerDied, LoadImpossible, ClientError, OSError) as error:
            results["ended"] = str(error) or type(error).__name__
        results["errors_logged"] = server.errors()
    results["exit_status"] = server.status
    figures.conclude(results, claims(results), output)


if __name__ == "__main__":
    end_politely()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(overload)
    app()
