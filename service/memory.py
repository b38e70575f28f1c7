"""
How much memory this process may take: its container's limit, not its host's memory.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from service.cores import CGROUPS, OWN_CGROUPS

UNLIMITED = 2**60  # bytes; version 1 writes nearly 2**63 for no limit


def memory_limit(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int | None:
    """
    Bytes that our control group and those around it allow, the least of them; None for no limit.

    `cgroups` is where the control groups are mounted, `own` the file that names ours in them.
    """
    return min((limit for limit in _limits(cgroups, own) if 0 < limit < UNLIMITED), default=None)


def _limits(cgroups: Path, own: Path) -> Iterator[int]:
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not on Linux
        lines = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:  # version 2, https://docs.kernel.org/admin-guide/cgroup-v2.html
            top, file = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            top, file = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(place.lstrip("/"))
        # The root has the limit of a container that sees only its own groups, whatever its name.
        for each in (group, *group.parents):
            try:
                yield int((top / each / file).read_text())
            except (OSError, ValueError):  # no such file, or "max"
                continue
