"""How far a mean of a few runs can be trusted."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t

import training.intervals

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


def wilson(share: float, n: int) -> Interval:
    """Of one run: the share of `n` answers that are right (Wilson 1927)."""
    return Interval(share, *training.intervals.wilson(round(share * n), n))
