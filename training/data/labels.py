"""Derives the task and the classes from a data set's labels."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from registry.bundle import Task
from registry.errors import DataError
from training.data.folders import table_hint
from training.data.items import PLAIN, TABLES, Item, Layout

AskedTask = Literal["auto", "single", "multi"]

MANY_NUMBERS = 20  # more different fractions than this are not class names


def detect_task(items: Sequence[Item], source: Path) -> Task:
    """Multi-label if any image has several.

    Raises:
        DataError: the labels are a quantity rather than classes, or some images have one label and
            the others none, which may be labelled with none or not labelled yet.
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
    if any(len(item.labels) > 1 for item in items):
        return "multi"
    without = [item for item in items if not item.labels]
    if names and without:
        examples = ", ".join(str(item.path) for item in without[:3])
        raise DataError(
            f"{source}: {len(without)} of {len(items)} images "
            f"{'has' if len(without) == 1 else 'have'} no label, such as {examples}, "
            "and none has several; label or remove them, or give --set task=multi if an image may "
            "have none of the labels"
        )
    return "single"


def check_spaces(items: Sequence[Item], source: Path, task: AskedTask, layout: Layout) -> None:
    """Checks that the labels of a table are not parts of names with spaces, as in `great tit`.

    They look like that if some occur only together, or if there are fewer distinct rows of labels
    than labels, as with `great tit` and `blue tit`. A multi-label table may look like that too, so
    naming the task settles it.

    Raises:
        DataError: they look like that, and the task is not given.
    """
    if task != "auto" or source.suffix.lower() not in TABLES:
        return
    if layout.separator != PLAIN.separator or layout.label_columns:
        return
    learnt = [item for item in items if item.part != "test"]
    several = sorted({item.labels for item in learnt if len(item.labels) > 1})
    distinct = {item.labels for item in learnt if item.labels}
    if together := _always_together(learnt):
        reason = f"the labels {together} only ever occur together"
    elif several and len(distinct) < len({label for labels in distinct for label in labels}):
        reason = f"the labels {_quoted(several[0])} of one row may be a single name"
    else:
        return
    raise DataError(
        f"{source}: {reason}; give --set task=single if a name has a space in it, or "
        "--set task=multi if they are separate labels"
    )


def _always_together(items: Sequence[Item]) -> str:
    """The first labels that no image has one of without the others; empty if there are none."""
    images: dict[str, list[int]] = defaultdict(list)
    for row, item in enumerate(items):
        for label in dict.fromkeys(item.labels):
            images[label].append(row)
    alike: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for label, rows in images.items():
        alike[tuple(rows)].append(label)
    return next((_quoted(labels) for labels in alike.values() if len(labels) > 1), "")


def _quoted(labels: Sequence[str]) -> str:
    return " and ".join(map(repr, labels))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check_labels(items: Sequence[Item], task: Task, source: Path) -> tuple[str, ...]:
    """The classes, sorted.

    Raises:
        DataError: there are fewer than two, or an image has several in a single-label task.
    """
    labels = tuple(sorted({label for item in items for label in item.labels}))
    if len(labels) < 2:
        found = f"only {labels[0]!r}" if labels else "none"
        inner = source / labels[0] if labels else source
        if labels and inner.is_dir() and any(path.is_dir() for path in inner.iterdir()):
            found += f"; if its folders are the classes, give {inner}"
        found += table_hint(source)
        raise DataError(f"{source}: a classifier needs at least two classes; found {found}")
    if task == "single":
        for item in items:
            if len(item.labels) != 1:
                raise DataError(f"{item.path}: {len(item.labels)} labels in a single-label task")
    return labels


def in_known_order(labels: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The labels in the order of `known`; those that it lacks come after them, as they were."""
    places = {label: place for place, label in enumerate(known)}
    return tuple(sorted(labels, key=lambda label: places.get(label, len(known))))


def label_tests(tests: Iterable[Item], labels: tuple[str, ...]) -> list[Item]:
    """The test images; without their labels if none of these is a class."""
    given = list(tests)
    known = any(label in labels for item in given for label in item.labels)
    return given if known else [replace(item, labels=()) for item in given]
