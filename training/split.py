"""Which images are learnt from and which are held out; drawn once, and kept."""

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sklearn.model_selection import train_test_split

from registry.bundle import Task
from registry.errors import DataError
from training.items import Item, Part


def split(
    items: list[Item], task: Task, valid_fraction: float, seed: int, known: Mapping[str, Part]
) -> list[Item]:
    """Every item in one part: the given one, the known one (by SHA-256), or a drawn one.

    Equal images always share theirs.
    """
    if all(item.part for item in items):
        return items
    new: dict[str, Item] = {item.sha256: item for item in items if item.sha256 not in known}
    parts = dict(known) | _draw(list(new.values()), task, valid_fraction, seed)
    return [Item(item.path, item.labels, parts[item.sha256], item.sha256) for item in items]


def _draw(items: list[Item], task: Task, valid_fraction: float, seed: int) -> dict[str, Part]:
    """Stratified by label; a class of one image learns from it."""
    kinds = Counter(item.labels for item in items)
    drawn = [item.sha256 for item in items if kinds[item.labels] > 1 or task == "multi"]
    strata = [item.labels for item in items if kinds[item.labels] > 1] if task == "single" else None
    n_valid = round(len(drawn) * valid_fraction)
    if strata:  # scikit-learn wants room for one of each class in both parts
        n_valid = min(max(n_valid, len(set(strata))), len(drawn) - len(set(strata)))
    parts: dict[str, Part] = {item.sha256: "train" for item in items}
    if 0 < n_valid < len(drawn):
        chosen = train_test_split(drawn, test_size=n_valid, random_state=seed, stratify=strata)[1]
        parts |= dict.fromkeys(chosen, "valid")
    return parts


def check_parts(items: Sequence[Item], labels: tuple[str, ...]) -> None:
    """Raises DataError if a class has nothing to learn from, nothing is held out, or an image is in
    both parts."""
    train = Counter(label for item in items if item.part == "train" for label in item.labels)
    valid = Counter(label for item in items if item.part == "valid" for label in item.labels)
    for label in labels:
        if not train[label]:
            raise DataError(
                f"class {label!r} has {valid[label]} held-out images and none to learn from; "
                "add some to train/"
            )
    if not valid:
        raise DataError("no held-out images; raise valid_fraction or add images")
    digests = {item.sha256 for item in items if item.part == "train"}
    for item in items:
        if item.part == "valid" and item.sha256 in digests:
            raise DataError(
                f"{item.path}: the same image is also among those to learn from, which would "
                "flatter the score; remove one of the two"
            )


def write_split(items: Sequence[Item], root: Path, path: Path) -> None:
    """`path` is a CSV of sha256, part, labels and file, which `read_split` understands."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sha256", "part", "labels", "file"])
        for item in items:
            name = os.path.relpath(item.path, root)
            writer.writerow([item.sha256, item.part, " ".join(item.labels), name])


def read_split(path: Path) -> dict[str, Part]:
    """The part of each image by SHA-256, as `write_split` wrote it."""
    with path.open(newline="", encoding="utf-8") as file:
        return {
            row["sha256"]: "valid" if row["part"] == "valid" else "train"
            for row in csv.DictReader(file)
        }
