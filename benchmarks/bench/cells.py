"""The solar cells of `elpv-dataset` (CC-BY-NC-SA), and three ways to hold some of them out.

Each cell has a probability that it is defective: 0, 1/3, 2/3 or 1, and its module is of mono- or of
polycrystalline silicon.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from registry.images import Float32Array

DEFECTIVE, FUNCTIONAL = "defective", "functional"
LABELS = (DEFECTIVE, FUNCTIONAL)  # sorted, as training sorts them
N_BLOCKS = 5
QUARTER, FIFTH = 0.25, 0.2
TRIAL_SEED = 0


@dataclass(frozen=True)
class Cell:
    """One photograph."""

    file: Path
    probability: float  # that it is defective
    silicon: str  # mono or poly


HoldOut = Callable[[Sequence[Cell], int], set[int]]  # cells, seed -> indices to hold out


@dataclass(frozen=True)
class Protocol:
    """What counts as defective, what is held out, and the weight of each image and answer."""

    what: str
    defective_from: float
    hold_out: HoldOut
    weight: Callable[[float], float] = lambda probability: 1.0

    def label(self, cell: Cell) -> str:
        return DEFECTIVE if cell.probability >= self.defective_from else FUNCTIONAL

    def write_table(self, cells: Sequence[Cell], seed: int, path: Path) -> list[Cell]:
        """Writes a table to train on, with the split of `seed`; returns the held-out cells."""
        held_out = self.hold_out(cells, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "label", "split", "weight"])
            for place, cell in enumerate(cells):
                part = "valid" if place in held_out else "train"
                weight = round(self.weight(cell.probability), 4)
                writer.writerow([cell.file, self.label(cell), part, weight])
        return [cells[place] for place in sorted(held_out)]

    def accuracies(self, cells: Sequence[Cell], answers: Float32Array) -> dict[str, float]:
        """Accuracy of the answers [n,2], weighted as the protocol says, and unweighted."""
        truth = np.array([LABELS.index(self.label(cell)) for cell in cells])
        weights = np.array([self.weight(cell.probability) for cell in cells])
        right = answers.argmax(axis=1) == truth
        return {
            "weighted": float(np.average(right, weights=weights)),
            "accuracy": float(right.mean()),
        }


def read_cells() -> list[Cell]:
    """All 2,624 cells, in the order of their files, which is very likely that of the modules.

    Raises:
        SystemExit: the package is not installed.
    """
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise SystemExit("elpv-dataset is not installed; pip install elpv-dataset==1.0.0.post1")
    source = Path(spec.origin).parent / "data"
    cells = []
    for line in (source / "labels.csv").read_text(encoding="utf-8").splitlines():
        file, probability, silicon = line.split()
        cells.append(Cell(source / file, float(probability), silicon))
    return cells


def drawn(share: float) -> HoldOut:
    """This share of the cells, stratified by probability and silicon, drawn with the seed."""

    def hold_out(cells: Sequence[Cell], seed: int) -> set[int]:
        kinds = [f"{cell.probability:.2f} {cell.silicon}" for cell in cells]
        places = range(len(cells))
        _, chosen = train_test_split(places, test_size=share, random_state=seed, stratify=kinds)
        return set(chosen)

    return hold_out


def block(cells: Sequence[Cell], seed: int) -> set[int]:
    """The `seed`-th fifth, in turn, of the cells in the order of files, so of neighbours."""
    edges = np.linspace(0, len(cells), N_BLOCKS + 1).round().astype(int)
    number = seed % N_BLOCKS
    return set(range(edges[number], edges[number + 1]))


def confidence(probability: float) -> float:
    """The experts' confidence: doubtful cells, called defective, have a weight of 1/3 or 2/3."""
    return probability or 1.0


def trial_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The 1,968 training cells of Deitsch's protocol with seed 0: none of the cells that settings
    are chosen on is one that that run is scored on."""
    held_out = drawn(QUARTER)(cells, TRIAL_SEED)
    return [cell for place, cell in enumerate(cells) if place not in held_out]


PROTOCOLS = {
    "deitsch": Protocol(
        "75/25, stratified; doubtful cells are defective, weighted 1/3 and 2/3",
        defective_from=0.1,
        hold_out=drawn(QUARTER),
        weight=confidence,
    ),
    "stratified": Protocol(
        "80/20, stratified; defective from 1/2 on",
        defective_from=0.5,
        hold_out=drawn(FIFTH),
    ),
    "blocked": Protocol(
        f"{N_BLOCKS} blocks of neighbouring files, a fold each; defective from 1/2 on",
        defective_from=0.5,
        hold_out=block,
    ),
}
# What fastai and Unfreeze are both trained on, and what settings are chosen on.
COMPARED = Protocol(
    "75/25, stratified; defective from 1/2 on",
    defective_from=0.5,
    hold_out=lambda cells, seed: drawn(QUARTER)(cells, TRIAL_SEED),
)
TRIAL = Protocol(
    "75/25 of what the comparison learns from, stratified; defective from 1/2 on",
    defective_from=0.5,
    hold_out=lambda cells, seed: drawn(QUARTER)(cells, TRIAL_SEED),
)
