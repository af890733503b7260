"""A metric of predicted classes, which costs an addition per image."""

from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

MAX_CLASSES = 100  # series per version; of more classes, the last share one series
OTHER = "other"  # the class of that series


class PredictionCounts(Collector):
    """How often each class came out on top; the samples are built only when scraped."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str], tuple[Sequence[str], list[int]]] = {}

    def show(self, model: str, version: str, classes: Sequence[str]) -> list[int]:
        """A list of counts, one per class, for the caller to increment; with more than MAX_CLASSES
        classes, the last count is of all that have none of their own."""
        if len(classes) > MAX_CLASSES:
            classes = (*classes[: MAX_CLASSES - 1], OTHER)
        return self._shown.setdefault((model, version), (classes, [0] * len(classes)))[1]

    def hide(self, model: str, version: str) -> None:
        self._shown.pop((model, version), None)

    def describe(self) -> Iterator[CounterMetricFamily]:
        """The family without samples: what the registry knows its names by."""
        yield _family()

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = _family()
        for (model, version), (classes, counts) in list(self._shown.items()):
            tally: Counter[str] = Counter()
            for name, count in zip(classes, counts, strict=True):
                tally[name] += count  # a class of its own may be called OTHER, too
            for name, count in tally.items():
                family.add_metric((model, version, name), count)
        yield family


def _family() -> CounterMetricFamily:
    return CounterMetricFamily(
        "unfreeze_predictions",
        f"Images by top class; of more than {MAX_CLASSES} classes, all but the first "
        f"{MAX_CLASSES - 1} are {OTHER!r}.",
        labels=("model", "version", "class"),
    )
