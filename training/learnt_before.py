"""What a network's initial weights have learnt from: images that are held out now would score too
well."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from registry.counted import are, counted
from training.bench import Bench
from training.data.items import Item
from training.network.saving import DIGITS, images_learnt

FACT = "learnt_before"  # in the provenance


def begin_with(bench: Bench, weights: Path) -> None:
    """The bench's network knows what its weights, those of the file, have learnt from. If held-out
    images are among it, this is reported and kept in the provenance."""
    bench.network.learnt_before = images_learnt(weights)
    bench.results.facts.pop(FACT, None)
    dataset = bench.dataset
    scored = [*(dataset.items[row] for row in dataset.rows("valid")), *dataset.tests]
    if n := int(learnt(scored, bench.network.learnt_before).sum()):
        bench.note(
            FACT,
            f"{n} of {counted(len(scored), 'held-out image')} {are(n)} among those that the "
            f"initial weights have learnt from ({weights}), so the scores may be too good; begin "
            "with other weights, or hold out what that training held out: the same split, "
            "valid_fraction, fold and seed",
        )


def learnt(items: Iterable[Item], before: frozenset[str]) -> npt.NDArray[np.bool_]:
    """[items]: which of them are among the images that weights have learnt from before."""
    return np.array([item.sha256[:DIGITS] in before for item in items], bool)
