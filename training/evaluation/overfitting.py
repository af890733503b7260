"""A flag for what the losses show: training still falls, and the held-out loss has turned up."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from training.fit.epoch import Epoch

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
    """Its epochs; an earlier stage may have had the same name, in a notebook."""
    same = takewhile(lambda epoch: epoch.stage == history[-1].stage, reversed(history))
    return [*same][::-1]


def lowest(epochs: Sequence[Epoch]) -> int:
    """The place of the lowest held-out loss."""
    return min(range(len(epochs)), key=lambda number: epochs[number].valid_loss)


def has_risen(best: Epoch, last: Epoch) -> bool:
    """Whether the held-out loss has, by a twentieth, and visibly."""
    return last.valid_loss >= max(WORSE * best.valid_loss, best.valid_loss + LEAST)
