"""What a soak measures, and its report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from load.flat import Usage
from load.tally import Tally
from load.verdict import Check


@dataclass
class Measurements:
    """Of a whole soak."""

    ready_s: float
    idle: Usage
    samples: list[Usage] = field(default_factory=list)
    # seconds, answers per second, p50 and p99 in ms, of all good clients since the previous point
    latencies: list[tuple[float, float, float, float]] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    kills: int = 0
    swaps: int = 0
    rollbacks: int = 0
    scrapes: int = 0


def report(measured: Measurements, checks: Sequence[Check]) -> None:
    last = measured.samples[-1]
    print(
        f"\nready in {measured.ready_s:.2f} s, "
        f"idle with two models at {measured.idle.memory_mb:.0f} MB"
    )
    print(f"{last.cpu_s:.0f} s of the server's CPU in {last.at_s:.0f} s\n")
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{'ok  ' if check.holds else 'FAIL'}  {check.name:<{width}}  {check.found}")
    failed = sum(not check.holds for check in checks)
    print(f"\n{failed} of {len(checks)} checks failed" if failed else "\nall checks hold")


def as_json(measured: Measurements, checks: Sequence[Check]) -> dict[str, object]:
    tallies = {kind: tally.as_json() for kind, tally in measured.tallies.items()}
    return asdict(measured) | {"tallies": tallies, "checks": [asdict(check) for check in checks]}
