"""
A container's CPU quota and memory limit.  They are what this process may take of its machine, not
what its host has.

`cgroups` is where the control groups are mounted, `own` the file that names this process's in them.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
MEMORY = Path("/proc/meminfo")
UNLIMITED = 2**60  # bytes; version 1 writes nearly 2**63 for no limit


def cpu_quota(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Cores that this process may use: its CPU affinity, or its containers' quota if less."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas(cgroups, own)]))


def memory_limit(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int | None:
    """The least of the limits on this process's memory, in bytes; None if there is none."""
    return min(
        (limit for limit in _memory_limits(cgroups, own) if 0 < limit < UNLIMITED), default=None
    )


def free_memory() -> int | None:
    """Bytes that this machine has for programs; None if it does not say."""
    with suppress(OSError, KeyError):  # not on Linux
        fields = dict(re.findall(r"(\w+): +(\d+) kB", MEMORY.read_text()))
        return int(fields["MemAvailable"]) * 1024
    return None


def _memory_limits(cgroups: Path, own: Path) -> Iterator[int]:
    for second, group in _groups("memory", cgroups, own):
        try:
            yield int((group / ("memory.max" if second else "memory.limit_in_bytes")).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue


def _quotas(cgroups: Path, own: Path) -> Iterator[int]:
    """Cores that this process's group and each of those around it allow, where they limit them."""
    for second, group in _groups("cpu", cgroups, own):
        files = ("cpu.max",) if second else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = _numbers(*(group / file for file in files))
        if quota > 0 and period > 0:
            yield math.ceil(quota / period)


def _groups(controller: str, cgroups: Path, own: Path) -> Iterator[tuple[bool, Path]]:
    """The folders of this process's group and those around it; whether they are version 2's."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not on Linux
        lines = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        second = not controllers  # https://docs.kernel.org/admin-guide/cgroup-v2.html
        if second or controller in controllers.split(","):
            top, group = (
                cgroups if second else cgroups / controller,
                PurePosixPath(place.lstrip("/")),
            )
            # The root has the limits of a container that sees only its own groups, whatever its
            # name.
            for each in (group, *group.parents):
                yield second, top / each


def _numbers(*files: Path) -> tuple[int, int]:
    """Quota and period in microseconds; zeros where there is no file or no limit."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return int(quota), int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return 0, 0
