"""How far a mean of a few runs can be trusted."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t, ttest_ind

import training.evaluation.intervals

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, and the bounds between which it lies at `LEVEL`; NaN where one run says nothing."""

    mean: float
    low: float
    high: float

    def show(self, digits: int, scale: float = 1.0, *, sign: bool = False) -> str:
        shown = [f"{scale * one:{'+' if sign else ''},.{digits}f}" for one in self._values]
        return shown[0] if math.isnan(self.low) else f"{shown[0]} ({shown[1]} to {shown[2]})"

    @property
    def _values(self) -> tuple[float, float, float]:
        return self.mean, self.low, self.high


def over_seeds(values: Sequence[float]) -> Interval:
    """Student's interval of the mean."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    reach = float(t.ppf((1 + LEVEL) / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach)


def paired(changed: Sequence[float], base: Sequence[float]) -> Interval:
    """Student's interval of the mean difference, run by run with the same seed."""
    return over_seeds([a - b for a, b in zip(changed, base, strict=True)])


def apart(values: Sequence[float], others: Sequence[float]) -> Interval:
    """The difference of two means of runs that do not belong together in pairs (Welch 1947); of a
    single other one, Student's interval of the values alone: its own chance is not in it."""
    if len(values) < 2 or len(others) < 2:
        return over_seeds([one - statistics.fmean(others) for one in values])
    bounds = ttest_ind(values, others, equal_var=False).confidence_interval(LEVEL)
    difference = statistics.fmean(values) - statistics.fmean(others)
    return Interval(difference, float(bounds.low), float(bounds.high))


def wilson(share: float, n: int) -> Interval:
    """Of one run: the share of `n` answers that are right (Wilson 1927)."""
    return Interval(share, *training.evaluation.intervals.wilson(round(share * n), n))
