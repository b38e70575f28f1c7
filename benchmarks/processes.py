"""
The processes of a benchmark: a server and its load.  Each is ended by its own id, come what may.

Both are what users run, `python -m service serve` and `python -m service bench`, with this
environment's interpreter and without its ALEXNET_* settings.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from alexnet_client import Client

ROOT = Path(__file__).parents[1]
START = 120.0  # seconds that a process may take until it is ready, and to end


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    pid: int
    url: str
    seconds: float  # from starting the process to the first 200 of /readyz

    def resident(self) -> float:
        """Memory in MB of 10^6 bytes, now."""
        return self._memory("VmRSS")

    def peak(self) -> float:
        """The most that was ever resident, in MB."""
        return self._memory("VmHWM")

    def _memory(self, name: str) -> float:
        status = Path(f"/proc/{self.pid}/status")
        match = re.search(rf"{name}:\s+(\d+) kB", status.read_text()) if status.exists() else None
        return int(match[1]) * 1024 / 1e6 if match else float("nan")


@contextmanager
def serving(
    model: Path | None = None, *, device: str = "auto", max_batch: int | None = None
) -> Iterator[Server]:
    """Serve a model file, the bundled one by default, until the block ends."""
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--device", device]
    command += ["--model", str(model)] if model else []
    command += ["--max-batch", str(max_batch)] if max_batch else []
    began = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as log,
        started(command, stderr=log) as process,
    ):
        if not (url := ready_address(process)):
            log.seek(0)
            raise SystemExit(f"the server did not start: {log.read().strip()[-1000:]}")
        yield Server(process.pid, url, time.perf_counter() - began)


def load(
    server: Server,
    images: Path | None = None,
    *,
    crops: str,
    seconds: float,
    warm_up: float,
    in_flight: int | None = None,
    rate: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What `alexnet bench --json` says of a load on the server: a closed loop, or an open one.

    Without a folder of images it sends its own.
    """
    kind = ["--in-flight", str(in_flight)] if rate is None else ["--rate", f"{rate:.3f}"]
    command = [
        *(sys.executable, "-m", "service", "bench", server.url, "--json", *kind),
        *([str(images)] if images else []),
        *("--crops", crops, "--seconds", f"{seconds:.3f}", "--warm-up", f"{warm_up:.3f}"),
        *("--seed", str(seed)),
    ]
    with started(command, stderr=subprocess.PIPE) as process:
        answer, trouble = process.communicate(timeout=seconds + warm_up + START)
    if not answer:
        raise SystemExit(f"the load failed: {trouble.strip()[-1000:]}")
    return dict(json.loads(answer))


@contextmanager
def started(
    command: Sequence[str], *, stdin: int = subprocess.DEVNULL, stderr: Any = None
) -> Iterator[subprocess.Popen[str]]:
    """A process whose standard output is a pipe, until the block ends."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("ALEXNET_")}
        | {"ALEXNET_LOG_FORMAT": "text"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        process_group=0,  # its own, so that all its processes can be paused
    )
    try:
        with process:
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(START)
                except subprocess.TimeoutExpired:
                    process.kill()
    finally:
        if process.poll() is None:  # a second Ctrl-C while waiting
            process.kill()


@contextmanager
def paused(process_id: int) -> Iterator[None]:
    """A started process and all that it started rest until the block ends."""
    os.killpg(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process_id, signal.SIGCONT)


@contextmanager
def killed_after(seconds: float, process: subprocess.Popen[str]) -> Iterator[None]:
    """A limit on reading a process's output: it ends when the process does."""
    alarm = threading.Timer(seconds, process.kill)
    alarm.daemon = (
        True  # SIGTERM may come between start and cancel: the end of this process need not wait
    )
    try:
        alarm.start()
        yield
    finally:
        alarm.cancel()


def ready_address(process: subprocess.Popen[str]) -> str:
    """Where a server answers, once it is ready; nothing if it ends before, or takes too long."""
    url = _address(process)
    while url and not ready(url) and process.poll() is None:
        time.sleep(0.005)
    return url if process.poll() is None else ""


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with killed_after(START, process):
        for line in process.stdout:
            if match := re.search(r"answers at (http://\S+)", line):
                return match[1]
    return ""


def end_politely() -> None:
    """SIGTERM as an exception, so that every process started here is ended too."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


def ready(url: str) -> bool:
    """Whether a server answers 200 to /readyz."""
    with Client(url) as client:
        return client.ready()
