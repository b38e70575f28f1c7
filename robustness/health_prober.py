"""
Probes /livez and /readyz, as orchestrators do.

    python -m robustness.health_prober URL    a line per probe: began path status seconds

Each is asked every 100 ms over a connection of its own; the time is from connecting to the last
byte.  It is a process by itself, so that what the load generator has to do does not count as the
server's time; the cores it shares with both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from benchmarks import processes

PATHS: Final = ("/livez", "/readyz")
EVERY: Final = 0.1  # seconds
TIMEOUT: Final = 10.0  # seconds


class Probe(NamedTuple):
    """One question and its answer."""

    began: float  # time.perf_counter(), the same clock in every process of a machine
    path: str
    status: int  # 0: no answer
    seconds: float


@contextmanager
def probing(url: str) -> Iterator[list[Probe]]:
    """A list that grows by what a prober of its own process finds."""
    probes: list[Probe] = []
    command = [sys.executable, "-m", __name__, url]
    with processes.started(command, stderr=subprocess.DEVNULL) as process:
        output = process.stdout
        assert output is not None

        def read() -> None:
            for line in output:
                began, path, status, seconds = line.split()
                probes.append(Probe(float(began), path, int(status), float(seconds)))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield probes
        finally:
            process.terminate()
            reader.join()


def ask(host: str, port: int, path: str) -> Probe:
    """One probe."""
    began = time.perf_counter()
    connection = HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        answer.read()
        status = answer.status
    except (OSError, HTTPException):
        status = 0
    finally:
        connection.close()
    return Probe(began, path, status, time.perf_counter() - began)


def _ask_on(host: str, port: int, path: str) -> None:
    while True:
        probe = ask(host, port, path)
        line = f"{probe.began:.6f} {path} {probe.status} {probe.seconds:.6f}\n"
        os.write(1, line.encode())  # whole: the other thread writes too
        time.sleep(max(0.0, probe.began + EVERY - time.perf_counter()))


if __name__ == "__main__":
    parts = urlsplit(sys.argv[1])
    for path in PATHS:
        threading.Thread(
            target=_ask_on, args=(parts.hostname or "", parts.port or 80, path), daemon=True
        ).start()
    threading.Event().wait()
