"""Audits a data set before training. It only reports, and deletes nothing."""

from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path

from registry.errors import BadImage, DataError
from registry.images import ImageSpec, UInt8Array, prepare
from training.data.dataset import Dataset, assemble, list_items
from training.data.decoded import Decoded
from training.data.folders import empty_classes, passed_over
from training.data.inspecting import THREADS, identify
from training.data.items import Item
from training.data.labels import check_spaces
from training.data.near_duplicates import look_at
from training.data.parquet import packed_files
from training.data.problems import (
    Problem,
    empty,
    misnamed,
    odd_pictures,
    parted,
    repeated,
    torn,
    unbalanced,
    unusable,
)
from training.settings import Settings


@dataclass(frozen=True)
class Audit:
    """The findings about a data set."""

    root: Path
    items: tuple[Item, ...]  # that could be read
    looks: tuple[UInt8Array, ...]  # as `look_at` gives them
    unreadable: tuple[str, ...] = ()
    passed_over: tuple[Path, ...] = ()  # images in formats that are not supported
    refusal: str = ""  # why a training would be refused
    empty: tuple[Path, ...] = ()  # class folders without images
    held: object = field(default=None, compare=False, repr=False)  # as of a `Dataset`

    def name(self, row: int) -> str:
        path = self.items[row].path
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    @cached_property
    def counts(self) -> dict[str, Counter[str]]:
        """How many images of each class are in each part."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for item in self.items:
            for label in item.labels:
                counts[label][item.part or "not split"] += 1
        learnt = {label for label, parts in counts.items() if set(parts) != {"test"}}
        if learnt:  # a label that only test images have is not a class
            counts = {label: parts for label, parts in counts.items() if label in learnt}
        return dict(sorted(counts.items()))

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """The severe ones first."""
        found = [
            *unusable(self.refusal, self.unreadable, self.passed_over),
            *repeated(self.items, self.looks),
            *torn(self.items),
            *odd_pictures(self.items, self.looks),
            *parted(self.items),
            *misnamed(self.counts),
            *empty(self.empty),
            *unbalanced(self.counts),
        ]
        return tuple(sorted(found, key=lambda problem: not problem.severe))


def audit_source(
    source: Path,
    settings: Settings,
    *,
    cache: Path | None = None,
    begin: Callable[[int], None] = lambda n: None,
    advance: Callable[[int], None] = lambda n: None,
) -> Audit:
    """Audits everything at `source`, decoding each image.

    Args:
        begin: called once with the number of images.
        advance: called with the number of images read since the last call.

    Raises:
        DataError: there is nothing to audit.
    """
    root, listed, held = list_items(source, settings.layout(), cache=cache)
    begin(len(listed))
    items, looks, unreadable = [], [], []
    spec = settings.image_spec()  # as in a training, so that both find the same
    with ThreadPoolExecutor(THREADS) as pool:
        for item, seen in zip(listed, pool.map(_look, listed, repeat(spec)), strict=True):
            if isinstance(seen, str):
                unreadable.append(f"{item.path}: {seen}")
            else:
                items.append(seen[0])
                looks.append(seen[1])
            advance(1)
    refusal = ""
    try:
        check_spaces(listed, source, settings.task, settings.layout())
        dataset = assemble(
            root, source, items, unreadable, settings.task, settings.split_rule(), {}
        )
        # a table may list a file twice, with different labels, or in two parts
        parts = {(item.path, item.labels): item for item in dataset.items}
        tests = iter(dataset.tests)  # in their order among the items
        items = [
            next(tests) if item.part == "test" else parts[item.path, item.labels] for item in items
        ]
    except DataError as error:
        refusal = str(error)
    return Audit(
        root,
        tuple(items),
        tuple(looks),
        tuple(unreadable),
        passed_over(source),
        refusal,
        _empty(source),
        held,
    )


def _look(item: Item, spec: ImageSpec) -> tuple[Item, UInt8Array] | str:
    try:
        encoded = item.path.read_bytes()
        return identify(item, encoded), look_at(prepare(encoded, spec))
    except (OSError, BadImage) as error:
        return str(error)


def audit_decoded(source: Path, dataset: Dataset, decoded: Decoded, tests: Decoded | None) -> Audit:
    """The same for images that are already decoded.

    Args:
        tests: the test part's pixels, if there is one, to report what it shares with other parts.
    """
    pixels = chain(decoded.pixels, tests.pixels if tests else ())
    with ThreadPoolExecutor(THREADS) as pool:
        looks = tuple(pool.map(look_at, pixels))
    items = (*dataset.items, *dataset.tests)
    return Audit(
        dataset.root, items, looks, dataset.left_out, passed_over(source), empty=_empty(source)
    )


def _empty(source: Path) -> tuple[Path, ...]:
    """Class folders without images; none beside Parquet files, which hold the images."""
    return () if packed_files(source) else empty_classes(source)
