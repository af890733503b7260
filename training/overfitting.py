"""A flag for what the losses show: training still falls, and the held-out loss has turned up."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from training.fit import Epoch

WORSE = 1.05  # times the lowest held-out loss; less is chance
LEAST = 0.01  # by which it has risen; of a loss near zero, a twentieth is nothing


@dataclass(frozen=True)
class Overfitting:
    """Since which epoch, and what shows it."""

    epoch: int  # of the whole training, counted from 1: that of the lowest held-out loss
    text: str


def overfitting(history: Sequence[Epoch]) -> Overfitting | None:
    """What shows it in the last stage, or None: since the epoch of the lowest held-out loss the
    training loss has fallen, and the held-out loss has risen by a twentieth, and visibly."""
    if not history:
        return None
    same = takewhile(lambda epoch: epoch.stage == history[-1].stage, reversed(history))
    stage = [*same][::-1]  # an earlier one may have had the same name, in a notebook
    place = min(range(len(stage)), key=lambda number: stage[number].valid_loss)
    best, last = stage[place], stage[-1]
    risen = max(WORSE * best.valid_loss, best.valid_loss + LEAST)
    if last.train_loss >= best.train_loss or last.valid_loss < risen:
        return None
    return Overfitting(
        len(history) - len(stage) + place + 1,
        f"{last.stage}: overfitting since epoch {place + 1}: the held-out loss rose from "
        f"{best.valid_loss:.3f} to {last.valid_loss:.3f}, and the training loss fell from "
        f"{best.train_loss:.3f} to {last.train_loss:.3f}",
    )
