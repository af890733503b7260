"""How long a version's runs take, learned from those that it made, by batch size."""

from collections.abc import Sequence

from service.execution.shapes import filled

SMOOTHING = 0.1  # weight of the latest run in the moving average


class RunTimes:
    """`learn` may be called from any thread."""

    def __init__(self, *, runs: int, batch: int, sizes: Sequence[int]) -> None:
        """
        Args:
            runs: concurrent runs.
            batch: most views in a run.
            sizes: the batch sizes that the network is given; a run is filled up to the next one.
        """
        self.capacity = runs * batch  # views that may run at the same time
        self._runs = runs
        self._batch = batch
        self._filled = [filled(n_views, sizes) for n_views in range(batch + 1)]
        self._seconds = dict.fromkeys(self._filled, 0.0)
        self._met: set[int] = set()

    def learn(self, n_views: int, run_s: float) -> None:
        """Notes that a run of `n_views` took this long."""
        size = self._filled[n_views]
        known_s = self._seconds[size]
        known_s += (run_s - known_s) * (SMOOTHING if size in self._met else 1)
        self._met.add(size)
        self._seconds[size] = known_s
        # The others must stay consistent with it, or a size that has not run for long, or never,
        # would be misjudged: a larger run takes no less, and no more than enough of the smaller.
        for other, other_s in self._seconds.items():
            if other > size:
                self._seconds[other] = min(max(other_s, known_s), known_s * -(-other // size))
            elif other < size:
                self._seconds[other] = min(max(other_s, known_s / -(-size // other)), known_s)

    def of(self, n_views: int) -> float:
        """Seconds to run so many views, in full batches and one for the rest."""
        n_full, rest = divmod(n_views, self._batch)
        seconds = n_full * self._seconds[self._filled[-1]]
        if rest:
            seconds += self._seconds[self._filled[rest]]
        return seconds / self._runs
