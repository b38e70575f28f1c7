"""
How much memory this process may take: its container's limit, not its host's memory.
"""

from collections.abc import Iterator
from pathlib import Path

from service.cgroups import CGROUPS, OWN_CGROUPS, groups

UNLIMITED = 2**60  # bytes; version 1 writes nearly 2**63 for no limit


def memory_limit(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int | None:
    """
    Bytes that our control group and those around it allow, the least of them; None for no limit.

    `cgroups` is where the control groups are mounted, `own` the file that names ours in them.
    """
    return min((limit for limit in _limits(cgroups, own) if 0 < limit < UNLIMITED), default=None)


def _limits(cgroups: Path, own: Path) -> Iterator[int]:
    for second, group in groups("memory", cgroups, own):
        try:
            yield int((group / ("memory.max" if second else "memory.limit_in_bytes")).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
