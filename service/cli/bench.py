"""`alexnet bench`: load on a running server.  Its rate and latencies are shown as they come."""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from command_help import Status, epilog
from service.batch.files import SUFFIXES, none_in
from service.cli.options import CROPS, QUESTION, AsJson, choices
from service.console import clean, console
from service.errors import FileUnreadable

if TYPE_CHECKING:
    from service.loadtest.generator import Observer
    from service.loadtest.statistics import LoadStatistics

EPILOG: Final = epilog(
    {
        "alexnet bench http://127.0.0.1:8000": "what can this server do? 8 requests at a time",
        "alexnet bench http://127.0.0.1:8000 --rate 20": "how long does one wait at 20 a second?",
        "alexnet bench http://127.0.0.1:8000 tests/pictures --seconds 3": "with your own images",
    },
    Status.USAGE,
    Status.INTERRUPTED,
    done="the server answered; how often not, the figures say",
    failed="there is no server, it is another one, or it answered nothing",
)
SYNTHETIC: Final = 64  # images, where none are given

_load = partial(typer.Option, rich_help_panel="Load")
_seconds = partial(_load, metavar="SECONDS")


def bench(
    url: Annotated[
        str, typer.Argument(help="Where the server is: http://HOST:PORT.", metavar="URL")
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Image files, or folders of them; by default synthetic photographs.",
            metavar="IMAGE",
        ),
    ] = None,
    in_flight: Annotated[
        int, _load(min=1, max=10_000, help="Requests outstanding at any time.", metavar="COUNT")
    ] = 8,
    rate: Annotated[
        float | None,
        _load(
            min=0.001,
            max=100_000.0,
            help="Send so many requests a second at random times instead, answered or not; "
            "latency then counts from the time intended.",
            metavar="PER-SECOND",
        ),
    ] = None,
    seconds: Annotated[
        float, _seconds(min=0.1, max=86_400.0, help="How long, after the warm-up.")
    ] = 10.0,
    warm_up: Annotated[
        float, _seconds(min=0.0, max=3600.0, help="Load before, that is not counted.")
    ] = 1.0,
    timeout: Annotated[
        float, _seconds(min=0.001, max=3600.0, help="Until a request has failed.")
    ] = 30.0,
    seed: Annotated[int, _load(help="Of the random times.", metavar="NUMBER")] = 0,
    crops: Annotated[
        str | None,
        typer.Option(
            help="A choice that the server offers; by default its own.",
            metavar="|".join(CROPS),
            autocompletion=choices(*CROPS),
            rich_help_panel=QUESTION,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="ALEXNET_API_KEY",
            help="One that the server knows, if it asks for keys; rather in the environment, since "
            "every user of a machine sees flags.",
            show_envvar=True,
            metavar="KEY",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put load on a running server, and print its rate and its latencies.

    Prints images a second, the median, 95th and 99th percentile of the latency in
    milliseconds, and what was refused or failed. Without IMAGE it sends 64 JPEGs of
    500 x 375, made on the spot: noise that decodes as photographs do.
    """
    from service.loadtest import generator
    from service.loadtest.generator import photographs

    bodies = _read(images) if images else photographs(SYNTHETIC)
    answer = generator.run(generator.probe(url, bodies[0], crops=crops, key=key))
    with _progress(warm_up + seconds, as_json) as observe:
        figures = generator.run(
            generator.measure(
                *(url, bodies),
                seconds=seconds,
                in_flight=in_flight,
                rate=rate,
                seed=seed,
                crops=crops,
                key=key,
                warm_up=warm_up,
                timeout=timeout,
                observe=observe,
            )
        )
    facts = {
        "url": url,
        "model": answer["model"],
        "crops": answer["crops"],
        "pictures": len(bodies),
        "load": {"rate": rate} if rate else {"in_flight": in_flight},
        **dataclasses.asdict(figures),
    }
    if as_json:
        print(json.dumps(facts))
    else:
        _print(facts)
    if not figures.answered:
        raise generator.LoadImpossible(
            f"none of {figures.requests} requests to {url} was answered with classes"
        )


def _read(places: Sequence[Path]) -> list[bytes]:
    """The images in files and folders, in the order of their names."""
    files = [
        file
        for place in places
        for file in (sorted(place.iterdir()) if place.is_dir() else [place])
        if not place.is_dir() or os.fsencode(file.name).lower().endswith(SUFFIXES)
    ]
    if not files:
        raise FileUnreadable(none_in(places))
    try:
        return [file.read_bytes() for file in files]
    except OSError as error:
        raise FileUnreadable(f"{error.filename} cannot be read: {error.strerror}") from error


@contextmanager
def _progress(seconds: float, as_json: bool) -> "Iterator[Observer | None]":
    """A bar with the figures of the moment, on a terminal and for people only."""
    screen = console(stderr=True)
    if as_json or not screen.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    # Drawn when there is something new: a thread of its own would cost the measurement.
    with Progress(*columns, console=screen, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=seconds)
        began = time.perf_counter()

        def observe(statistics: "LoadStatistics") -> None:
            now = time.perf_counter()
            recent = statistics.recent(now)
            lost = sum(recent.refused.values()) + sum(recent.failed.values())
            text = (
                "warming up"
                if now < statistics.began
                else f"{recent.rate:6.1f}/s   p50 {recent.p50:6.1f} ms   p99 {recent.p99:6.1f} ms"
                f"   {lost} not answered"
            )
            progress.update(task, completed=now - began, description=text, refresh=True)

        yield observe


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table

    def counts(numbers: dict[str, int]) -> str:
        return ", ".join(f"{number} x {reason}" for reason, number in numbers.items()) or "none"

    model, load = facts["model"], facts["load"]
    pace = f"{load['rate']:g} a second" if "rate" in load else f"{load['in_flight']} in flight"
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in (
        ("server", f"{facts['url']}: {model['name']} {model['variant']} {model['precision']}"),
        ("load", f"{pace}, crops {facts['crops']}, {facts['pictures']} images in turn"),
        ("answered", f"{facts['answered']} of {facts['requests']} in {facts['seconds']:.1f} s"),
        ("rate", f"{facts['rate']:.1f} images/s"),
        *((f"latency {p}", f"{facts[p]:.1f} ms") for p in ("p50", "p95", "p99")),
        ("refused", counts(facts["refused"])),
        ("failed", counts(facts["failed"])),
        ("load's own CPU", f"{100 * facts['cpu']:.1f} % of a core"),
    ):
        table.add_row(heading, clean(text))
    console().print(table)
