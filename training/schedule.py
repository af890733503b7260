"""Learning rates over time, as shares of each group's base rate: one value a batch."""

import numpy as np
import numpy.typing as npt

Shares = npt.NDArray[np.float64]

WARM_UP_SHARE = 1 / 100  # of the base rate, during the first twentieth of the first cycle


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
    return np.concatenate(cycles) if cycles else np.empty(0)
