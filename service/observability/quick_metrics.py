"""Counters and histograms that every request updates: as in prometheus_client, which exports them,
but an update takes a third of the time. A request makes a dozen of them.

    requests = Counter("unfreeze_requests", "Requests.", ("model",))
    registry.register(requests)
    requests.labels("pets").inc()
"""

import time
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from threading import Lock
from typing import Generic, TypeVar

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily
from prometheus_client.registry import Collector

Series = TypeVar("Series")
# A bucket's upper bound, how many values it and those below it have, and perhaps one of its traces.
Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class _Family(Collector, Generic[Series]):
    """A metric: one series for each combination of label values that was asked for."""

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self._name, self._help, self._labels = name, help, labels
        self._series: dict[tuple[str, ...], Series] = {}

    def labels(self, *values: str) -> Series:
        """The series with these values of the labels, exported from now on."""
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}, not {values}")
        if (found := self._series.get(values)) is None:
            found = self._series.setdefault(values, self._new())
        return found

    def remove(self, *values: str) -> None:
        """Exports this series no more."""
        self._series.pop(values, None)

    def describe(self) -> Iterator[Metric]:
        """Its name, so that no other metric takes it and a scrape can ask for this one alone."""
        yield self._exported(())

    def collect(self) -> Iterator[Metric]:
        yield self._exported(list(self._series.items()))

    @abstractmethod
    def _new(self) -> Series: ...

    @abstractmethod
    def _exported(self, series: Sequence[tuple[tuple[str, ...], Series]]) -> Metric: ...


class CounterSeries:
    """A number that only grows. Thread-safe."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self.value = 0
        self._lock = Lock()

    def inc(self, n: int = 1) -> None:
        """Adds `n`."""
        with self._lock:
            self.value += n


class Counter(_Family[CounterSeries]):
    """A counter; its exported name gets the suffix `_total`."""

    def _new(self) -> CounterSeries:
        return CounterSeries()

    def _exported(self, series: Sequence[tuple[tuple[str, ...], CounterSeries]]) -> Metric:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for labels, one in series:
            family.add_metric(labels, one.value)
        return family


class HistogramSeries:
    """Counts of values by bucket, and their sum. Thread-safe."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the buckets' upper ones, in order; the last bucket has none."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._exemplars: dict[int, Exemplar] = {}
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, value: float, trace_id: str = "") -> None:
        """Counts a value; `trace_id` becomes its bucket's exemplar, for scrapers of OpenMetrics."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value
        if trace_id:
            self._exemplars[bucket] = Exemplar({"trace_id": trace_id}, value, time.time())

    def cumulated(self) -> tuple[list[Bucket], float]:
        """Every bucket, and the sum of all values."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        buckets: list[Bucket] = []
        bounds = (*(str(float(bound)) for bound in self._bounds), "+Inf")
        for i, (bound, n) in enumerate(zip(bounds, accumulate(counts), strict=True)):
            exemplar = self._exemplars.get(i)
            buckets.append((bound, n, exemplar) if exemplar else (bound, n))
        return buckets, total


class Histogram(_Family[HistogramSeries]):
    """A histogram with fixed buckets."""

    def __init__(
        self, name: str, help: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self._bounds = bounds
        super().__init__(name, help, labels)

    def _new(self) -> HistogramSeries:
        return HistogramSeries(self._bounds)

    def _exported(self, series: Sequence[tuple[tuple[str, ...], HistogramSeries]]) -> Metric:
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for labels, one in series:
            family.add_metric(labels, *one.cumulated())
        return family
