"""What the loads of one model cost the requests to another one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from load.tally import Tally
from load.verdict import Check

# A load computes on as many cores as the requests do, so a fair scheduler leaves requests half of
# the CPU and doubles their latency; the slowest may wait for a time slice of the load as well.
MOST_TIMES = {0.5: 2.0, 0.99: 3.0}  # quantile -> during loads over before


@dataclass
class Loads:
    """How many loads have begun and ended; shared by those who load and those who measure."""

    begun: int = 0
    ended: int = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        self.begun += 1
        try:
            yield
        finally:
            self.ended += 1


@dataclass
class Bystanders:
    """The answers of a model that is not loaded anew, before the first load and during loads."""

    loads: Loads
    before: Tally = field(default_factory=Tally)
    during: Tally = field(default_factory=Tally)
    between: Tally = field(default_factory=Tally)  # after the first load, and during none

    def tally(self, ended_at_start: int) -> Tally:
        """Where to count a request that ends now; `ended_at_start`: of the loads, when it began."""
        if not self.loads.begun:
            return self.before
        return self.during if self.loads.begun > ended_at_start else self.between


def check_latency(before: Tally, during: Tally) -> list[Check]:
    """Loads hardly delay the requests to another model; what was not measured does not hold."""
    checks = []
    for share, most in MOST_TIMES.items():
        quiet_ms, loading_ms = before.latency_ms(share), during.latency_ms(share)
        holds = bool(before.answered and during.answered) and loading_ms <= most * quiet_ms
        found = (
            f"{loading_ms / quiet_ms:.2f} ({loading_ms:.1f} ms in {during.answered} requests over "
            f"{quiet_ms:.1f} ms in {before.answered})"
            if before.answered and during.answered
            else "not measured"
        )
        name = f"another model: p{100 * share:g} during loads over that before"
        checks.append(Check(name, holds, found, f"at most {most:g}"))
    return checks
