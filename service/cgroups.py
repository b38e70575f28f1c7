"""
How many cores this process may really use: a container's quota, not its host's processors.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """
    Cores that this process may really use: its CPU affinity, or its containers' quota if less.

    `cgroups` is where the control groups are mounted, `own` the file that names ours in them.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas(cgroups, own)]))


def _quotas(cgroups: Path, own: Path) -> Iterator[int]:
    """Cores that our control group and each of those around it allow; only limits are given."""
    for second, group in groups("cpu", cgroups, own):
        files = ("cpu.max",) if second else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = _numbers(*(group / file for file in files))
        if quota > 0 and period > 0:
            yield math.ceil(quota / period)


def groups(controller: str, cgroups: Path, own: Path) -> Iterator[tuple[bool, Path]]:
    """The folders that may limit us, ours and those around it, and whether they are version 2's."""
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
