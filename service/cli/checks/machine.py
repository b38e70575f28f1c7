"""
Cores, memory and files: what the service may take of this machine, or of its container.
"""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from service.cli.checks import Finding, failed, megabytes, ok, warning
from service.settings import Settings, spelled

if TYPE_CHECKING:
    from service.inference.engine import Engine

SQUARE: Final = 256 * 256 * 3  # bytes of an image in the queue
DECODING: Final = 12  # bytes a pixel, at most; WebP takes 16, and has a limit of its own
SAMPLE: Final = 16  # images of a batch that is run to see what it takes
MEMORY: Final = Path("/proc/meminfo")


def cores(its: Settings) -> Iterator[Finding]:
    """What the network may use."""
    from service.cgroups import usable_cores

    usable = usable_cores()
    if its.threads > usable:
        yield warning(
            "cores",
            f"{usable} may be used, and {spelled('threads')} is {its.threads}: they will wait for "
            "each other",
            "leave it at 0, which takes what there is",
        )
    else:
        yield ok("cores", f"{usable} may be used")


def files(its: Settings) -> Iterator[Finding]:
    """Whether as many files may be open as connections may come; what is not, the server logs."""
    from service.http.server import within_file_limit

    if within_file_limit(its.max_connections) == its.max_connections:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = "as many as it likes" if soft == resource.RLIM_INFINITY else str(soft)
        yield ok("files", f"{most} may be open, enough for {its.max_connections} connections")


def memory(its: Settings, engine: "Engine | None") -> Iterator[Finding]:
    """What the service takes at its busiest, against what there is."""
    have, whose = _available()
    if engine is None:
        free = f"{whose} {megabytes(have)}; " if have is not None else ""
        yield ok("memory", f"{free}what a server takes is not known, since no model is loaded")
        return
    batch = min(its.max_batch, SAMPLE)
    _run(engine, batch)
    after = _peak()
    busy = after + its.max_uploads + its.max_decoding_pixels * DECODING + its.max_queue * SQUARE
    told = (
        f"{megabytes(after)} after a batch of {batch}, {megabytes(busy)} at the very most when busy"
    )
    if have is None:
        yield ok("memory", told)
    elif have < after:
        yield failed("memory", f"{told}; {whose} {megabytes(have)}", f"give it {megabytes(busy)}")
    elif have < busy:
        yield warning(
            "memory",
            f"{told}; {whose} {megabytes(have)}",
            f"lower {spelled('max_decoding_pixels')}, {spelled('max_uploads')} or "
            f"{spelled('max_queue')}, or give it {megabytes(busy)}",
        )
    else:
        yield ok("memory", f"{told}; {whose} {megabytes(have)}")


def _run(engine: "Engine", images: int) -> None:
    """One batch with the most views, which is when the network takes most."""
    import numpy as np

    squares = np.zeros((images, 256, 256, 3), np.uint8)
    engine.run(squares, engine.model.crops.get("ten", max(engine.model.crops.values())))


def _available() -> tuple[int | None, str]:
    """Bytes that this process may take, and who says so."""
    from service.memory import memory_limit

    try:
        lines = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not on Linux
        free = None
    limit = memory_limit()
    if limit is not None and (free is None or limit < free):
        return limit, "the container's limit is"
    # What this process, which is one like the server's, has taken already is no longer free.
    return free and free + _peak(), "this machine has free"


def _peak() -> int:
    """Bytes that this process has taken so far; the doctor's own parts are small."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
