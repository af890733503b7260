"""Processors: what the affinity mask and the control groups leave, whichever version they are."""

from pathlib import Path

import pytest

from service import cpus
from service.cpus import usable_cpus


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda pid: set(range(16)))


def system(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """`root` looks like a machine whose `/sys/fs/cgroup` has these files."""
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in ({"proc/self/cgroup": cgroup} | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def quota_1(folder: str, quota: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": "100000"}


SYSTEMS = {
    "no control groups": ("", {}, 16),
    "version 2, none set": ("0::/", {"cpu.max": "max 100000"}, 16),
    "version 2, in a container": ("0::/", {"cpu.max": "150000 100000"}, 2),
    "less than one processor": ("0::/", {"cpu.max": "50000 100000"}, 1),
    "more than there are": ("0::/", {"cpu.max": "9900000 100000"}, 16),
    "version 2, nested": ("0::/a/b", {"a/b/cpu.max": "300000 100000"}, 3),
    "the tightest of nested ones": (
        "0::/a/b",
        {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "cpu.max": "800000 100000"},
        4,
    ),
    "a path of the host's": ("0::/docker/1f2e", {"cpu.max": "200000 100000"}, 2),
    "version 1": ("4:cpu,cpuacct:/", quota_1("cpu,cpuacct", 250000), 3),
    "version 1, none set": ("4:cpu:/", quota_1("cpu", -1), 16),
    "version 1, nested": ("4:cpuacct,cpu:/a", quota_1("cpu/a", 200000), 2),
    "both at once": (
        "2:cpu:/a\n0::/system",
        quota_1("cpu/a", 500000) | {"unified/cpu.max": "1 1"},
        5,
    ),
}


@pytest.mark.parametrize("case", SYSTEMS)
def test_a_quota_counts_for_fewer_processors(tmp_path: Path, case: str) -> None:
    cgroup, files, expected = SYSTEMS[case]
    assert usable_cpus(system(tmp_path, cgroup, files)) == expected


def test_a_machine_that_tells_nothing_has_its_affinity_mask(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == 16
