"""How many processors this process may really use."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path("/")


def usable_cpus(root: Path = ROOT) -> int:
    """Processors of the affinity mask, or of the tightest quota when that is less.

    Args:
        root: where `proc` and `sys` are.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(root))]))


def cpu_set() -> str:
    """Names the processors, so that a plan measured on others is not taken for these."""
    return f"{usable_cpus()}of{','.join(map(str, sorted(os.sched_getaffinity(0))))}"


def _quotas(root: Path) -> Iterator[float]:
    """Processors granted by this process's control group and by each one around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # a system without control groups
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:  # as in `0::/a/b` of version 2, `4:cpu,cpuacct:/a/b` of version 1
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            yield from _up(mounts, group, _quota_2)
        elif "cpu" in controllers.split(","):
            yield from _up(mounts / controllers, group, _quota_1)
            yield from _up(mounts / "cpu", group, _quota_1)


def _up(mount: Path, group: str, quota: Callable[[Path], float | None]) -> Iterator[float]:
    """From the group to the mount; in a container the first may name a folder of the host."""
    inside = mount / group.lstrip("/")
    for folder in (inside, *inside.parents):
        if not folder.is_relative_to(mount):
            return
        if found := quota(folder):
            yield found


def _quota_2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # not there, or "max"
        return None


def _quota_1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
