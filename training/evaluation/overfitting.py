"""Flags overfitting: the training loss still falls, and the held-out loss has turned up."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from training.fit.epoch import Epoch

WORSE = 1.05  # times the lowest held-out loss; less may be noise
LEAST = 0.01  # rise in absolute terms; 5 % of a loss near zero is nothing


@dataclass(frozen=True)
class Overfitting:
    """Since which epoch, and what shows it."""

    epoch: int  # of the whole training, counted from 1: that of the lowest held-out loss
    text: str


def overfitting(history: Sequence[Epoch]) -> Overfitting | None:
    """Overfitting in the last stage, or None: since the epoch of the lowest held-out loss, the
    training loss has fallen while the held-out loss has risen by `WORSE` and `LEAST`."""
    if not history:
        return None
    stage = last_stage(history)
    place = lowest(stage)
    best, last = stage[place], stage[-1]
    if last.train_loss >= best.train_loss or not has_risen(best, last):
        return None
    return Overfitting(
        len(history) - len(stage) + place + 1,
        f"{last.stage}: overfitting since epoch {place + 1}: the held-out loss rose from "
        f"{best.valid_loss:.3f} to {last.valid_loss:.3f}, and the training loss fell from "
        f"{best.train_loss:.3f} to {last.train_loss:.3f}",
    )


def last_stage(history: Sequence[Epoch]) -> list[Epoch]:
    """Its epochs; in a notebook, an earlier stage may have had the same name."""
    same = takewhile(lambda epoch: epoch.stage == history[-1].stage, reversed(history))
    return [*same][::-1]


def lowest(epochs: Sequence[Epoch]) -> int:
    """Index of the lowest held-out loss."""
    return min(range(len(epochs)), key=lambda number: epochs[number].valid_loss)


def has_risen(best: Epoch, last: Epoch) -> bool:
    """Whether the held-out loss has risen by at least `WORSE` and `LEAST`."""
    return last.valid_loss >= max(WORSE * best.valid_loss, best.valid_loss + LEAST)
