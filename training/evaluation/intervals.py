"""How far a counted share may be from the truth, and whether a difference may be chance."""

from math import comb, sqrt

from registry.images import Float32Array

Z = 1.959963984540054  # of 95 %

Interval = tuple[float, float]


def wilson(hits: int, n: int) -> Interval:
    """95 % interval of a share, `hits` of `n` (Wilson 1927): also near 0 and 1 and for few it is
    within 0 and 1 and not empty; of nothing it is everything."""
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    middle = share + Z**2 / (2 * n)
    half = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def mean_interval(values: Float32Array) -> Interval:
    """95 % interval of the mean of values in 0…1, as the normal distribution has it."""
    if len(values) < 2:
        return 0.0, 1.0
    mean, half = float(values.mean()), Z * float(values.std(ddof=1)) / sqrt(len(values))
    return max(mean - half, 0.0), min(mean + half, 1.0)


def sign_test(gained: int, lost: int) -> float:
    """How likely chance alone makes a difference this large or larger (McNemar 1947, exact)."""
    n, fewer = gained + lost, min(gained, lost)
    tail = sum(comb(n, number) for number in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n) if n else 1.0
