"""How many CPUs this process may actually use."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path("/")


def usable_cpus(root: Path = ROOT) -> int:
    """The number of CPUs in the affinity mask, or of the tightest cgroup quota if that is less.

    Args:
        root: where `proc` and `sys` are.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(root))]))


def cpu_set() -> str:
    """Identifies the CPUs, so that a plan measured on others is not used for these."""
    return f"{usable_cpus()}of{','.join(map(str, sorted(os.sched_getaffinity(0))))}"


def _quotas(root: Path) -> Iterator[float]:
    """The CPU quotas of this process's cgroup and of all its ancestors."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # a system without cgroups
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:  # cgroup v2: `0::/a/b`; v1: `4:cpu,cpuacct:/a/b`
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            yield from _up(mounts, group, _quota_2)
        elif "cpu" in controllers.split(","):
            yield from _up(mounts / controllers, group, _quota_1)
            yield from _up(mounts / "cpu", group, _quota_1)


def _up(mount: Path, group: str, quota: Callable[[Path], float | None]) -> Iterator[float]:
    """The quotas from the group up to the mount; in a container, the group may be a path of the
    host, which does not exist here."""
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
    except (OSError, ValueError):  # missing, or "max"
        return None


def _quota_1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
