"""Confidence intervals of proportions, and a test whether a difference may be chance."""

from math import sqrt

from scipy.stats import binomtest

from registry.images import Float32Array

Z = 1.959963984540054  # of 95 %

Interval = tuple[float, float]


def wilson(hits: int, n: int) -> Interval:
    """95 % interval of a proportion, `hits` of `n` (Wilson 1927). Even near 0 and 1 and for few
    trials it lies within 0 and 1 and is not empty; without trials it is 0 to 1."""
    if n == 0:
        return 0.0, 1.0
    # SciPy's takes a millisecond, and a report needs three for each of perhaps thousands of classes
    share = hits / n
    middle = share + Z**2 / (2 * n)
    half = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def mean_interval(values: Float32Array) -> Interval:
    """95 % interval of the mean of values in 0…1, by the normal approximation."""
    if len(values) < 2:
        return 0.0, 1.0
    mean, half = float(values.mean()), Z * float(values.std(ddof=1)) / sqrt(len(values))
    return max(mean - half, 0.0), min(mean + half, 1.0)


def sign_test(gained: int, lost: int) -> float:
    """Two-sided p-value of a difference this large (McNemar 1947, exact)."""
    n = gained + lost
    return float(binomtest(gained, n).pvalue) if n else 1.0
