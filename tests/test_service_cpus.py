"""Processors: what the affinity mask and the control groups leave, whichever version they are."""

from pathlib import Path
from typing import Any

import pytest

from service.execution import cpus
from service.execution.cpus import usable_cpus
from service.execution.hardware import processors


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


def test_a_machine_without_a_quota_has_its_affinity_mask(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == 16


# What processors are called

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 06:54:38 UTC 2025"


def machine(root: Path, cpu: str = "", gpus: tuple[str, ...] = ()) -> Path:
    proc = root / "proc"
    (proc / "driver" / "nvidia").mkdir(parents=True)
    (proc / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: {cpu}\nflags\t\t: fpu\n")
    if gpus:
        (proc / "driver" / "nvidia" / "version").write_text(f"{DRIVER}\nGCC version:  gcc 13.2\n")
    for number, gpu in enumerate(gpus):
        folder = proc / "driver" / "nvidia" / "gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        text = f"Model: \t\t {gpu}\nIRQ:   \t\t 0\nBus Type: \t PCIe\n"
        (folder / "information").write_text(text)
    return root


def test_a_cpu_is_named_by_its_model_and_by_what_of_it_may_be_used(tmp_path: Path) -> None:
    root = machine(tmp_path, cpu="AMD EPYC 9B14")
    assert processors("cpu", root) == f"{cpus.cpu_set()} AMD EPYC 9B14"
    assert processors("openvino", root) == processors("cpu", root)
    assert processors("cpu", tmp_path / "none") == f"{cpus.cpu_set()} "


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_gpus_are_named_by_their_models_and_their_driver(tmp_path: Path, provider: Any) -> None:
    root = machine(tmp_path, gpus=("NVIDIA L4", "NVIDIA H200"))
    assert processors(provider, root) == f"NVIDIA H200, NVIDIA L4; {DRIVER}"
    assert processors(provider, tmp_path / "none") == ""
