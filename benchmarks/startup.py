"""
Start to ready, and memory, of the service with its bundled model; Linux.

    python benchmarks/startup.py [RUNS]

Prints the median over RUNS (5) of the seconds from starting the process to the first 200 of
/readyz, the resident memory then, and after ten-crop requests (MB of 10^6 bytes).
"""

from __future__ import annotations

import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CAT = Path(__file__).parents[1] / "tests" / "pictures" / "cat.jpg"


def measure() -> tuple[float, float, float]:
    """(seconds to ready, MB when ready, MB after 20 requests) of one process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        while not _ready(url):
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
            if time.perf_counter() - began > 60:
                raise SystemExit("the service did not become ready within a minute")
            time.sleep(0.01)
        seconds, idle = time.perf_counter() - began, _resident(process.pid)
        for _ in range(20):
            request = urllib.request.Request(
                f"{url}/v1/predict", CAT.read_bytes(), {"Content-Type": "image/jpeg"}
            )
            urllib.request.urlopen(request).read()
        return seconds, idle, _resident(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz") as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def _resident(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def main() -> None:
    """Print the three medians."""
    runs = [measure() for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5)]
    seconds, idle, busy = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"ready after {seconds:.2f} s with {idle:.0f} MB; {busy:.0f} MB after 20 requests")


if __name__ == "__main__":
    main()
