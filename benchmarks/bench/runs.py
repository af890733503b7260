"""Runs as JSON lines: a run that is in the file is not repeated."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.record import Measures

Settings = Mapping[str, str]
Machine = Mapping[str, Any]  # as from `machine`
PACKAGES = ("torch", "timm", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Run:
    """Identifies a run: two with the same row, name, settings and seed are the same."""

    row: str
    name: str
    seed: int
    settings: Settings = field(default_factory=dict)

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class Runs:
    """The results of all runs, in a file that several processes may append to.

    Of a run that is in the file more than once, the last line counts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[Run, Measures, Machine]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            one = json.loads(line)
            run = Run(one["row"], one["name"], one["seed"], one["settings"])
            self._known[run.key] = run, one["measures"], one["machine"]

    def has(self, run: Run) -> bool:
        return run.key in self._known

    def add(self, run: Run, measures: Measures, machine: Machine) -> None:
        self._known[run.key] = run, measures, machine
        line = asdict(run) | {
            "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "machine": machine,
            "measures": measures,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(run.row for run, _, _ in self._known.values()))

    @property
    def machines(self) -> list[Machine]:
        """The machine of every run."""
        return [machine for _, _, machine in self._known.values()]

    def machine(self, run: Run) -> Machine:
        """The machine of one run.

        Raises:
            KeyError: the run is not in the file.
        """
        return self._known[run.key][2]

    def series(self, row: str) -> Iterator[tuple[str, Settings, dict[int, Measures]]]:
        """Groups of runs that differ only in their seed, in the order in which they first ran."""
        found: dict[str, tuple[str, Settings, dict[int, Measures]]] = {}
        for run, measures, _ in self._known.values():
            if run.row == row:
                key = json.dumps([run.name, run.settings], sort_keys=True)
                found.setdefault(key, (run.name, run.settings, {}))[2][run.seed] = measures
        yield from found.values()

    def of(self, row: str, name: str, settings: Settings) -> dict[int, Measures]:
        """By seed."""
        for found, others, measures in self.series(row):
            if found == name and dict(others) == dict(settings):
                return measures
        return {}


def carry_out(runs: Runs, wanted: list[Run], measure: Callable[[Run], Measures]) -> list[str]:
    """Makes all the `wanted` runs that are not in the file; returns a line for each that failed."""
    failed = []
    for number, run in enumerate(wanted, start=1):
        if runs.has(run):
            continue
        name = f"{number}/{len(wanted)} {run.row}, {run.name}, seed {run.seed}"
        try:
            measures = measure(run)
        except RunFailed as error:
            failed.append(f"{name}: {error}")
            print(failed[-1], flush=True)
            continue
        runs.add(run, measures, machine())
        shown = ", ".join(f"{k} {v:.4g}" for k, v in measures.items() if isinstance(v, float))
        print(f"{name}: {shown}", flush=True)
    return failed


class RunFailed(Exception):
    """A run ended without a result; says why."""


def machine() -> dict[str, Any]:
    """The machine and the versions that the run used."""
    cpu = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "commit": commit,
    }


def installed(name: str) -> str:
    """The version of a package, or of its build for GPUs."""
    try:
        return version(name)
    except PackageNotFoundError:
        return version(f"{name}-gpu")


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
