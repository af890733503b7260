"""Confidence intervals for the mean of a few runs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t, ttest_ind

import training.evaluation.intervals

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence bounds at `LEVEL`; NaN where there is only one run."""

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
    """The difference of two means of unpaired runs (Welch 1947). If there is a single other run,
    this is Student's interval of the values alone, which leaves out that run's own variance."""
    if len(values) < 2 or len(others) < 2:
        return over_seeds([one - statistics.fmean(others) for one in values])
    bounds = ttest_ind(values, others, equal_var=False).confidence_interval(LEVEL)
    difference = statistics.fmean(values) - statistics.fmean(others)
    return Interval(difference, float(bounds.low), float(bounds.high))


def wilson(share: float, n: int) -> Interval:
    """For a single run: the share of `n` answers that are right (Wilson 1927)."""
    return Interval(share, *training.evaluation.intervals.wilson(round(share * n), n))
