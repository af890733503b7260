"""What can be wrong with a data set's images, and how it is reported."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.images import UInt8Array
from training.data.items import Item
from training.data.near_duplicates import Rows, alike, is_blank
from training.data.split import OF_A_GROUP, torn_groups, unit_names

TINY = 32  # pixels of the shorter side: little for a network to see
HUGE = 40_000_000  # pixels: slow to decode, and rarely worth it
DIM = 16  # levels of 256: the brightest that 12 bits, stored in 16, can reach
FEW = 5  # a class of fewer images can be neither learnt nor scored reliably
LISTED = 300  # near-duplicate pairs or groups of one kind; the rest are counted only
UNEVEN = 10  # times as many images in the largest class as in the smallest

HOW = {"equal": "duplicate images", "alike": "near-duplicate images"}
REPEATED = {
    "conflict": "{how} with different labels: {n}",
    "leak": "{how} in more than one part, which inflates the score: {n}",
    "repeat": "{how} in the same class and part: {n}",
}
PICTURES = {
    "tiny": f"images less than {TINY} pixels wide or high: {{n}}",
    "huge": f"images of more than {HUGE // 1_000_000} million pixels, slow to decode: {{n}}",
    "blank": "images of a single colour: {n}",
    "dim": "16-bit images that use only the lower 12 bits or fewer, so they are nearly black; "
    "scale them to 16 bits: {n}",
}


@dataclass(frozen=True)
class Problem:
    """One kind of problem, with the images or files that have it."""

    kind: str
    text: str  # one sentence
    severe: bool  # spoils the training or its score; others are worth knowing
    rows: tuple[tuple[int, ...], ...] = ()  # of the audit's items; duplicates together
    files: tuple[str, ...] = ()  # of those that are not items, with the reason
    n_unlisted: int = 0  # further ones, which are only counted


def unusable(
    refusal: str, unreadable: tuple[str, ...], passed_over: tuple[Path, ...]
) -> list[Problem]:
    """Why a training would be refused, and the files that it would leave out."""
    found = []
    if refusal:
        found.append(Problem("refused", f"a training would be refused: {refusal}", True))
    if unreadable:
        text = f"unreadable files: {len(unreadable)}"
        found.append(Problem("unreadable", text, True, files=unreadable))
    if passed_over:
        text = (
            "images skipped because they are not JPEG, PNG or WebP; save them as PNG: "
            f"{len(passed_over)}"
        )
        found.append(Problem("passed over", text, True, files=tuple(map(str, passed_over))))
    return found


def repeated(items: Sequence[Item], looks: Sequence[UInt8Array]) -> list[Problem]:
    """Duplicates and near-duplicates; each pair is reported once, as the worst that it is. All
    near-duplicate pairs are counted, and the first are listed."""
    found = []
    for how, (counts, listed) in (("equal", _equal(items)), ("alike", _alike(items, looks))):
        for relation, n in sorted(counts.items()):
            text = REPEATED[relation].format(n=n, how=HOW[how])
            rows, severe = tuple(listed[relation]), relation != "repeat"
            found.append(Problem(f"{how} {relation}", text, severe, rows, n_unlisted=n - len(rows)))
    return found


def torn(items: Sequence[Item]) -> list[Problem]:
    """Groups with images in more than one part, with one image of each part."""
    groups = torn_groups(items)
    if not groups:
        return []
    names, rows = unit_names(items), defaultdict[str, dict[object, int]](dict)
    for row, item in enumerate(items):
        rows[names[item.sha256]].setdefault(item.part, row)
    listed = tuple(tuple(rows[OF_A_GROUP + group].values()) for group in groups[:LISTED])
    text = f"groups in more than one part, which inflates the score: {len(groups)}"
    return [Problem("torn", text, True, listed, n_unlisted=len(groups) - len(listed))]


# how many there are of each relation, and the rows of those that are listed
Repeats = tuple[Counter[str], dict[str, list[tuple[int, ...]]]]


def _equal(items: Sequence[Item]) -> Repeats:
    by_content: dict[str, list[int]] = defaultdict(list)
    for row, item in enumerate(items):
        by_content[item.sha256].append(row)
    listed: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for rows in by_content.values():
        if len(rows) > 1:
            listed[_relation([items[row] for row in rows])].append(tuple(rows))
    return Counter({relation: len(rows) for relation, rows in listed.items()}), listed


def _relation(items: Sequence[Item]) -> str:
    if len({item.labels for item in items if item.labels}) > 1:
        return "conflict"
    return "leak" if len({item.part for item in items}) > 1 else "repeat"


def _alike(items: Sequence[Item], looks: Sequence[UInt8Array]) -> Repeats:
    """Near-duplicates, in pairs; vectorised, as there may be millions of them."""
    contents = _numbered(item.sha256 for item in items)
    labels = _numbered(item.labels for item in items)
    labelled = np.array([bool(item.labels) for item in items])
    parts = _numbered(item.part for item in items)
    counts: Counter[str] = Counter()
    listed: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for row, others in alike(looks):
        others = others[contents[others] != contents[row]]
        conflict = (labels[others] != labels[row]) & labelled[others] & labelled[row]
        leak = (parts[others] != parts[row]) & ~conflict
        repeat = ~(conflict | leak)
        for relation, those in (("conflict", conflict), ("leak", leak), ("repeat", repeat)):
            counts[relation] += int(those.sum())
            free = LISTED - len(listed[relation])
            listed[relation] += [(row, int(other)) for other in others[those][:free]]
    return +counts, listed


def _numbered(values: Iterable[Hashable]) -> Rows:
    """The same number for the same value."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def odd_pictures(items: Sequence[Item], looks: Sequence[UInt8Array]) -> list[Problem]:
    """Tiny, huge, blank and nearly black ones."""
    both = list(enumerate(zip(items, looks, strict=True)))
    shown = {
        "tiny": [row for row, (item, _) in both if _shorter(item) < TINY],
        "huge": [row for row, (item, _) in both if _pixels(item) > HUGE],
        "blank": [row for row, (_, look) in both if is_blank(look)],
        "dim": [row for row, (item, look) in both if _is_dim(item, look)],
    }
    return [
        Problem(kind, PICTURES[kind].format(n=len(rows)), False, tuple((row,) for row in rows))
        for kind, rows in shown.items()
        if rows
    ]


