"""
A server under test, and figures of its process; Linux.  The figures are what the system knows of
it.

It is what users run, with its log in a file so that errors in it can be counted.  A server that
ends early is a result like any other: `alive` says so, and `status` has its exit status.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import processes

TICKS: Final = os.sysconf("SC_CLK_TCK")  # per second, of the CPU times in /proc
PAGE: Final = os.sysconf("SC_PAGE_SIZE")  # bytes


class ServerDied(Exception):
    """It ended while it was being measured."""


class Usage(NamedTuple):
    """What a process takes at one moment."""

    at: float  # time.perf_counter(), seconds
    resident: float  # MB of 10^6 bytes
    cpu: float  # seconds since its start, of all cores
    files: int  # open files, sockets among them
    threads: int


@dataclass
class Tried:
    """A server that answers at `url`; if it was started elsewhere, its `pid` may be unknown."""

    url: str
    pid: int | None
    process: subprocess.Popen[str] | None = None
    log: Path | None = None
    status: int | None = None  # with which it ended

    def alive(self) -> bool:
        """Whether its process is there, as far as we can tell."""
        if self.process is not None:
            self.status = self.process.poll()
            return self.status is None
        return self.pid is None or Path(f"/proc/{self.pid}").exists()

    def check(self, what: str) -> None:
        """`ServerDied` if it has ended during `what`."""
        if not self.alive():
            status = f" with status {self.status}" if self.status is not None else ""
            raise ServerDied(f"the server ended{status} during {what}: {self.error_output()}")

    def errors(self) -> int:
        """Lines of the log that tell of an error."""
        return sum(" ERROR " in line or "Traceback" in line for line in self._lines())

    def error_output(self) -> str:
        """The end of the log."""
        return " / ".join(self._lines()[-3:]) or "its log is empty"

    def _lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines() if self.log else []


@contextmanager
def serving(log: Path, arguments: Sequence[str] = ()) -> Iterator[Tried]:
    """`alexnet serve` with these flags; after the block it has ended, and `status` says how."""
    command = [sys.executable, "-m", "service", "serve", "--port", "0", *arguments]
    with log.open("w") as written:
        with processes.started(command, stderr=written) as process:
            url = processes.ready_address(process)
            server = Tried(url, process.pid, process, log)
            if not url:
                raise SystemExit(f"the server did not start: {server.error_output()}")
            yield server
        server.status = process.returncode


def usage(pid: int) -> Usage | None:
    """What the process takes now, or None if it is gone or may not be looked at."""
    here = Path(f"/proc/{pid}")
    try:
        # The name, in parentheses, may hold spaces.
        fields = (here / "stat").read_text().rpartition(")")[2].split()
        if fields[0] == "Z":  # ended, but nobody has asked how
            return None
        return Usage(
            at=time.perf_counter(),
            resident=int((here / "statm").read_text().split()[1]) * PAGE / 1e6,
            cpu=(int(fields[11]) + int(fields[12])) / TICKS,
            files=len(os.listdir(here / "fd")),
            threads=int(fields[17]),
        )
    except (OSError, IndexError):
        return None


@contextmanager
def watched(server: Tried, every: float) -> Iterator[list[Usage]]:
    """A list that grows by a `Usage` every so many seconds; empty if the process is unknown."""
    samples: list[Usage] = []
    with repeated(lambda: _look(server.pid, samples), every):
        yield samples


def _look(pid: int | None, samples: list[Usage]) -> None:
    if pid is not None and (now := usage(pid)):
        samples.append(now)


def say(line: str) -> None:
    """What happens now, with the time of day."""
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


@contextmanager
def repeated(work: Callable[[], None], every: float) -> Iterator[None]:
    """Do `work` at once and then every so many seconds, in a thread, until the block ends."""
    ended = threading.Event()

    def go_on() -> None:
        work()
        while not ended.wait(every):
            work()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
