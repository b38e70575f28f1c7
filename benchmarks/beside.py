"""
The service beside the naive server, and LitServe where it is installed, in one run; Linux.

    scripts/bench --beside naive [--rounds 5] [--seconds 3] [--crops one] [--pictures FOLDER]

All serve the bundled model on the same cores, without a line of log for each request; the service
and LitServe (`lit.py`) are sent raw bodies, the naive server (`naive.py`) forms.  In each round all
are loaded one after the other, in an order that changes, and a ratio is taken within a round; the
table has medians and the ranges of the ratios.  A server that is not loaded is paused: LitServe's
workers poll, 12% of a core without a request.  About four minutes, six with LitServe.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from service.loadtest import generator
from service.loadtest.generator import Request
from service.loadtest.statistics import Record
from service.settings import BUNDLED

from . import machine
from .photographs import PACKAGED
from .processes import START, Server, paused, serving, started

IN_FLIGHT: Final = (1, 8, 32)
WARM_UP: Final = 1.0  # seconds, at 8 in flight
BOUNDARY: Final = "beside"
# What python -m is given, before a port.
UVICORN: Final = ("uvicorn", "benchmarks.naive:app", "--no-access-log", "--log-level", "warning")
COMMANDS: Final = {"naive": (*UVICORN, "--port"), "LitServe": ("benchmarks.lit",)}
NOT_MEASURED: Final = (
    "LitServe was not measured: it is not installed; run `.venv-test/bin/pip install litserve`."
)


@dataclass(frozen=True)
class Load:
    """What one load came to."""

    rate: float  # answers a second
    p50: float  # ms
    p99: float  # ms


@contextmanager
def other(name: str, crops: str) -> Iterator[Server]:
    """One of `COMMANDS`, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ |= {"NAIVE_MODEL": str(BUNDLED), "NAIVE_CROPS": crops}
    command = [sys.executable, "-m", *COMMANDS[name], str(port)]
    with started(command, stderr=subprocess.DEVNULL) as process:
        url, began = f"http://127.0.0.1:{port}", time.monotonic()
        while not _answers(f"{url}/docs"):
            if process.poll() is not None or time.monotonic() > began + START:
                raise SystemExit(f"the server to compare with, {name}, did not start")
            time.sleep(0.05)
        yield Server(process.pid, url, time.monotonic() - began)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=START):
            return True
    except (URLError, ConnectionError):
        return False


def as_form(image: bytes) -> Request:
    """What FastAPI's `UploadFile` reads."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Request(body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


async def load(url: str, requests: Sequence[Request], in_flight: int, seconds: float) -> Load:
    """Keep so many requests outstanding for so long; raises SystemExit if one is refused."""
    rotation, records = itertools.cycle(requests), list[Record]()
    end = time.perf_counter() + seconds

    async def send(due: float) -> bool:
        records.append(await client.post(next(rotation), due))
        return True

    async with generator.connected(url) as client:
        await generator.closed_loop(send, in_flight=in_flight, go_on=lambda now: now < end)
    for record in records:
        if record.status != 200:
            raise SystemExit(f"{url} answered {record.status or record.reason}: {record.body!r}")
    latencies = sorted(record.ended - record.due for record in records)
    passed = max(record.ended for record in records) - min(record.due for record in records)
    share = [latencies[int(part * (len(latencies) - 1))] for part in (0.5, 0.99)]
    return Load(len(records) / passed, *(1e3 * seconds for seconds in share))


def compare(
    others: Sequence[str], images: Sequence[bytes], crops: str, rounds: int, seconds: float
) -> Iterator[str]:
    """The rows of one choice of crops, as Markdown."""
    sent = {
        "service": [Request(image, query=f"?crops={crops}") for image in images],
        "naive": [*map(as_form, images)],
        "LitServe": [*map(Request, images)],
    }
    with ExitStack() as stack:
        servers = {"service": stack.enter_context(serving(BUNDLED))}
        servers |= {name: stack.enter_context(other(name, crops)) for name in others}
        sides = list(servers)

        def measure(side: str, in_flight: int, seconds: float) -> Load:
            with ExitStack() as rest:
                for name in sides:
                    if name != side:
                        rest.enter_context(paused(servers[name].pid))
                return generator.run(load(servers[side].url, sent[side], in_flight, seconds))

        for side in sides:
            measure(side, 8, WARM_UP)
        for in_flight in IN_FLIGHT:
            done: dict[str, list[Load]] = {side: [] for side in sides}
            for turn in range(rounds):
                first = turn % len(sides)
                for side in sides[first:] + sides[:first]:
                    done[side].append(measure(side, in_flight, seconds))
            cells = [crops, str(in_flight)]
            cells += [f"{median(one.rate for one in done[side]):.1f}" for side in sides]
            cells += [_ratio(done["service"], done[name]) for name in others]
            cells += [f"{median(one.p99 for one in done[side]):.0f}" for side in sides]
            yield _row(cells)


def _ratio(ours: Sequence[Load], theirs: Sequence[Load]) -> str:
    ratios = [one.rate / another.rate for one, another in zip(ours, theirs, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(
    images: Path | None, crops: Sequence[str] | None, rounds: int, seconds: float
) -> Iterator[str]:
    """The table, line by line."""
    folder = images or PACKAGED
    files = sorted(folder.rglob("*.jpg"))[:64]
    if not files:
        raise SystemExit(f"there are no .jpg files in {folder}; name a folder with --pictures")
    others = ["naive", *(["LitServe"] if find_spec("litserve") else [])]
    about = machine.sentence(machine.describe("CPUExecutionProvider"))
    yield f"{about}; medians of {rounds} round{'s' * (rounds > 1)}."
    yield ""
    headings = ["crops", "in flight", *(f"{side} /s" for side in ("service", *others))]
    headings += [f"ratio to {name} (range)" for name in others]
    headings += ["p99 ms", *(f"{name}'s p99 ms" for name in others)]
    yield _row(headings)
    yield f"|{'---|' * len(headings)}"
    bodies = [file.read_bytes() for file in files]
    for choice in crops or ("one", "ten"):
        yield from compare(others, bodies, choice, rounds, seconds)
    if "LitServe" not in others:
        yield ""
        yield NOT_MEASURED