def _shorter(item: Item) -> int:
    return min(item.facts.width, item.facts.height) if item.facts else TINY


def _pixels(item: Item) -> int:
    return item.facts.width * item.facts.height if item.facts else 0


def _is_dim(item: Item, look: UInt8Array) -> bool:
    deep = item.facts is not None and item.facts.mode.startswith("I")
    return deep and int(look.max()) < DIM and not is_blank(look)


def parted(items: Sequence[Item]) -> list[Problem]:
    """Names with spaces that were split into several labels. In real multi-label data there are
    usually more distinct sets of labels than labels."""
    sets = {item.labels for item in items if item.labels}
    several = sorted(labels for labels in sets if len(labels) > 1)
    if not several or len(sets) > len({label for labels in sets for label in labels}):
        return []
    text = (
        f"{len(several[0])} labels of one image are {', '.join(map(repr, several[0]))}; if that is "
        "one name with spaces in it, set task=single"
    )
    return [Problem("parted", text, False)]


def misnamed(labels: Iterable[str]) -> list[Problem]:
    """Labels that a person reads as one, and a training as several classes."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        spellings[unicodedata.normalize("NFKC", label.casefold())].append(label)
    several = [", ".join(map(repr, those)) for those in spellings.values() if len(those) > 1]
    if not several:
        return []
    text = (
        "labels that differ only in case or Unicode normalisation, and are classes of their own: "
        f"{_listed(several, '; ')}; if they are one class, spell them alike"
    )
    return [Problem("misnamed", text, False)]


def empty(folders: Sequence[Path]) -> list[Problem]:
    """Class folders without images, which become no class."""
    if not folders:
        return []
    names = _listed([str(folder) for folder in folders], ", ")
    return [Problem("empty", f"class folders without a JPEG, PNG or WebP image: {names}", False)]


def _listed(names: Sequence[str], separator: str) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return separator.join(names[:8]) + more


def unbalanced(counts: Mapping[str, Counter[str]]) -> list[Problem]:
    """Classes with few images, or with far fewer than another.

    Args:
        counts: of each class, how many images are in each part.
    """
    totals = {label: each.total() for label, each in counts.items()}
    few = [label for label, total in totals.items() if total < FEW]
    found = []
    if few:
        text = f"classes with fewer than {FEW} images: {_listed(few, ', ')}"
        found.append(Problem("few", text, False))
    if totals and max(totals.values()) > UNEVEN * min(totals.values()):
        large, small = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
        text = (
            f"{large!r} has {totals[large]} images and {small!r} {totals[small]}; consider "
            "balance=weights or balance=sampling"
        )
        found.append(Problem("uneven", text, False))
    return found
