"""Runs the ablations and the solar cells' protocols."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.ablations import CHANGES, QUIET
from bench.cells import PROTOCOLS, TRIAL, Cell, Protocol, read_cells, trial_cells
from bench.fitting import Trained, trained
from bench.record import Measures
from bench.runs import Run, Runs, carry_out
from registry.bundle import MODEL, Bundle
from registry.images import Float32Array, prepare
from registry.tta import tta_views
from training.export.runtime import answering
from training.reading_settings import read_settings

BASE = "base"
ABLATION = "ablation at"


@dataclass(frozen=True)
class Place:
    """Where runs write their output."""

    work: Path
    runs: Runs

    @property
    def cache(self) -> Path:
        return self.work / "cache"


# Settings, one change at a time


def ablation_row(size: int) -> str:
    return f"{ABLATION} {size}"


def ablation_sizes(runs: Runs) -> list[int]:
    """The image sizes for which there are runs."""
    return sorted(int(row.split()[-1]) for row in runs.rows if row.startswith(ABLATION))


def ablation_runs(size: int, seeds: int, base: Mapping[str, str], names: list[str]) -> list[Run]:
    """The base and each change, seed by seed, so that paired runs follow each other.

    A change that makes no difference to the base is left out.
    """
    common = {"size": str(size)} | QUIET | dict(base)
    changes: dict[str, dict[str, str]] = {BASE: {}}
    changes |= {name: CHANGES[name] for name in names}
    return [
        Run(ablation_row(size), name, seed, common | change)
        for seed in range(seeds)
        for name, change in changes.items()
        if name == BASE or read_settings(common | change) != read_settings(common)
    ]


def ablate(place: Place, wanted: list[Run]) -> list[str]:
    """Makes all runs; returns a line for each that failed."""
    table = place.work / "tables" / "trial.csv"
    TRIAL.write_table(trial_cells(read_cells()), 0, table)

    def measure(run: Run) -> Measures:
        with trained(table, run.settings, run.seed, work=place.work, cache=place.cache) as one:
            return one.measures

    return carry_out(place.runs, wanted, measure)


# The solar cells, three ways


def protocol_runs(names: list[str], name: str, seeds: int, base: Mapping[str, str]) -> list[Run]:
    settings = QUIET | dict(base)
    return [Run(row, name, seed, settings) for seed in range(seeds) for row in names]


def score_protocols(place: Place, wanted: list[Run]) -> list[str]:
    """Makes all runs, each on the split of its own seed; returns a line for each that failed."""
    cells = read_cells()

    def measure(run: Run) -> Measures:
        protocol = PROTOCOLS[run.row]
        table = place.work / "tables" / f"{run.row}-{run.seed}.csv"
        held_out = protocol.write_table(cells, run.seed, table)
        with trained(table, run.settings, run.seed, work=place.work, cache=place.cache) as one:
            return one.measures | scores(protocol, held_out, one)

    return carry_out(place.runs, wanted, measure)


def scores(protocol: Protocol, held_out: list[Cell], one: Trained) -> Measures:
    """The accuracy of the bundle's answers, plain and with TTA."""
    views = max(int(one.bundle.metrics["tta_views"]), 1)
    plain, averaged = answers(one.folder, one.bundle, held_out, views)
    measures: Measures = {"held_out": len(held_out), **protocol.accuracies(held_out, plain)}
    for name, value in protocol.accuracies(held_out, averaged).items():
        measures[f"{name}_tta"] = value
    return measures


def answers(
    folder: Path, bundle: Bundle, cells: list[Cell], views: int
) -> tuple[Float32Array, Float32Array]:
    """Probabilities [n,classes] of the model as served: for each file plainly, and the mean over
    its views."""
    answer = answering(folder / MODEL)
    plain, averaged = [], []
    for cell in cells:
        encoded = cell.file.read_bytes()
        each = answer(tta_views(prepare(encoded, bundle.image), encoded, bundle.tta, views))
        plain.append(each[0])
        averaged.append(each.mean(axis=0))
    return np.stack(plain), np.stack(averaged)
