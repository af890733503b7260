"""A data set: which files, which labels, and which part each belongs to.

Three layouts are understood:

    PATH/train/<class>/…, PATH/valid/<class>/…     the parts are given
    PATH/<class>/…                                 the parts are drawn
    PATH.csv with the columns file,label           the parts are drawn, or given by a column `part`

In a CSV, several labels in one row are separated by spaces and make the task multi-label.
"""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from registry.bundle import Task
from registry.errors import BadImage, DataError
from registry.images import Float32Array, image_info

Rows = npt.NDArray[np.int64]
Part = Literal["train", "valid"]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
THREADS = 4  # reading is mostly waiting, and Pillow releases the interpreter's lock


@dataclass(frozen=True)
class Item:
    """One labelled image; several labels only in a multi-label task."""

    path: Path
    labels: tuple[str, ...]
    part: Part | None
    sha256: str = ""


@dataclass(frozen=True)
class Dataset:
    """Audited, labelled images, each in one part; order and labels are sorted and final."""

    root: Path
    items: tuple[Item, ...]
    labels: tuple[str, ...]
    task: Task
    left_out: tuple[str, ...] = ()  # unreadable files, with the reason

    @cached_property
    def targets(self) -> Float32Array:
        """[n,classes], one where the item has the label."""
        place = {label: index for index, label in enumerate(self.labels)}
        targets = np.zeros((len(self.items), len(self.labels)), dtype=np.float32)
        for row, item in enumerate(self.items):
            for label in item.labels:
                targets[row, place[label]] = 1
        return targets

    def rows(self, part: Part) -> Rows:
        """Row numbers of a part, ascending."""
        return np.array([row for row, item in enumerate(self.items) if item.part == part])

    def summary(self) -> str:
        """One line for people: how many images of each class are in each part."""
        counts = Counter((label, item.part) for item in self.items for label in item.labels)
        shown = [f"{name} {counts[name, 'train']}+{counts[name, 'valid']}" for name in self.labels]
        more = f", and {len(shown) - 10} more" if len(shown) > 10 else ""
        left_out = f"; {len(self.left_out)} unreadable files left out" if self.left_out else ""
        unheld = [name for name in self.labels if not counts[name, "valid"]]
        if unheld:
            left_out += (
                f"; {unheld[0]!r} has no held-out images, so how well it is told is not known"
            )
        return (
            f"{len(self.rows('train'))} images to learn from + {len(self.rows('valid'))} held out, "
            f"{self.task}-label: {', '.join(shown[:10])}{more}{left_out}"
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every image's content, labels and part, in order."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.sha256} {item.part} {item.labels}\n".encode())
        return digest.hexdigest()


def read_dataset(
    source: Path,
    *,
    task: Literal["auto", "single", "multi"] = "auto",
    valid_fraction: float = 0.2,
    seed: int = 42,
    max_unreadable: int = 0,
    within: Sequence[Path] = (),
    known_parts: Mapping[str, Part] | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Dataset:
    """The data set at `source`, audited and split.

    Args:
        within: folders that every file must lie in, links followed; none: anywhere.
        known_parts: the part of images by SHA-256, from an earlier split: they keep it, so that
            nothing a promoted version learnt from becomes held-out, or the other way round.
        advance: told how many files have been read since its last call.

    Raises:
        DataError: nothing to train on; says which file or class, and what to do.
    """
    items = _list_csv(source) if source.suffix.lower() == ".csv" else _list_folder(source)
    root = source.parent if source.suffix.lower() == ".csv" else source
    if within:
        _check_within(items, [folder.resolve() for folder in within])
    items, left_out = _audit(items, advance)
    if len(left_out) > max_unreadable:
        raise DataError(
            f"{len(left_out)} of {len(items) + len(left_out)} files cannot be read: "
            f"{'; '.join(left_out[:5])}. Repair or remove them, or allow it with "
            f"max_unreadable={len(left_out)}"
        )
    kind: Task = _detect(items) if task == "auto" else task
    labels = _check_labels(items, kind, source)
    items = _split(items, kind, valid_fraction, seed, known_parts or {})
    _check_parts(items, labels)
    return Dataset(root, tuple(items), labels, kind, tuple(left_out))


def write_split(dataset: Dataset, path: Path) -> None:
    """`path` is a CSV of sha256, part, labels and file, which `read_split` understands."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sha256", "part", "labels", "file"])
        for item in dataset.items:
            name = os.path.relpath(item.path, dataset.root)
            writer.writerow([item.sha256, item.part, " ".join(item.labels), name])


def read_split(path: Path) -> dict[str, Part]:
    """The part of each image by SHA-256, as `write_split` wrote it."""
    with path.open(newline="", encoding="utf-8") as file:
        return {
            row["sha256"]: "valid" if row["part"] == "valid" else "train"
            for row in csv.DictReader(file)
        }


# Listing


def _list_folder(root: Path) -> list[Item]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give a folder of class folders, or a CSV file")
    if (root / "train").is_dir():
        if not (root / "valid").is_dir():
            raise DataError(f"{root}: there is train/ but no valid/; add it, or use class folders")
        return _list_classes(root / "train", "train") + _list_classes(root / "valid", "valid")
    return _list_classes(root, None)


def _list_classes(root: Path, part: Part | None) -> list[Item]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    items = [
        Item(path, (folder.name,), part)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not items:
        raise DataError(
            f"{root}: no images; put JPEG, PNG or WebP files into one folder for each class"
        )
    return items


def _list_csv(path: Path) -> list[Item]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"file", "label"} <= set(reader.fieldnames or []):
                raise DataError(f"{path}: the first line must name the columns file,label")
            items = [_row(path, number, row) for number, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not items:
        raise DataError(f"{path}: no rows")
    given = sum(item.part is not None for item in items)
    if given not in (0, len(items)):
        raise DataError(f"{path}: the column part is empty in {len(items) - given} rows; fill it")
    return sorted(items, key=lambda item: item.path)


def _row(path: Path, number: int, row: dict[str, str]) -> Item:
    file = path.parent / (row["file"] or "")
    if not file.is_file():
        raise DataError(f"{path}, line {number}: no such file: {row['file']}")
    parts: dict[str, Part | None] = {"train": "train", "valid": "valid", "": None}
    given = (row.get("part") or "").strip()
    if given not in parts:
        raise DataError(f"{path}, line {number}: part is {given!r}; it can be train or valid")
    return Item(file, tuple((row["label"] or "").split()), parts[given])


def _check_within(items: Sequence[Item], folders: Sequence[Path]) -> None:
    for item in items:
        path = item.path.resolve()
        if not any(path.is_relative_to(folder) for folder in folders):
            raise DataError(f"{item.path}: lies outside the folders that may be trained on")


# Audit


def _audit(items: Sequence[Item], advance: Callable[[int], None]) -> tuple[list[Item], list[str]]:
    """Items with their digest, and a line for each file that is not an image."""
    good, bad = [], []
    with ThreadPoolExecutor(THREADS) as pool:
        for item, (digest, problem) in zip(items, pool.map(_inspect, items), strict=True):
            if problem:
                bad.append(f"{item.path}: {problem}")
            else:
                good.append(Item(item.path, item.labels, item.part, digest))
            advance(1)
    return good, bad


def _inspect(item: Item) -> tuple[str, str]:
    try:
        encoded = item.path.read_bytes()
        image_info(encoded)
    except (OSError, BadImage) as error:
        return "", str(error)
    return hashlib.sha256(encoded).hexdigest(), ""


def _detect(items: Iterable[Item]) -> Task:
    return "multi" if any(len(item.labels) != 1 for item in items) else "single"


def _check_labels(items: Sequence[Item], task: Task, source: Path) -> tuple[str, ...]:
    labels = tuple(sorted({label for item in items for label in item.labels}))
    if len(labels) < 2:
        found = f"only {labels[0]!r}" if labels else "none"
        raise DataError(f"{source}: a classifier needs at least two classes; found {found}")
    if task == "single":
        for item in items:
            if len(item.labels) != 1:
                raise DataError(f"{item.path}: {len(item.labels)} labels in a single-label task")
    return labels


def _check_parts(items: Sequence[Item], labels: tuple[str, ...]) -> None:
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


# Split


def _split(
    items: list[Item], task: Task, valid_fraction: float, seed: int, known: Mapping[str, Part]
) -> list[Item]:
    """Every item in one part; equal images always share theirs."""
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
