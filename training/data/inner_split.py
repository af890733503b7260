"""Images of the training part set apart, to judge epochs by, and others to calibrate by: the
held-out part only scores.
"""

from dataclasses import dataclass

import numpy as np

from registry.errors import DataError
from training.data.dataset import Dataset, Rows
from training.data.draws import Unit, hashed
from training.data.items import SplitRule
from training.settings import Settings

LEAST = 20  # images to calibrate by: fewer do not show what happens once in twenty


@dataclass(frozen=True)
class TrainingPart:
    """Rows of the training part, ascending, by what they are there for."""

    learnt: Rows
    judged: Rows  # to judge epochs by
    spared: Rows  # to calibrate by


def deal_out(dataset: Dataset, settings: Settings) -> TrainingPart:
    """All is learnt from but what the settings ask to set apart.

    Raises:
        DataError: epochs are to be judged, and no image can be spared for it.
    """
    learnt = dataset.rows("train")
    judged = spared = learnt[:0]
    judges = settings.judges(dataset.task)
    if judges or settings.compares:
        try:
            learnt, judged = set_apart(dataset, settings.judge_share, settings.seed)
        except DataError:  # a comparison can be left out
            if judges:
                raise
    if settings.calibrate:
        learnt, spared = spare(dataset, learnt, settings.calibrate_share, settings.seed)
    return TrainingPart(learnt, judged, spared)


def set_apart(dataset: Dataset, share: float, seed: int) -> tuple[Rows, Rows]:
    """Rows of the training part to learn from, and rows to judge by, both ascending.

    Equal images and groups stay together, and every label keeps something to learn from.

    Raises:
        DataError: so few images that none can be spared.
    """
    rows = dataset.rows("train")
    # a seed of its own: by the split's, all that was learnt from would be again
    learnt, judged = _part(dataset, rows, share, seed + 1, every_label=True)
    if not len(judged) or len(learnt) < 2:
        raise DataError(
            f"{len(rows)} images to learn from are too few to set some apart; add images, raise "
            "judge_share, or leave keep, patience and thresholds as they are by default"
        )
    return learnt, judged


def spare(dataset: Dataset, rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """Of `rows`, those to learn from, and those to calibrate by; of the latter `LEAST` or none.

    Equal images and groups stay together, and every label keeps something to learn from. Which
    images it are depends on each one's own hash alone, so they stay the same while data grows.
    """
    learnt, spared = _part(dataset, rows, share, seed + 2, every_label=False)
    return (learnt, spared) if len(spared) >= LEAST else (rows, rows[:0])


def _part(
    dataset: Dataset, rows: Rows, share: float, seed: int, *, every_label: bool
) -> tuple[Rows, Rows]:
    names = [dataset.units[row] for row in rows]
    labels: dict[str, set[str]] = {}
    for row, name in zip(rows, names, strict=True):
        labels.setdefault(name, set()).update(dataset.items[row].labels)
    units = [Unit(name, tuple(sorted(found))) for name, found in labels.items()]
    rule = SplitRule(valid_fraction=share, seed=seed)
    chosen = {units[place].name for place in hashed(units, rule, every_label=every_label)}
    apart = np.array([name in chosen for name in names], bool)
    return rows[~apart], rows[apart]
