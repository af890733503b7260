"""How many processors this process may really use."""

import math
import os
from pathlib import Path

CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_1 = Path("/sys/fs/cgroup/cpu")


def usable_cpus() -> int:
    """Processors of the affinity mask, or of the container's quota when that is less."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_set() -> str:
    """Names the processors, so that a plan measured on others is not taken for these."""
    return f"{usable_cpus()}of{','.join(map(str, sorted(os.sched_getaffinity(0))))}"


def _quota() -> float | None:
    try:
        if CGROUP_2.exists():
            quota, period = CGROUP_2.read_text().split()
        else:
            quota = (CGROUP_1 / "cpu.cfs_quota_us").read_text()
            period = (CGROUP_1 / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no cgroup, or "max"
        return None
