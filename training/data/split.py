"""Splits images into training and held-out ones.

Parts are drawn for units: an image's content, wherever its file is, or a whole group. So duplicates
and the images of a group are always in the same part.
"""

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from registry.counted import counted
from registry.errors import DataError
from training.data.draws import DRAWS, Unit, hashed
from training.data.items import Item, Part, SplitRule

OF_A_GROUP = "group "  # how the unit of a group begins, so that it is none of an image's content


def split(items: Sequence[Item], rule: SplitRule, known: Mapping[str, Part]) -> list[Item]:
    """Every item in one part: the given one, the known one (by SHA-256), that of known images of
    its group, or a drawn one.

    Raises:
        DataError: a group is in both of the given parts, or there is no such fold.
    """
    if all(item.part for item in items):
        if torn := torn_groups(items):
            others = f" and {counted(len(torn) - 1, 'other')}" if len(torn) > 1 else ""
            raise DataError(
                f"{counted(len(torn), 'group')} in both train and valid: {torn[0]!r}{others}; "
                "correct the parts, leave them out so that they are drawn, or leave group out"
            )
        return list(items)
    names = unit_names(items)
    parts: dict[str, Part] = {}
    for item in items:
        if item.sha256 in known:
            name = names[item.sha256]
            # new images of a group that was split before are for training
            parts[name] = "train" if parts.get(name) == "train" else known[item.sha256]
    labels: dict[str, set[str]] = defaultdict(set)
    kept: dict[Part, set[str]] = {"train": set(), "valid": set()}  # labels of what keeps its part
    for item in items:
        name = names[item.sha256]
        if name in parts:
            kept[known.get(item.sha256, parts[name])].update(item.labels)
        else:
            labels[name].update(item.labels)
    units = [Unit(name, tuple(sorted(found))) for name, found in labels.items()]
    _check_fold(rule)
    if rule.kind == "hash":
        held_out = hashed(units, rule, kept["train"], kept["valid"])
    else:
        held_out = DRAWS[rule.kind](units, rule)
    for place, unit in enumerate(units):
        parts[unit.name] = "valid" if place in held_out else "train"
    return [replace(item, part=known.get(item.sha256, parts[names[item.sha256]])) for item in items]


def count_kept(
    items: Sequence[Item], rule: SplitRule, known: Mapping[str, Part]
) -> tuple[int, int]:
    """How many of `items` keep a known part, and how many of those a new split would put into the
    other one. Parts that are given are neither kept nor drawn."""
    if not known or all(item.part for item in items):
        return 0, 0
    kept = [item for item in split(items, rule, {}) if item.sha256 in known]
    return len(kept), sum(item.part != known[item.sha256] for item in kept)


def unit_names(items: Sequence[Item]) -> dict[str, str]:
    """The unit that each image belongs to, by SHA-256: its group, or else its copies; an image in
    two groups belongs to the first."""
    grouped = sorted((item for item in items if item.group), key=lambda item: item.group)
    names = {item.sha256: item.sha256 for item in items}
    return names | {item.sha256: OF_A_GROUP + item.group for item in reversed(grouped)}


def torn_groups(items: Sequence[Item]) -> list[str]:
    """The groups that have images in more than one part."""
    names = unit_names(items)
    parts: dict[str, set[Part]] = defaultdict(set)
    for item in items:
        if item.group and item.part:
            parts[names[item.sha256].removeprefix(OF_A_GROUP)].add(item.part)
    return sorted(group for group, found in parts.items() if len(found) > 1)


def _check_fold(rule: SplitRule) -> None:
    folds = int(1 / rule.valid_fraction + 1e-9)
    if rule.kind in ("cv", "blocks") and rule.fold >= folds:
        raise DataError(
            f"fold={rule.fold}: with valid_fraction={rule.valid_fraction} the folds are "
            f"0 to {folds - 1}"
        )


# Checks, and the split as a file


def check_parts(items: Sequence[Item], labels: tuple[str, ...]) -> None:
    """Raises DataError if a class has no training images, nothing is held out, or an image is in
    both parts."""
    train = Counter(label for item in items if item.part == "train" for label in item.labels)
    valid = Counter(label for item in items if item.part == "valid" for label in item.labels)
    for label in labels:
        if not train[label]:
            raise DataError(
                f"class {label!r} has {valid[label]} held-out images and no training images; "
                "add some to train/, or if the split is drawn, use split=hash, which avoids this"
            )
    if not valid:
        names = unit_names(items)
        different = {names[item.sha256]: item.labels for item in items}
        alone = max(Counter(different.values()).values()) == 1
        what = "add images" if alone else "raise valid_fraction or add images"
        raise DataError(f"no held-out images among {len(different)} different ones; {what}")
    if sum(item.part == "train" for item in items) < 2:
        raise DataError("one training image is too few; add another")
    digests = {item.sha256 for item in items if item.part == "train"}
    for item in items:
        if item.part == "valid" and item.sha256 in digests:
            raise DataError(
                f"{item.path}: the same image is also among the training images, which would "
                "inflate the score; remove one of the two"
            )


def write_split(items: Sequence[Item], root: Path, path: Path) -> None:
    """Writes a CSV of sha256, part, labels and file, for `read_split`."""
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
