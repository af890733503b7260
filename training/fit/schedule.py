"""Learning rates over time, as shares of each group's base rate: one value a batch."""

import numpy as np
import numpy.typing as npt

Shares = npt.NDArray[np.float64]

WARM_UP_SHARE = 1 / 100  # of the base rate, during the first twentieth of the first cycle
HILL_END = 1e4  # a cosine cycle ends at this part of where it began


def restart_epochs(cycles: int, cycle_len: int, cycle_mult: int) -> list[int]:
    """Length of each cycle in epochs: `cycle_len`, then `cycle_mult` times the one before."""
    return [cycle_len * cycle_mult**number for number in range(cycles)]


def cosine_restarts(n_batches: int, epochs: list[int]) -> Shares:
    """A cosine from 1 to 0 in each cycle, after a short start at a hundredth.

    Loshchilov & Hutter 2017 (SGDR), eq. 5 with a lowest rate of 0, per batch; the start is the
    2018 library's: the first cycle's first twentieth.

    Args:
        n_batches: in one epoch.
        epochs: length of each cycle.
    """
    cycles = []
    for length in epochs:
        steps = np.arange(n_batches * length)
        cycles.append((np.cos(np.pi * steps / len(steps)) + 1) / 2)
    if cycles:
        cycles[0][np.arange(len(cycles[0])) < len(cycles[0]) / 20] = WARM_UP_SHARE
    return _joined(cycles)


def constant(n_batches: int, n_epochs: int) -> Shares:
    """The base rate throughout, as `fit` without a cycle had it in 2018."""
    return np.ones(n_batches * n_epochs)


def one_cycles(n_batches: int, epochs: list[int], div: float = 10, tail: float = 10) -> Shares:
    """In each cycle a line from 1/div up to 1 and down again, then down to a hundredth of 1/div.

    Smith 2018 (arXiv 1803.09820), as the 2018 library's `use_clr_beta` steps it.

    Args:
        div: the rate begins at this part of its highest.
        tail: percent of a cycle's steps that go below where it began.
    """

    def one(n: int) -> Shares:
        rise, place = _rise(n, tail)
        below = 1 - 0.99 * (place - 2 * rise) / max(n - 2 * rise, 1)
        return np.where(place > 2 * rise, below, 1 + _height(n, tail) * (div - 1)) / div

    return _joined([one(n_batches * length) for length in epochs])


def one_cycle_momenta(
    n_batches: int, epochs: list[int], momenta: tuple[float, float], tail: float = 10
) -> Shares:
    """The first of `momenta` where the rate is low, the second where it is highest."""
    low_rate, high_rate = momenta
    heights = [_height(n_batches * length, tail) for length in epochs]
    return _joined([low_rate + height * (high_rate - low_rate) for height in heights])


def cosine_cycles(n_batches: int, epochs: list[int], div: float = 25, rise: float = 0.25) -> Shares:
    """In each cycle half a cosine from 1/div up to 1, and half a one down to next to nothing: one
    cycle as it is used with AdamW (Smith & Topin 2018, arXiv 1708.07120, in the shape that fastai 2
    and torch's `OneCycleLR` give it).

    Args:
        div: the rate begins at this part of its highest.
        rise: share of a cycle's steps for which the rate rises.
    """

    def one(n: int) -> Shares:
        rising, height = _hill(n, rise)
        lowest = np.where(rising, 1, 1 / HILL_END) / div
        return lowest + height * (1 - lowest)

    return _joined([one(n_batches * length) for length in epochs])


def cosine_cycle_momenta(
    n_batches: int, epochs: list[int], momenta: tuple[float, float], rise: float = 0.25
) -> Shares:
    """The first of `momenta` where the rate is low, the second where it is highest."""
    low_rate, high_rate = momenta
    heights = [_hill(n_batches * length, rise)[1] for length in epochs]
    return _joined([low_rate + height * (high_rate - low_rate) for height in heights])


def decays(n_batches: int, epochs: list[int], weight_decay: float, *, per_cycle: bool) -> Shares:
    """What each step takes off every weight, as a share of it (Loshchilov & Hutter 2019, AdamW).

    Args:
        per_cycle: divided by the root of the cycle's steps (`norm_wds`; their appendix B.1), so
            that long cycles do not decay more than short ones need.
    """
    lengths = [n_batches * length for length in epochs]
    return _joined([np.full(n, weight_decay / np.sqrt(n if per_cycle else 1)) for n in lengths])


def _rise(n: int, tail: float) -> tuple[int, Shares]:
    """How many of a cycle's `n` steps the rate rises for, and each step's number."""
    return max(int(n * (1 - tail / 100) / 2), 1), np.arange(n, dtype=np.float64)


def _height(n: int, tail: float) -> Shares:
    """From 0 to 1 and back, and then 0."""
    rise, place = _rise(n, tail)
    return np.clip(1 - np.abs(place - rise) / rise, 0, 1)


def _hill(n: int, rise: float) -> tuple[npt.NDArray[np.bool_], Shares]:
    """Which of a cycle's `n` steps rise, and how high each is: from 0 to 1 and back, smoothly."""
    place, peak = np.arange(n, dtype=np.float64), max(rise * n - 1, 0.0)
    rising = place <= peak
    slope = np.where(rising, place / peak if peak else 1, (n - 1 - place) / max(n - 1 - peak, 1))
    return rising, (1 - np.cos(np.pi * slope)) / 2


def _joined(cycles: list[Shares]) -> Shares:
    return np.concatenate(cycles) if cycles else np.empty(0)
