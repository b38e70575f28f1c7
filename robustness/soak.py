"""
A server under 90% load for a long time; Linux.

    scripts/soak [--minutes 30] [--json soak.json]

Real photographs in the mixture of `workload`, at random times; one client in twenty leaves without
its answer.  Every answer is checked against what the image was answered while all was quiet.
Each minute has its line; memory, open files and threads of the server are sampled all the time.
docs/robustness.md defines the figures.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
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
    run,
)
from service.loadtest.statistics import Record, rate_of

from . import figures
from .figures import Claim
from .server import ServerDied, Tried, Usage, say, serving, watched
from .workload import CHOICES, REFUSED, TIMEOUT, WAYS, Mix, best, fault, leave, offer, singles

LOOK: Final = 10.0  # seconds between two looks at the server's process; shorter in a short run
MINUTE: Final = 60.0  # seconds a line of figures covers; shorter in a short run
LEAVING: Final = 0.05  # the share of clients that leave
WARM_UP: Final = 2.0  # seconds, before the capacity is measured; shorter in a short run
DRAIN: Final = 30.0  # seconds in which nothing may be left pending at the end
FLAT: Final = 0.05  # growth of memory that counts as none


@dataclass
class Count:
    """What became of the requests of some time."""

    requests: int = 0
    answered: int = 0  # rightly, with 200
    refused_rightly: int = 0  # bad ones, with their 4xx
    full: int = 0  # 503
    broken: int = 0  # other 5xx
    lost: int = 0  # no answer
    wrong: int = 0  # another status, shape or class than it should be
    left: Counter[str] = field(default_factory=Counter)  # by where
    faults: Counter[str] = field(default_factory=Counter)  # in words
    latencies: list[float] = field(default_factory=list)  # seconds, of what was answered

    def add(self, record: Record, trouble: str) -> None:
        """Count one that stayed."""
        self.requests += 1
        if not trouble:
            self.answered += record.status == 200
            self.refused_rightly += record.status != 200
            if record.status == 200:
                self.latencies.append(record.ended - record.due)
            return
        self.faults[trouble] += 1
        self.full += record.status == 503
        self.broken += record.status >= 500 and record.status != 503
        self.lost += record.status == 0
        self.wrong += 0 < record.status < 500

    def row(self) -> dict[str, Any]:
        """The counts, and the latencies in ms."""
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return counts | {
            "left": dict(self.left),
            "faults": dict(self.faults.most_common(20)),
            "latency": figures.spread(self.latencies),
        }


@dataclass
class Soak:
    """The clients."""

    server: Tried
    client: Client
    mix: Mix
    whole: Count = field(default_factory=Count)
    minute: Count = field(default_factory=Count)
    ends: list[float] = field(default_factory=list)  # of all requests, time.perf_counter()
    patience: float = 1.0  # seconds, twice what an answer takes of late

    async def send(self, due: float) -> bool:
        """One client of the mixture."""
        question, chance = self.mix.draw(), self.mix.chance
        if chance.random() < LEAVING:
            where = await leave(self.server.url, question.request, chance, self.patience)
            self.ends.append(time.perf_counter())
            for count in (self.whole, self.minute):
                count.requests += 1
                count.left[where] += 1
            return True
        record = await self.client.post(question.request, due, TIMEOUT)
        self.ends.append(record.ended)
        trouble = fault(question, record)
        for count in (self.whole, self.minute):
            count.add(record, trouble)
        if record.status == 200:
            self.patience += 0.05 * (2 * (record.ended - record.sent) - self.patience)
        return record.status not in REFUSED


async def learn(client: Client, images: Sequence[bytes]) -> dict[str, list[frozenset[int]]]:
    """The best classes of each image for each choice of crops, asked one at a time."""
    known: dict[str, list[frozenset[int]]] = {}
    for crops in CHOICES:
        known[crops] = []
        for image in images:
            request = Request(image, query=f"?crops={crops}")
            record = await client.post(request, time.perf_counter(), TIMEOUT)
            if record.status != 200:
                raise LoadImpossible(f"a good image was answered {record.status or record.reason}")
            known[crops] += best(record.body)
    return known


async def soak(
    server: Tried,
    client: Client,
    service: AsyncClient,
    images: Sequence[bytes],
    samples: list[Usage],
    results: dict[str, Any],
    *,
    seconds: float,
    load: float,
    in_flight: int,
) -> None:
    """All of it; what is measured goes into `results` as it comes."""
    health = await service.health()
    results |= {"machine": machine.describe(health.provider), "model": asdict(health.model)}
    mix = Mix(images, await learn(client, images))
    server.check("the first images")
    results["capacity"] = await capacity(server, client, mix, in_flight, min(20.0, seconds))
    rate = results["rate"] = load * results["capacity"]
    say(
        f"the mixture's capacity is {results['capacity']:.1f} requests/s; {rate:.1f}/s are sent now"
    )
    clients = Soak(server, client, mix)
    began = time.perf_counter()
    results["minutes"] = []

    def close_the_minute() -> None:
        row, clients.minute = clients.minute.row(), Count()
        row["usage"] = samples[-1]._asdict() if samples else {}
        results["minutes"].append(row)
        say(_line(len(results["minutes"]), row))

    lines = asyncio.create_task(_each(min(MINUTE, seconds / 3), close_the_minute))
    try:
        offered = await offer(clients.send, rate=rate, seconds=seconds, seed=1, alive=server.alive)
    finally:
        lines.cancel()
        until = time.perf_counter()
        if clients.minute.requests:
            close_the_minute()
        results |= {
            "seconds": until - began,
            "total": clients.whole.row(),
            "growth": figures.growth(samples, began, until),
            "memory": figures.memory(samples, began, until),
            "samples": [[round(sample.at - began, 1), *sample[1:]] for sample in samples],
        }
    results |= offered
    server.check("the soak")
    results["pending"] = await _drained(service)


async def capacity(
    server: Tried, client: Client, mix: Mix, in_flight: int, seconds: float
) -> float:
    """Requests of the mixture a second, in a closed loop, the leaving ones counted too."""
    warm_up = min(WARM_UP, seconds / 4)
    warm = time.perf_counter() + warm_up
    until = warm + seconds
    clients = Soak(server, client, mix)
    await closed_loop(
        clients.send, in_flight=in_flight, go_on=lambda now: now < until and server.alive()
    )
    server.check("the measurement of its capacity")
    rate = rate_of([end for end in sorted(clients.ends) if warm <= end <= until])
    if not rate or not clients.whole.answered:
        raise LoadImpossible(f"nothing was answered rightly: {dict(clients.whole.faults)}")
    return rate


async def _each(seconds: float, work: Callable[[], None]) -> None:
    began = time.perf_counter()
    for number in itertools.count(1):
        await asyncio.sleep(began + number * seconds - time.perf_counter())
        work()


def _line(number: int, row: dict[str, Any]) -> str:
    usage = row["usage"]
    return (
        f"{number:3}: {row['requests']} requests, {row['answered']} answered in "
        f"p50 {row['latency']['p50']:.0f} p99 {row['latency']['p99']:.0f} ms, "
        f"{row['refused_rightly']} bad, {sum(row['left'].values())} left; 503 {row['full']}, "
        f"other 5xx {row['broken']}, lost {row['lost']}, wrong {row['wrong']}"
        + (f" {row['faults']}" if row["faults"] else "")
        + ("; {resident:.1f} MB, {files} files, {threads} threads".format(**usage) if usage else "")
    )


async def _drained(service: AsyncClient) -> int:
    """What is pending when all have been answered or have left; waits until nothing is."""
    until = time.perf_counter() + DRAIN
    while True:
        pending = (await service.health()).queue.pending
        if not pending or time.perf_counter() > until:
            return pending
        await asyncio.sleep(0.2)


def claims(results: dict[str, Any]) -> list[Claim]:
    """What the issue claims against what was measured."""
    verdicts: list[Claim] = []
    if total := results.get("total"):
        counts = f"of {total['requests']} requests"
        unasked = set(total["left"]) - set(WAYS)
        verdicts += [
            Claim("no answer is lost", not total["lost"], f"{total['lost']} {counts}"),
            Claim(
                "every answer is right",
                not total["wrong"] and total["answered"] > 0,
                f"{total['wrong']} wrong {counts}, {total['answered']} answered with the right "
                f"class, {total['refused_rightly']} bad ones refused as they should be",
            ),
            Claim(
                "no error",
                not total["broken"] and not total["full"] and not unasked,
                f"{total['full']} answers of 503, {total['broken']} of another 5xx, "
                f"{sum(total['left'].values())} clients left: {total['left']}",
            ),
        ]
    if grown := results.get("growth"):
        rise = grown["late"] / grown["early"] - 1
        span = results["seconds"] * 2 / 3 / 3600
        verdicts.append(
            Claim(
                "memory is flat",
                rise <= FLAT and grown["slope"] * span <= FLAT * grown["early"],
                f"{grown['slope']:+.1f} MB/hour (standard error {grown['error']:.1f}) over the "
                f"last two thirds; {grown['early']:.1f} MB early, {grown['late']:.1f} MB at the "
                f"end ({rise:+.1%})",
            )
        )
    if "pending" in results:
        verdicts.append(
            Claim(
                "nothing stays in the queue",
                not results["pending"],
                f"{results['pending']} pending",
            )
        )
    if results.get("exit_status", ...) is not ...:
        verdicts.append(
            Claim(
                "the server ends politely and logged no error",
                results["exit_status"] == 0 and not results["errors_logged"],
                f"exit status {results['exit_status']}, {results['errors_logged']} lines of errors",
            )
        )
    return verdicts


def main(
    model: Annotated[Path | None, typer.Option(help="By default the bundled one.")] = None,
    minutes: Annotated[float, typer.Option(min=0.05, help="How long.")] = 30.0,
    load: Annotated[float, typer.Option(min=0.01, help="Share of the capacity.")] = 0.9,
    in_flight: Annotated[int, typer.Option(min=1, help="For the capacity.")] = 32,
    images: Annotated[
        Path | None, typer.Option("--pictures", help="Send these JPEGs instead.")
    ] = None,
    serve: Annotated[str, typer.Option(help="More flags for `alexnet serve`.")] = "",
    output: Annotated[Path | None, typer.Option("--json", help="Write everything here.")] = None,
) -> None:
    """Keep a server busy for a long time, and check every answer."""
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alexnet-soak-")))
        bodies, about = singles(images)
        flags = [*(("--model", str(model)) if model else ()), *serve.split()]
        with serving(work / "server.log", flags) as server:
            results |= {"pictures": about}
            say(f"trying {server.url}, process {server.pid}")
            samples = stack.enter_context(watched(server, min(LOOK, minutes * 60 / 30)))

            async def all_of_it() -> None:
                async with connected(server.url) as client, AsyncClient(server.url) as service:
                    await soak(
                        *(server, client, service, bodies, samples, results),
                        seconds=60 * minutes,
                        load=load,
                        in_flight=in_flight,
                    )

            try:
                run(all_of_it())
            except (ServerDied, LoadImpossible, ClientError, OSError) as error:
                results["ended"] = str(error) or type(error).__name__
        results |= {"exit_status": server.status, "errors_logged": server.errors()}
    figures.conclude(results, claims(results), output)


if __name__ == "__main__":
    end_politely()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
