"""What is said of labels that are doubted: to people, in a report and in a table."""

import csv
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.data.dataset import Dataset


@dataclass(frozen=True)
class Suspect:
    """An image whose label is doubted; in a multi-label task, one label of it."""

    row: int  # of the data set
    given: str
    suggested: str  # the likeliest
    confidence: float  # in the given label
    margin: float  # the same less that in the suggested one, -1…0; the lower, the more suspect


@dataclass(frozen=True)
class Confusion:
    """How many images are called one thing and seem to be another."""

    given: str
    suggested: str
    images: int  # that are suspected of it
    share: float  # of all images that are called so, estimated


@dataclass(frozen=True)
class LabelNoise:
    """What cross-validated answers say of the labels."""

    images: int  # that were answered
    expected: int  # wrong labels, estimated: where to stop going through the suspects
    suspects: tuple[Suspect, ...]  # the most suspect first
    confusions: tuple[Confusion, ...]  # the most frequent first
    # labels of which nothing can be said: too few images or groups, or told by chance
    unknown: tuple[str, ...]


def describe(noise: LabelNoise, dataset: Dataset) -> str:
    """One line for people."""
    if not noise.images:
        return (
            "labels were not doubted: there are too few images, or what was learnt from the others "
            "agrees with too few of the labels"
        )
    if not noise.suspects:
        return f"of the labels of {noise.images} images none seems to be wrong"
    said = f"of the labels of {noise.images} images about {noise.expected} may be wrong"
    first = noise.suspects[0]
    name = _name(dataset, first)
    return f"{said}; the most suspect is {name}, called {first.given!r}, not {first.suggested!r}"


def figures(noise: LabelNoise, dataset: Dataset, most: int = 50) -> dict[str, Any]:
    """The JSON of a report, with the `most` suspect images; the table has all."""
    told = asdict(noise)
    shown = noise.suspects[:most]
    return told | {"suspects": [{"file": _name(dataset, each)} | asdict(each) for each in shown]}


def write_suspects(path: Path, dataset: Dataset, noise: LabelNoise) -> None:
    """`path` is a CSV of every suspect, the most suspect first."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "given", "suggested", "confidence", "margin"])
        for each in noise.suspects:
            numbers = (f"{each.confidence:.4f}", f"{each.margin:.4f}")
            writer.writerow([_name(dataset, each), each.given, each.suggested, *numbers])


def _name(dataset: Dataset, suspect: Suspect) -> str:
    return os.path.relpath(dataset.items[suspect.row].path, dataset.root)
