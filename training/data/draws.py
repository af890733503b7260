"""The four ways to draw the held-out units."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from training.data.items import Drawing, SplitRule


@dataclass(frozen=True)
class Unit:
    """Images that must be in the same part."""

    name: str  # a group's, or an image's SHA-256
    labels: tuple[str, ...]  # of its images, sorted


def hashed(
    units: Sequence[Unit],
    rule: SplitRule,
    learnt: Collection[str] = (),
    held: Collection[str] = (),
    *,
    every_label: bool = True,
) -> set[int]:
    """Each unit's own hash decides, independent of all others: growing data moves nothing.

    One exception keeps small classes usable. If a class would have nothing held out, its unit with
    the lowest hash is; if it would have nothing to train on, the one with the highest is for
    training. Such a unit may move when the class grows, unless it is in the split of a promoted
    version, which is kept.

    Args:
        learnt, held: labels that already have training or held-out images, among those that keep
            their part.
        every_label: hold out at least one unit of every class.
    """
    hashes = [_hash(unit.name, rule.seed) for unit in units]
    held_out = {place for place, value in enumerate(hashes) if value < rule.valid_fraction}
    by_label: dict[str, list[int]] = defaultdict(list)
    for place, unit in enumerate(units):
        for label in unit.labels:
            by_label[label].append(place)
    for label, places in by_label.items():
        wanted = every_label and label not in held and (len(places) > 1 or label in learnt)
        if wanted and held_out.isdisjoint(places):
            held_out.add(min(places, key=hashes.__getitem__))
    for label, places in by_label.items():
        if label not in learnt and held_out.issuperset(places):
            held_out.remove(max(places, key=hashes.__getitem__))
    return held_out


def _hash(name: str, seed: int) -> float:
    """Uniform in 0…1."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def stratified(units: Sequence[Unit], rule: SplitRule) -> set[int]:
    """The same share of every class, or combination of labels. The only unit of a class is for
    training; combinations that occur once are drawn together."""
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
    """fastai 0.7's random folds, of units in the order of rows or of file names."""
    return set(get_cv_idxs(len(units), rule.fold, rule.valid_fraction, rule.seed).tolist())


def blocks(units: Sequence[Unit], rule: SplitRule) -> set[int]:
    """The `fold`-th run of neighbours in the order of rows or of file names, which often belong to
    one batch, module or patient."""
    n_valid = int(rule.valid_fraction * len(units))
    return set(range(rule.fold * n_valid, min((rule.fold + 1) * n_valid, len(units))))


# all but `hashed`, the only one that considers what keeps its part
DRAWS: dict[Drawing, Callable[[Sequence[Unit], SplitRule], set[int]]] = {
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
