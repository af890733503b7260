"""Suspected label errors: as text for people, in a report and as a table."""

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.data.dataset import Dataset

LISTED = 50  # suspects in the JSON of a report


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong; in a multi-label task, one of its labels."""

    row: int  # of the data set
    given: str
    suggested: str  # the likeliest
    confidence: float  # in the given label
    margin: float  # the same less that in the suggested one, -1…0; the lower, the more suspect


@dataclass(frozen=True)
class Confusion:
    """How many images labelled as one class seem to be of another."""

    given: str
    suggested: str
    images: int  # suspects
    share: float  # of all images with the given label, estimated


@dataclass(frozen=True)
class LabelNoise:
    """Label errors found by cross-validated predictions."""

    images: int  # that were checked
    expected: int  # wrong labels, estimated: where to stop going through the suspects
    suspects: tuple[Suspect, ...]  # the most suspect first
    confusions: tuple[Confusion, ...]  # the most frequent first
    # labels that could not be checked: too few images or groups, or predicted no better than chance
    unknown: tuple[str, ...]


def describe(noise: LabelNoise, dataset: Dataset) -> str:
    """One line for people."""
    if not noise.images:
        return (
            "labels were not checked for errors: there are too few images, or the cross-validated "
            "predictions agree with too few of the labels"
        )
    if not noise.suspects:
        return f"of the labels of {noise.images} images none seems to be wrong"
    first = noise.suspects[0]
    said = f"{_name(dataset, first)}, labelled {first.given!r}, seems {first.suggested!r}"
    if not noise.expected:
        return (
            f"of the labels of {noise.images} images hardly any seems wrong; the most doubtful: "
            f"{said}"
        )
    return (
        f"of the labels of {noise.images} images about {noise.expected} may be wrong; the most "
        f"suspect: {said}"
    )


def figures(noise: LabelNoise, dataset: Dataset) -> dict[str, Any]:
    """The JSON of a report, with the most suspect images; the table has all."""
    shown = noise.suspects[:LISTED]
    suspects = [{"file": _name(dataset, each)} | asdict(each) for each in shown]
    return asdict(noise) | {"suspects": suspects}


def write_suspects(path: Path, dataset: Dataset, noise: LabelNoise) -> None:
    """Writes a CSV of every suspect, the most suspect first."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "given", "suggested", "confidence", "margin"])
        for each in noise.suspects:
            numbers = (f"{each.confidence:.4f}", f"{each.margin:.4f}")
            writer.writerow([_name(dataset, each), each.given, each.suggested, *numbers])


def _name(dataset: Dataset, suspect: Suspect) -> str:
    return dataset.name(dataset.items[suspect.row])
