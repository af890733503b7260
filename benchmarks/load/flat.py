"""The resource usage of a process over time, and whether it grows."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

MEGABYTE = 1 << 20
WARM_UP = 0.3  # share of a run in which memory may still fill up
BLOCKS = 24


@dataclass(frozen=True)
class Usage:
    """The resource usage of a process at one moment."""

    at_s: float
    memory_mb: float  # resident
    threads: int
    files: int
    cpu_s: float  # used so far


@dataclass(frozen=True)
class Growth:
    """How much a resource grew between the warm-up and the end."""

    grown: float
    usual: float  # the median
    highest: float


def look(pid: int, at_s: float) -> Usage:
    """The process's usage now, from /proc."""
    proc = Path("/proc") / str(pid)
    pages = int((proc / "statm").read_text().split()[1])
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(
        at_s,
        pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE,
        int(fields[17]),
        len(os.listdir(proc / "fd")),
        ticks / os.sysconf("SC_CLK_TCK"),
    )


def growth(times_s: Sequence[float], values: Sequence[float]) -> Growth:
    """The Theil-Sen slope through the medians of BLOCKS blocks, over the time after WARM_UP.

    Medians of blocks, and the median of all slopes: spikes and dips do not count, only what stays.

    Raises:
        ValueError: fewer than ten samples.
    """
    if len(times_s) < 10:
        raise ValueError(f"{len(times_s)} samples are too few to show whether a process grows")
    begin = times_s[0] + WARM_UP * (times_s[-1] - times_s[0])
    points = [(t, v) for t, v in zip(times_s, values, strict=True) if t >= begin]
    size = max(1, len(points) // BLOCKS)
    blocks = [points[i : i + size] for i in range(0, len(points), size)]
    middles = [
        (statistics.median(t for t, _ in block), statistics.median(v for _, v in block))
        for block in blocks
    ]
    slope = statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(middles, 2))
    after = [v for _, v in points]
    return Growth(slope * (times_s[-1] - begin), statistics.median(after), max(after))
