"""
The service beside the naive server, in one run; Linux.

    scripts/bench --beside naive [--rounds 5] [--seconds 3] [--crops one] [--pictures FOLDER]

Both serve the bundled model on the same cores, without a line of log for each request; the service
is sent raw bodies, the naive server (`naive.py`) forms.  In each round the two are loaded one after
the other, in an order that changes, and a ratio is taken within a round; the table has medians and
the range of the ratio.  About five minutes.
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
from .processes import START, serving, started

IN_FLIGHT: Final = (1, 8, 32)
WARM_UP: Final = 1.0  # seconds, at 8 in flight
BOUNDARY: Final = "beside"


@dataclass(frozen=True)
class Load:
    """What one load came to."""

    rate: float  # answers a second
    p50: float  # ms
    p99: float  # ms


@contextmanager
def naive(crops: str) -> Iterator[str]:
    """The naive server's address, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.naive:app", "--port", str(port)]
    os.environ |= {"NAIVE_MODEL": str(BUNDLED), "NAIVE_CROPS": crops}
    quiet = ("--no-access-log", "--log-level", "warning")
    with started([*command, *quiet], stderr=subprocess.DEVNULL) as process:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + START
        while not _answers(f"{url}/docs"):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("the naive server did not start")
            time.sleep(0.05)
        yield url


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


def compare(images: Sequence[bytes], crops: str, rounds: int, seconds: float) -> Iterator[str]:
    """The rows of one choice of crops, as Markdown."""
    with ExitStack() as stack:
        sides = {
            "naive": (stack.enter_context(naive(crops)), [*map(as_form, images)]),
            "service": (
                stack.enter_context(serving(BUNDLED)).url,
                [Request(image, query=f"?crops={crops}") for image in images],
            ),
        }
        for url, requests in sides.values():
            generator.run(load(url, requests, 8, WARM_UP))
        for in_flight in IN_FLIGHT:
            pairs = []
            for turn in range(rounds):
                order = list(sides)[:: 1 if turn % 2 else -1]
                done = {
                    side: generator.run(load(*sides[side], in_flight, seconds)) for side in order
                }
                pairs.append((done["service"], done["naive"]))
            ratios = [ours.rate / other.rate for ours, other in pairs]
            yield (
                f"| {crops} | {in_flight} | {median(ours.rate for ours, _ in pairs):.1f} "
                f"| {median(other.rate for _, other in pairs):.1f} "
                f"| {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) "
                f"| {median(ours.p99 for ours, _ in pairs):.0f} "
                f"| {median(other.p99 for _, other in pairs):.0f} |"
            )


def table(
    images: Path | None, crops: Sequence[str] | None, rounds: int, seconds: float
) -> Iterator[str]:
    """The table, line by line."""
    folder = images or PACKAGED
    files = sorted(folder.rglob("*.jpg"))[:64]
    if not files:
        raise SystemExit(f"there are no .jpg files in {folder}; name a folder with --pictures")
    about = machine.sentence(machine.describe("CPUExecutionProvider"))
    yield f"{about}; medians of {rounds} round{'s' * (rounds > 1)}."
    yield ""
    yield "| crops | in flight | service /s | naive /s | ratio (range) | p99 ms | naive's p99 ms |"
    yield "|---|---|---|---|---|---|---|"
    bodies = [file.read_bytes() for file in files]
    for choice in crops or ("one", "ten"):
        yield from compare(bodies, choice, rounds, seconds)
