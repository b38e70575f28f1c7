"""
Time to ready, and memory, of the service; Linux.  The model is the bundled one.

    python -m benchmarks.startup [RUNS]

Prints the median over RUNS (5) of the seconds from starting the process to the first 200 of
/readyz, the resident memory then, and after ten-crop requests (MB of 10^6 bytes).
"""

from __future__ import annotations

import statistics
import sys

from alexnet_client import Client

from .processes import ROOT, serving

CAT = ROOT / "tests" / "pictures" / "cat.jpg"


def measure() -> tuple[float, float, float]:
    """(seconds to ready, MB when ready, MB after 20 requests) of one process."""
    with serving() as server:
        idle = server.resident()
        with Client(server.url) as client:
            for _ in range(20):
                client.classify(CAT)
        return server.seconds, idle, server.resident()


def main() -> None:
    """Print the three medians."""
    runs = [measure() for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5)]
    seconds, idle, busy = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"ready after {seconds:.2f} s with {idle:.0f} MB; {busy:.0f} MB after 20 requests")


if __name__ == "__main__":
    main()
