"""Derives the task and the classes from a data set's labels."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from registry.bundle import Task
from registry.errors import DataError
from training.data.items import Item

MANY_NUMBERS = 20  # more different fractions than this are not class names


def detect_task(items: Sequence[Item], source: Path) -> Task:
    """Multi-label if any image has not exactly one.

    Raises:
        DataError: the labels are a quantity rather than classes.
    """
    names = {label for item in items for label in item.labels}
    if len(names) > MANY_NUMBERS and all(map(_is_number, names)):
        fractions = sorted(name for name in names if "." in name)
        if len(fractions) > MANY_NUMBERS:
            raise DataError(
                f"{source}: the labels are {len(names)} different numbers, such as {fractions[0]}, "
                "and a classifier needs classes; write ranges instead, or set task=single if each "
                "number is a class"
            )
    return "multi" if any(len(item.labels) != 1 for item in items) else "single"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check_labels(items: Sequence[Item], task: Task, source: Path) -> tuple[str, ...]:
    """The classes, sorted, as in the bundle.

    Raises:
        DataError: there are fewer than two, or an image has several in a single-label task.
    """
    labels = tuple(sorted({label for item in items for label in item.labels}))
    if len(labels) < 2:
        found = f"only {labels[0]!r}" if labels else "none"
        inner = source / labels[0] if labels else source
        if labels and inner.is_dir() and any(path.is_dir() for path in inner.iterdir()):
            found += f"; if its folders are the classes, give {inner}"
        raise DataError(f"{source}: a classifier needs at least two classes; found {found}")
    if task == "single":
        for item in items:
            if len(item.labels) != 1:
                raise DataError(f"{item.path}: {len(item.labels)} labels in a single-label task")
    return labels


def label_tests(tests: Iterable[Item], labels: tuple[str, ...]) -> list[Item]:
    """The test images; without their labels if none of these is a class."""
    given = list(tests)
    known = any(label in labels for item in given for label in item.labels)
    return given if known else [replace(item, labels=()) for item in given]
