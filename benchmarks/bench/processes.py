"""CPU time and memory of processes, from /proc."""

import os
from collections.abc import Sequence
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    children = [
        int(child)
        for file in (PROC / str(pid) / "task").glob("*/children")
        for child in file.read_text().split()
    ]
    return [pid, *(one for child in children for one in family(child))]


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds that they have used so far, in total."""
    total = 0
    for pid in pids:
        # the name, in parentheses, may contain anything
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def rss(pids: Sequence[int]) -> int:
    """Resident bytes in total; shared memory counts once for each process."""
    return sum(int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE for pid in pids)
