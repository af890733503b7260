"""Which images are learnt from and which are held out.

What is drawn is the part of a unit: of an image's content, wherever its file lies, or of a whole
group. Equal images, and those of one group, always share their part.
"""

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from registry.errors import DataError
from training.items import Drawing, Item, Part, SplitRule


@dataclass(frozen=True)
class Unit:
    """What is never parted."""

    name: str  # a group's, or an image's SHA-256
    labels: tuple[str, ...]  # of its images, sorted


def split(items: Sequence[Item], rule: SplitRule, known: Mapping[str, Part]) -> list[Item]:
    """Every item in one part: the given one, the known one (by SHA-256), that of known images of
    its group, or a drawn one."""
    if all(item.part for item in items):
        return list(items)
    names = _unit_names(items)
    parts: dict[str, Part] = {}
    for item in items:
        if item.sha256 in known:  # a group that was parted before it was one learns
            parts[names[item.sha256]] = min(
                parts.get(names[item.sha256], "valid"), known[item.sha256]
            )
    labels: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if names[item.sha256] not in parts:
            labels[names[item.sha256]].update(item.labels)
    units = [Unit(name, tuple(sorted(found))) for name, found in labels.items()]
    _check_fold(rule)
    held_out = DRAWS[rule.kind](units, rule)
    for place, unit in enumerate(units):
        parts[unit.name] = "valid" if place in held_out else "train"
    return [replace(item, part=known.get(item.sha256, parts[names[item.sha256]])) for item in items]


def _unit_names(items: Sequence[Item]) -> dict[str, str]:
    """By SHA-256; an image that is in two groups counts as one of the first."""
    names: dict[str, str] = {}
    for item in sorted(items, key=lambda item: item.group):
        names.setdefault(item.sha256, f"group {item.group}" if item.group else item.sha256)
    return names


def _check_fold(rule: SplitRule) -> None:
    folds = int(1 / rule.valid_fraction + 1e-9)
    if rule.kind in ("cv", "blocks") and rule.fold >= folds:
        raise DataError(
            f"fold={rule.fold}: with valid_fraction={rule.valid_fraction} there are {folds} folds, "
            f"0 to {folds - 1}"
        )


# The four ways to draw: which places are held out


def hashed(units: Sequence[Unit], rule: SplitRule, *, every_label: bool = True) -> set[int]:
    """Each unit's own hash decides, whatever else there is: data that grows moves nothing.

    One exception keeps small classes usable. Where a class would have nothing held out, its
    unit with the lowest hash is; where it would have nothing to learn from, the one with the
    highest is learnt from. Such a unit may move when the class grows, unless a promoted version's
    split, which is kept, has it.

    Args:
        every_label: also one of a small class is held out.
    """
    hashes = [_hash(unit.name, rule.seed) for unit in units]
    held_out = {place for place, value in enumerate(hashes) if value < rule.valid_fraction}
    by_label: dict[str, list[int]] = defaultdict(list)
    for place, unit in enumerate(units):
        for label in unit.labels:
            by_label[label].append(place)
    for places in by_label.values():
        if every_label and len(places) > 1 and held_out.isdisjoint(places):
            held_out.add(min(places, key=hashes.__getitem__))
    for places in by_label.values():
        if held_out.issuperset(places):
            held_out.remove(max(places, key=hashes.__getitem__))
    return held_out


def _hash(name: str, seed: int) -> float:
    """Uniform in 0…1."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def stratified(units: Sequence[Unit], rule: SplitRule) -> set[int]:
    """The same share of every class, or combination of labels; a class of one unit learns from it,
    and combinations that come once are drawn together."""
    seen = Counter(unit.labels for unit in units)
    kinds = [
        unit.labels if seen[unit.labels] > 1 or len(unit.labels) == 1 else () for unit in units
    ]
    sizes = Counter(kinds)
    drawn = [place for place, kind in enumerate(kinds) if sizes[kind] > 1]
    strata = [kinds[place] for place in drawn]
    n_kinds = len(set(strata))  # scikit-learn wants room for one of each in both parts
    n_valid = min(max(round(len(drawn) * rule.valid_fraction), n_kinds), len(drawn) - n_kinds)
    if n_valid < 1:
        return set()
    _, held_out = train_test_split(
        drawn, test_size=n_valid, random_state=rule.seed, stratify=strata
    )
    return set(held_out)


def cross_validated(units: Sequence[Unit], rule: SplitRule) -> set[int]:
    """The 2018 library's draw, of units in the order of rows or of file names."""
    return set(get_cv_idxs(len(units), rule.fold, rule.valid_fraction, rule.seed).tolist())


def blocks(units: Sequence[Unit], rule: SplitRule) -> set[int]:
    """One run of neighbours in the order of rows or of file names, which often are of one batch,
    module or patient: the `fold`-th such run."""
    n_valid = int(rule.valid_fraction * len(units))
    return set(range(rule.fold * n_valid, min((rule.fold + 1) * n_valid, len(units))))


DRAWS: dict[Drawing, Callable[[Sequence[Unit], SplitRule], set[int]]] = {
    "hash": hashed,
    "stratified": stratified,
    "cv": cross_validated,
    "blocks": blocks,
}


def get_cv_idxs(
    n: int, cv_idx: int = 0, val_pct: float = 0.2, seed: int = 42
) -> npt.NDArray[np.int64]:
    """Held-out indices of `n` rows, bit for bit those of fastai 0.7's function of this name, but
    with a generator of its own: NumPy's global one is left alone.

    As there, the last `n % int(n·val_pct)` of the permutation are in no fold.
    """
    n_val = int(val_pct * n)
    permutation = np.random.RandomState(seed).permutation(n)
    return permutation[cv_idx * n_val : (cv_idx + 1) * n_val]


# Checks, and the split as a file


def check_parts(items: Sequence[Item], labels: tuple[str, ...]) -> None:
    """Raises DataError if a class has nothing to learn from, nothing is held out, or an image is in
    both parts."""
    train = Counter(label for item in items if item.part == "train" for label in item.labels)
    valid = Counter(label for item in items if item.part == "valid" for label in item.labels)
    for label in labels:
        if not train[label]:
            raise DataError(
                f"class {label!r} has {valid[label]} held-out images and none to learn from; "
                "add some to train/, or where parts are drawn, leave split=hash, which sees to it"
            )
    if not valid:
        n_different = len({item.unit for item in items})
        raise DataError(
            f"no held-out images among {n_different} different ones; raise valid_fraction or add "
            "images"
        )
    if sum(item.part == "train" for item in items) < 2:
        raise DataError("one image to learn from is too few; add another")
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
