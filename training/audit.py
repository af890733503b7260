"""What is wrong with a data set, found before training. It tells, and deletes nothing."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from registry.errors import BadImage, DataError
from registry.images import UInt8Array, prepare
from training.alike import SPEC, alike, is_blank, look_at
from training.data import Dataset, assemble, list_items
from training.decoded import Decoded
from training.inspecting import THREADS, identify
from training.items import Item, passed_over
from training.settings import Settings

TINY = 32  # pixels of the shorter side: little for a network to see
HUGE = 40_000_000  # pixels: slow to decode, and rarely worth it
DIM = 16  # levels of 256: as bright as what 12 bits, stored in 16, can come to
FEW = 5  # images of a class, below which neither learning nor scoring it can be trusted
UNEVEN = 10  # times as many images in the largest class as in the smallest


@dataclass(frozen=True)
class Problem:
    """One kind of fault, with what has it."""

    kind: str
    text: str  # one sentence
    severe: bool  # spoils the training or its score; others are worth knowing
    rows: tuple[
        tuple[int, ...], ...
    ] = ()  # of the audit's items; several where they belong together
    files: tuple[str, ...] = ()  # of those that are no items, with the reason


@dataclass(frozen=True)
class Audit:
    """Everything there is to tell of a data set."""

    root: Path
    items: tuple[Item, ...]  # that could be read
    looks: tuple[UInt8Array, ...]  # as `look_at` gives them
    unreadable: tuple[str, ...] = ()
    passed_over: tuple[Path, ...] = ()  # pictures in formats that are not read
    refusal: str = ""  # why a training would not begin

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
        return dict(sorted(counts.items()))

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """The severe ones first."""
        found = [*self._unusable(), *self._repeated(), *self._pictures(), *self._balance()]
        return tuple(sorted(found, key=lambda problem: not problem.severe))

    def _unusable(self) -> list[Problem]:
        found = []
        if self.refusal:
            found.append(Problem("refused", f"a training would not begin: {self.refusal}", True))
        if self.unreadable:
            text = f"files that cannot be read: {len(self.unreadable)}"
            found.append(Problem("unreadable", text, True, files=self.unreadable))
        if self.passed_over:
            text = (
                f"pictures that are no JPEG, PNG or WebP, and passed over: {len(self.passed_over)}"
            )
            found.append(
                Problem("passed over", text, True, files=tuple(map(str, self.passed_over)))
            )
        return found

    def _repeated(self) -> list[Problem]:
        """Equal images and those that look alike; each pair is told once, at its worst."""
        by_content: dict[str, list[int]] = defaultdict(list)
        for row, item in enumerate(self.items):
            by_content[item.sha256].append(row)
        equal = [tuple(rows) for rows in by_content.values() if len(rows) > 1]
        near = [
            pair
            for pair in alike(self.looks)
            if self.items[pair[0]].sha256 != self.items[pair[1]].sha256
        ]
        found = []
        for how, groups in (("equal", equal), ("alike", near)):
            kinds: dict[str, list[tuple[int, ...]]] = defaultdict(list)
            for rows in groups:
                kinds[self._relation(rows)].append(rows)
            for relation, members in sorted(kinds.items()):
                text = REPEATED[relation].format(n=len(members), how=HOW[how])
                severe = relation != "repeat"
                found.append(Problem(f"{how} {relation}", text, severe, tuple(members)))
        return found

    def _relation(self, rows: Sequence[int]) -> str:
        labels = {self.items[row].labels for row in rows if self.items[row].labels}
        if len(labels) > 1:
            return "conflict"
        parts = {self.items[row].part for row in rows}
        return "leak" if len(parts) > 1 else "repeat"

    def _pictures(self) -> list[Problem]:
        shown = {
            "tiny": [row for row, item in enumerate(self.items) if _shorter(item) < TINY],
            "huge": [row for row, item in enumerate(self.items) if _pixels(item) > HUGE],
            "blank": [row for row, look in enumerate(self.looks) if is_blank(look)],
            "dim": [row for row, item in enumerate(self.items) if self._is_dim(row, item)],
        }
        return [
            Problem(kind, PICTURES[kind].format(n=len(rows)), False, tuple((row,) for row in rows))
            for kind, rows in shown.items()
            if rows
        ]

    def _is_dim(self, row: int, item: Item) -> bool:
        deep = item.facts is not None and item.facts.mode.startswith("I")
        return deep and int(self.looks[row].max()) < DIM and not is_blank(self.looks[row])

    def _balance(self) -> list[Problem]:
        totals = {label: counts.total() for label, counts in self.counts.items()}
        few = [label for label, total in totals.items() if total < FEW]
        found = []
        if few:
            text = f"classes of fewer than {FEW} images: {', '.join(few[:8])}"
            text += f" and {len(few) - 8} more" if len(few) > 8 else ""
            found.append(Problem("few", text, False))
        if totals and max(totals.values()) > UNEVEN * min(totals.values()):
            large, small = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
            text = (
                f"{large!r} has {totals[large]} images and {small!r} {totals[small]}; consider "
                "balance=weights or balance=sampling"
            )
            found.append(Problem("uneven", text, False))
        return found


HOW = {"equal": "the same image", "alike": "images that look alike"}
REPEATED = {
    "conflict": "{how} with different labels: {n}",
    "leak": "{how} in more than one part, which flatters the score: {n}",
    "repeat": "{how} more than once in the same class and part: {n}",
}
PICTURES = {
    "tiny": f"less than {TINY} pixels wide or high: {{n}}",
    "huge": f"more than {HUGE // 1_000_000} million pixels, slow to decode: {{n}}",
    "blank": "of one colour: {n}",
    "dim": "16-bit pictures that use the lower 12 bits or fewer, so they are nearly black; scale "
    "them to 16 bits: {n}",
}


def audit_source(
    source: Path,
    settings: Settings,
    *,
    cache: Path | None = None,
    begin: Callable[[int], None] = lambda n: None,
    advance: Callable[[int], None] = lambda n: None,
) -> Audit:
    """The audit of everything at `source`, each image decoded.

    Args:
        begin, advance: told how many images there are, and how many have been read since.

    Raises:
        DataError: there is nothing to audit.
    """
    root, listed = list_items(source, settings.layout(), cache=cache)
    begin(len(listed))
    items, looks, unreadable = [], [], []
    with ThreadPoolExecutor(THREADS) as pool:
        for item, seen in zip(listed, pool.map(_look, listed), strict=True):
            if isinstance(seen, str):
                unreadable.append(f"{item.path}: {seen}")
            else:
                items.append(seen[0])
                looks.append(seen[1])
            advance(1)
    refusal = ""
    try:
        dataset = assemble(
            root, source, items, unreadable, settings.task, settings.split_rule(), {}
        )
        parts = {item.path: item for item in (*dataset.items, *dataset.tests)}
        items = [parts[item.path] for item in items]
    except DataError as error:
        refusal = str(error)
    return Audit(root, tuple(items), tuple(looks), tuple(unreadable), passed_over(source), refusal)


def _look(item: Item) -> tuple[Item, UInt8Array] | str:
    try:
        encoded = item.path.read_bytes()
        return identify(item, encoded), look_at(prepare(encoded, SPEC))
    except (OSError, BadImage) as error:
        return str(error)


def audit_decoded(
    source: Path, dataset: Dataset, decoded: Decoded, tests: Decoded | None = None
) -> Audit:
    """The same of images that are decoded anyway.

    Args:
        tests: the test part's pixels, if there is one; what it shares with other parts is told.
    """
    pixels = chain(decoded.pixels, tests.pixels if tests else ())
    with ThreadPoolExecutor(THREADS) as pool:
        looks = tuple(pool.map(look_at, pixels))
    items = (*dataset.items, *dataset.tests)
    return Audit(dataset.root, items, looks, dataset.left_out, passed_over(source))


def _shorter(item: Item) -> int:
    return min(item.facts.width, item.facts.height) if item.facts else TINY


def _pixels(item: Item) -> int:
    return item.facts.width * item.facts.height if item.facts else 0
