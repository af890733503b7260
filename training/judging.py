"""Images of the training part set apart, to judge epochs by: the held-out part only scores."""

import numpy as np

from registry.errors import DataError
from training.data import Dataset, Rows
from training.items import SplitRule
from training.split import Unit, hashed


def set_apart(dataset: Dataset, share: float, seed: int) -> tuple[Rows, Rows]:
    """Rows of the training part to learn from, and rows to judge by, both ascending.

    Equal images and groups stay together, and every label keeps something to learn from.

    Raises:
        DataError: so few images that none can be spared.
    """
    rows = dataset.rows("train")
    labels: dict[str, set[str]] = {}
    for row in rows:
        item = dataset.items[row]
        labels.setdefault(item.group or item.sha256, set()).update(item.labels)
    units = [Unit(name, tuple(sorted(found))) for name, found in labels.items()]
    # a seed of its own: by the split's, all that was learnt from would be again
    rule = SplitRule(valid_fraction=share, seed=seed + 1)
    names = {units[place].name for place in hashed(units, rule)}
    judged = np.array(
        [(dataset.items[row].group or dataset.items[row].sha256) in names for row in rows], bool
    )
    if not judged.any():
        raise DataError(
            f"{len(rows)} images to learn from are too few to set some apart; add images, raise "
            "judge_share, or leave keep, patience and thresholds as they are by default"
        )
    return rows[~judged], rows[judged]
