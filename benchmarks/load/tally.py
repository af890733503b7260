"""What clients count: answers, failures and how long they took, by kind of client."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

FIRST_MS, STEP = 0.1, 1.1  # the latency buckets: 0.1 ms, and each 10 % above the last
KEPT = 5  # problems of each kind of client that are reported in full


@dataclass
class Tally:
    """The counts of one kind of client; they can be added up."""

    answered: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)
    versions: Counter[int] = field(default_factory=Counter)  # images answered, by version
    decoded: int = 0  # those of them that were sent encoded
    bad_images: int = 0  # answered with an error
    buckets: Counter[int] = field(default_factory=Counter)  # answers, by latency

    def add_answer(
        self, seconds: float, versions: dict[int, int], bad_images: int, encoded: bool
    ) -> None:
        self.answered += 1
        self.versions.update(versions)
        self.bad_images += bad_images
        self.decoded += encoded * sum(versions.values())
        self.buckets[math.ceil(math.log(max(1000 * seconds / FIRST_MS, 1), STEP))] += 1

    def add_failure(self, problem: str) -> None:
        self.failed += 1
        if len(self.problems) < KEPT:
            self.problems.append(problem[:500])

    def latency_ms(self, share: float) -> float:
        """The quantile `share` of the latency, rounded to a bucket; 0 without any answer."""
        left = share * self.buckets.total()
        for bucket, n in sorted(self.buckets.items()):
            left -= n
            if left <= 0:
                return float(FIRST_MS * STEP**bucket)
        return 0.0

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"versions": dict(self.versions), "buckets": dict(self.buckets)}


def from_json(found: dict[str, Any]) -> Tally:
    """Reads a tally; JSON has turned the numbers of versions and buckets into strings."""
    counted = {
        name: Counter({int(key): n for key, n in found[name].items()})
        for name in ("versions", "buckets")
    }
    return Tally(**(found | counted))


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of all of them."""
    whole = Tally()
    for one in tallies:
        whole.answered += one.answered
        whole.failed += one.failed
        whole.problems += one.problems
        whole.decoded += one.decoded
        whole.bad_images += one.bad_images
        whole.versions += one.versions
        whole.buckets += one.buckets
    return whole


def since(now: Tally, before: Tally) -> Tally:
    """What was answered between two tallies; for latencies over time."""
    return Tally(
        answered=now.answered - before.answered,
        failed=now.failed - before.failed,
        buckets=now.buckets - before.buckets,
    )
