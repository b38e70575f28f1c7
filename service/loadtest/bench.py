"""
The command `alexnet bench`: load on a running server, its rate and latencies as they come.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from service.console import clean, console
from service.errors import FileUnreadable

if TYPE_CHECKING:
    from service.loadtest.generator import Observer
    from service.loadtest.statistics import Tally

IMAGES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})


def bench(
    url: str,
    images: Sequence[Path],
    *,
    as_json: bool,
    crops: str | None,
    key: str | None,
    in_flight: int,
    rate: float | None,
    seconds: float,
    warm_up: float,
    timeout: float,
    seed: int,
) -> None:
    """
    Put load on the server at `url` and print the figures; times are in seconds.

    Keeps `in_flight` requests outstanding, or with a `rate` sends so many a second.  Raises
    `LoadImpossible` if there is nothing to measure, or if nothing was answered.
    """
    from service.loadtest import generator

    rotation = _rotation(images) if images else _synthetic()
    answer = generator.run(generator.probe(url, rotation[0], crops=crops, key=key))
    common: dict[str, Any] = {
        "seconds": seconds,
        "crops": crops,
        "key": key,
        "warm_up": warm_up,
        "timeout": timeout,
    }
    with _watched(warm_up + seconds, as_json) as observe:
        work = (
            generator.open_loop(url, rotation, rate=rate, seed=seed, observe=observe, **common)
            if rate
            else generator.closed_loop(
                url, rotation, in_flight=in_flight, observe=observe, **common
            )
        )
        figures = generator.run(work)
    facts = {
        "url": url,
        "model": answer["model"],
        "crops": answer["crops"],
        "pictures": len(rotation),
        "load": {"rate": rate} if rate else {"in_flight": in_flight},
        **dataclasses.asdict(figures),
    }
    if as_json:
        print(json.dumps(facts))
    else:
        _print_figures(facts)
    if not figures.answered:
        raise generator.LoadImpossible(
            f"none of {figures.requests} requests to {url} was answered with classes"
        )


def _rotation(places: Sequence[Path]) -> list[bytes]:
    """The images in files and folders, in the order of their names."""
    files = [
        file
        for place in places
        for file in (sorted(place.iterdir()) if place.is_dir() else [place])
        if not place.is_dir() or file.suffix.lower() in IMAGES
    ]
    if not files:
        raise FileUnreadable(f"there is no image in {', '.join(map(str, places))}")
    try:
        return [file.read_bytes() for file in files]
    except OSError as error:
        raise FileUnreadable(f"{error.filename} cannot be read: {error.strerror}") from error


def _synthetic() -> list[bytes]:
    from service.loadtest.synthetic_images import photographs

    return photographs(64)


@contextmanager
def _watched(seconds: float, as_json: bool) -> "Iterator[Observer | None]":
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

        def observe(tally: "Tally") -> None:
            now = time.perf_counter()
            recent = tally.recent(now)
            lost = sum(recent.refused.values()) + sum(recent.failed.values())
            text = (
                "warming up"
                if now < tally.began
                else f"{recent.rate:6.1f}/s   p50 {recent.p50:6.1f} ms   p99 {recent.p99:6.1f} ms"
                f"   {lost} not answered"
            )
            progress.update(task, completed=now - began, description=text, refresh=True)

        yield observe


def _print_figures(facts: dict[str, Any]) -> None:
    from rich.table import Table

    def counts(each: dict[str, int]) -> str:
        return ", ".join(f"{number} x {what}" for what, number in each.items()) or "none"

    model, load = facts["model"], facts["load"]
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in (
        ("server", f"{facts['url']}: {model['name']} {model['variant']} {model['precision']}"),
        (
            "load",
            (f"{load['rate']:g} a second" if "rate" in load else f"{load['in_flight']} in flight")
            + f", crops {facts['crops']}, {facts['pictures']} images in turn",
        ),
        ("answered", f"{facts['answered']} of {facts['requests']} in {facts['seconds']:.1f} s"),
        ("rate", f"{facts['rate']:.1f} images/s"),
        *((f"latency {p}", f"{facts[p]:.1f} ms") for p in ("p50", "p95", "p99")),
        ("refused", counts(facts["refused"])),
        ("failed", counts(facts["failed"])),
        ("load's own CPU", f"{100 * facts['cpu']:.1f} % of a core"),
    ):
        table.add_row(heading, clean(text))
    console().print(table)
