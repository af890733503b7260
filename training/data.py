"""A data set: audited images, their labels, and the part that each belongs to."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from registry.bundle import Task
from registry.errors import BadImage, DataError
from registry.images import Float32Array, image_info
from training.items import Item, Part, check_within, list_items
from training.split import check_parts, split

Rows = npt.NDArray[np.int64]
THREADS = 4  # reading is mostly waiting, and Pillow releases the interpreter's lock


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
    items = list_items(source)
    root = source.parent if source.suffix.lower() == ".csv" else source
    if within:
        check_within(items, within)
    items, left_out = _audit(items, advance)
    if len(left_out) > max_unreadable:
        raise DataError(
            f"{len(left_out)} of {len(items) + len(left_out)} files cannot be read: "
            f"{'; '.join(left_out[:5])}. Repair or remove them, or allow it with "
            f"max_unreadable={len(left_out)}"
        )
    kind: Task = _detect(items) if task == "auto" else task
    labels = _check_labels(items, kind, source)
    items = split(items, kind, valid_fraction, seed, known_parts or {})
    check_parts(items, labels)
    return Dataset(root, tuple(items), labels, kind, tuple(left_out))


# Audit


def _audit(items: Sequence[Item], advance: Callable[[int], None]) -> tuple[list[Item], list[str]]:
    """Items with their digest, and a line for each file that is not an image."""
    good, bad = [], []
    with ThreadPoolExecutor(THREADS) as pool:
        for item, (digest, problem) in zip(items, pool.map(_inspect, items), strict=True):
            if problem:
                bad.append(f"{item.path}: {problem}")
            else:
                good.append(replace(item, sha256=digest))
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
