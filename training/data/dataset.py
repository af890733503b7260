"""A data set: audited images, their labels, and the part that each belongs to."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from registry.bundle import Task
from registry.counted import counted
from registry.errors import DataError
from registry.images import Float32Array
from training.data.folders import list_folder
from training.data.grouping import group_by_path
from training.data.inspecting import find_damaged, inspect
from training.data.items import (
    BY_HASH,
    PLAIN,
    SEPARATOR,
    TABLES,
    Item,
    Layout,
    Part,
    SplitRule,
)
from training.data.labels import AskedTask, check_labels, check_spaces, detect_task, label_tests
from training.data.parquet import named_parts, packed_files, unpack
from training.data.paths import check_text, check_there, check_within
from training.data.split import check_parts, count_kept, split, unit_names
from training.data.table import columns_note, list_table

NO_PART = (
    "the names of the packed files tell no train, valid and test apart, so held-out images are "
    "drawn from all"
)
ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz"}
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Audited, labelled images, each in one part; images are sorted. Test images keep the order in
    which a table names them."""

    root: Path
    items: tuple[Item, ...]
    labels: tuple[str, ...]  # in the order of the outputs: sorted, or as the promoted version's
    task: Task
    left_out: tuple[str, ...] = ()  # unreadable files, with the reason
    tests: tuple[Item, ...] = ()  # predicted once, at the end; only audited before
    n_kept: int = 0  # items in the part that an earlier split gave them
    n_elsewhere: int = 0  # of those, how many a new split would put into the other part
    note: str = ""  # on the columns of a table, or the parts of packed files
    # keeps the images of packed files from being evicted, while it lives
    held: object = field(default=None, compare=False, repr=False)

    @cached_property
    def targets(self) -> Float32Array:
        """[n,classes], one where the item has the label."""
        place = {label: index for index, label in enumerate(self.labels)}
        targets = np.zeros((len(self.items), len(self.labels)), dtype=np.float32)
        for row, item in enumerate(self.items):
            for label in item.labels:
                targets[row, place[label]] = 1
        return targets

    @cached_property
    def weights(self) -> Float32Array:
        """[n], each item's weight in the training loss."""
        return np.array([item.weight for item in self.items], dtype=np.float32)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """What is split as a whole, by item: its group, or else all copies of the image."""
        names = unit_names(self.items)
        return tuple(names[item.sha256] for item in self.items)

    def name(self, item: Item) -> str:
        """The path of an image relative to the data set's folder."""
        return os.path.relpath(item.path, self.root)

    def rows(self, part: Part) -> Rows:
        """Row numbers of a part, ascending."""
        return np.array([row for row, item in enumerate(self.items) if item.part == part])

    @cached_property
    def scored_tests(self) -> Rows:
        """Row numbers of the test images whose labels are known. In a multi-label task an image
        without labels counts as labelled with none, as in the other parts, unless no test image has
        any."""
        if not any(item.labels for item in self.tests):
            return np.zeros(0, np.int64)
        known = [
            (self.task == "multi" or len(item.labels) == 1) and set(item.labels) <= set(self.labels)
            for item in self.tests
        ]
        return np.flatnonzero(known)

    @cached_property
    def unscored_tests(self) -> str:
        """How many test images have no usable labels, and an example, for people."""
        scored = set(self.scored_tests)
        others = [item for row, item in enumerate(self.tests) if row not in scored]
        if not others or len(others) == len(self.tests):
            return "none of them labelled with one of these classes" if others else ""
        one = max(others, key=lambda item: bool(item.labels))
        labels = f"{' '.join(one.labels)!r} is not a class" if one.labels else "it has no label"
        return f"{len(others)} of them not scored, such as {one.path}: {labels}"

    def summary(self) -> str:
        """One line for people: how many images of each class are in each part."""
        counts = Counter((label, item.part) for item in self.items for label in item.labels)
        shown = [f"{name} {counts[name, 'train']}+{counts[name, 'valid']}" for name in self.labels]
        more = f", and {len(shown) - 10} more" if len(shown) > 10 else ""
        left_out = (
            f"; {counted(len(self.left_out), 'unreadable file')} left out" if self.left_out else ""
        )
        left_out += f"; {counted(len(self.tests), 'test image')} for the end" if self.tests else ""
        left_out += f", {self.unscored_tests}" if self.unscored_tests else ""
        left_out += f"; {self.note}" if self.note else ""
        unheld = [name for name in self.labels if not counts[name, "valid"]]
        if unheld:
            n = len(unheld) - 1
            others = f" and {n} {'other' if n == 1 else 'others'} have" if n else " has"
            left_out += f"; {unheld[0]!r}{others} no held-out images, so the scores ignore them"
        return (
            f"{counted(len(self.rows('train')), 'training image')} + {len(self.rows('valid'))} "
            f"held out, {self.task}-label: {', '.join(shown[:10])}{more}{left_out}"
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every image's content, labels, part and weight, in order."""
        digest = hashlib.sha256()
        for item in self.items:
            weight = f" {item.weight}" if item.weight != 1 else ""
            digest.update(f"{item.sha256} {item.part} {item.labels}{weight}\n".encode())
        return digest.hexdigest()


def read_dataset(
    source: Path,
    *,
    task: AskedTask = "auto",
    layout: Layout = PLAIN,
    rule: SplitRule = BY_HASH,
    max_unreadable: int = 0,
    within: Sequence[Path] = (),
    known_parts: Mapping[str, Part] | None = None,
    cache: Path | None = None,
    damaged: Mapping[Path, str] = MappingProxyType({}),
    advance: Callable[[int], None] = lambda n: None,
    note: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """The data set at `source`, audited and split.

    Args:
        within: folders that every file must lie in, links followed; none: anywhere.
        known_parts: the part of images by SHA-256, from an earlier split: they keep it, so that
            nothing a promoted version was trained on becomes held out, or the other way round.
        cache: where a Parquet file's images are unpacked; none: beside it.
        damaged: files known to be damaged behind their header, with the reasons.
        advance: called with the number of files read since the last call.
        note: called with what was evicted from the cache.

    Raises:
        DataError: nothing to train on; says which file or class, and what to do.
    """
    root, listed, held = list_items(source, layout, cache=cache, within=within, note=note)
    check_spaces(listed, source, task, layout)
    audited, left_out = inspect(listed, advance, damaged)
    if len(left_out) > max_unreadable:
        left_out += find_damaged(audited)  # so that this tells of all at once
        more = f"; and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        raise DataError(
            f"{len(left_out)} of {counted(len(listed), 'file')} cannot be read: "
            f"{'; '.join(left_out[:5])}{more}. Repair or remove them, or allow it with "
            f"--set max_unreadable={len(left_out)}"
        )
    dataset = assemble(root, source, audited, left_out, task, rule, known_parts or {})
    if source.suffix.lower() in TABLES:
        return replace(dataset, note=columns_note(source, layout))
    return replace(dataset, held=held)


def assemble(
    root: Path,
    source: Path,
    audited: Sequence[Item],
    left_out: Sequence[str],
    task: AskedTask,
    rule: SplitRule,
    known_parts: Mapping[str, Part],
) -> Dataset:
    """The data set of the images that were read, split.

    Raises:
        DataError: it cannot be trained on.
    """
    items = [item for item in audited if item.part != "test"]
    kind, labels = _task_and_labels(items, task, source)
    if kind == "multi" and any(item.weight != 1 for item in items):
        raise DataError(
            f"{source}: weights need exactly one label per image; leave the column weight empty"
        )
    kept = count_kept(items, rule, known_parts)
    items = sorted(split(items, rule, known_parts), key=lambda item: item.path)
    check_parts(items, labels)
    tests = label_tests((item for item in audited if item.part == "test"), labels)
    packed = packed_files(source)
    apart = any(item.part for item in audited) or any(named_parts(packed))
    note = NO_PART if len(packed) > 1 and not apart else ""
    return Dataset(root, tuple(items), labels, kind, tuple(left_out), tuple(tests), *kept, note)


def check_listed(source: Path, layout: Layout, task: AskedTask) -> None:
    """Checks what can be checked of `source` without reading its images. Of Parquet files that is
    nothing, as they have to be unpacked first.

    Raises:
        DataError: there are no images, or fewer than two classes, or the task is unclear.
    """
    check_there(source)
    if not packed_files(source):
        _, listed, _ = list_items(source, layout)
        check_spaces(listed, source, task, layout)
        _task_and_labels([item for item in listed if item.part != "test"], task, source)


def _task_and_labels(
    items: Sequence[Item], task: AskedTask, source: Path
) -> tuple[Task, tuple[str, ...]]:
    kind: Task = detect_task(items, source) if task == "auto" else task
    return kind, check_labels(items, kind, source)


def list_items(
    source: Path,
    layout: Layout = PLAIN,
    *,
    cache: Path | None = None,
    within: Sequence[Path] = (),
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Path, list[Item], object]:
    """The folder that the images' names are relative to, every image of `source`, and what keeps
    those of packed files from being evicted while it lives."""
    if layout.label_columns and source.suffix.lower() not in TABLES:
        raise DataError(
            f"{source}: label_columns is for the columns of a CSV or TSV; leave it out, or give one"
        )
    if packed := packed_files(source):
        beside = source if source.is_dir() else source.parent
        test = str(beside.absolute() / layout.test) if layout.test else ""
        if within:
            check_within([*packed, beside / test], within)
        table, held = unpack(packed, cache or packed[0].parent, note)
        unpacked = Layout(separator=SEPARATOR, group=layout.group, test=test)
        return table.parent, list_table(table, unpacked), held
    if source.suffix.lower() in TABLES:
        root, items = source.parent, list_table(source, layout, within)
    elif source.is_file():
        is_archive = source.suffix.lower() in ARCHIVES
        first = "; an archive has to be unpacked first: unfreeze data fetch FILE --into FOLDER"
        raise DataError(
            f"{source}: not a table; give a folder of class folders, a CSV or TSV of file,label, "
            f"or Parquet files{first * is_archive}"
        )
    else:
        if within:
            check_within([source / layout.test], within)
        root, items = source, list_folder(source, layout)
        items = group_by_path(items, root, layout.group) if layout.group else items
    check_text([item.path for item in items])
    if within:
        check_within([item.path for item in items], within)
    return root, items, None
