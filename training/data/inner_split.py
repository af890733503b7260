"""Sets images of the training part apart, for model selection and for calibration: the held-out
part is only for scoring.
"""

from dataclasses import dataclass

import numpy as np

from registry.errors import DataError
from training.data.dataset import Dataset, Rows
from training.data.draws import Unit, hashed
from training.data.items import SplitRule
from training.settings import Settings

LEAST = 20  # images for calibration: fewer do not show what happens once in twenty


@dataclass(frozen=True)
class TrainingPart:
    """Rows of the training part, ascending, by their use."""

    learnt: Rows  # to train on
    selection: Rows  # to choose epochs, weights or thresholds by
    calibration: Rows  # to fit the temperature and prediction sets on


def split_training_part(dataset: Dataset, settings: Settings) -> TrainingPart:
    """Sets apart what the settings ask for; the rest is trained on.

    Raises:
        DataError: model selection needs images, and none can be spared.
    """
    learnt = dataset.rows("train")
    selection = calibration = learnt[:0]
    needed = settings.needs_selection(dataset.task)
    if needed or settings.wants_selection:
        try:
            learnt, selection = set_apart_for_selection(
                dataset, settings.judge_share, settings.seed
            )
        except DataError:  # a comparison can be left out
            if needed:
                raise
    if settings.calibrate:
        learnt, calibration = set_apart_for_calibration(
            dataset, learnt, settings.calibrate_share, settings.seed
        )
    return TrainingPart(learnt, selection, calibration)


def set_apart_for_selection(dataset: Dataset, share: float, seed: int) -> tuple[Rows, Rows]:
    """Rows of the training part to train on, and rows for model selection, both ascending.

    Duplicates and groups stay together, and every label keeps training images.

    Raises:
        DataError: so few images that none can be spared.
    """
    rows = dataset.rows("train")
    # a seed of its own: with the split's, every hash here would again fall on the training side
    learnt, selection = _part(dataset, rows, share, seed + 1, every_label=True)
    if not len(selection) or len(learnt) < 2:
        raise DataError(
            f"too few training images ({len(rows)}) to set some apart; add images, raise "
            "judge_share, or leave keep, patience and thresholds at their defaults"
        )
    return learnt, selection


def set_apart_for_calibration(
    dataset: Dataset, rows: Rows, share: float, seed: int
) -> tuple[Rows, Rows]:
    """Of `rows`, those to train on, and those for calibration; of the latter at least `LEAST` or
    none.

    Duplicates and groups stay together, and every label keeps training images. Each image's own
    hash decides, so the choice is stable while the data grow.
    """
    learnt, calibration = _part(dataset, rows, share, seed + 2, every_label=False)
    return (learnt, calibration) if len(calibration) >= LEAST else (rows, rows[:0])


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
