"""The checks of a soak."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from load.flat import Growth, Usage, growth
from load.tally import Tally, total
from load.truth import BAD, GOOD

# How much each may grow between the end of the warm-up and the end of the load.
# A tenth of the median is allowed if that is more.
MAX_SHARE = 0.1
MAX_GROWTH = {"memory": 16.0, "threads": 4.0, "files": 4.0}  # MB, threads, open files
# After this long all pools are full and single samples have no weight: any growth is a leak.
LONG_S = 600.0
MAX_LONG_GROWTH_MB = 6.0
MAX_FILES_LEFT = 8  # more open files than before the load, a while after it
DECODED = "unfreeze_decode_seconds_count"
NONE_FAILED = "some answered, none failed"
AS_EXPECTED = "every one refused as it should be"
SAME_COUNT = "the same count by server and clients"
EXIT_0 = "exit code 0 after SIGTERM"
LEVELS = {"info", "debug", "warning"}  # what a healthy server's log may hold


@dataclass(frozen=True)
class Check:
    """A condition: what was wanted, what was found, and whether it holds."""

    name: str
    holds: bool
    found: str
    wanted: str


def check_good(tallies: dict[str, Tally], kinds: Iterable[str]) -> list[Check]:
    """Every kind of good client got answers, and none of their requests failed."""
    checks = []
    for kind in kinds:
        tally = tallies.get(kind, Tally())
        found = f"{tally.answered} answered, {tally.failed} failed {_problems(tally)}"
        checks.append(
            Check(f"good: {kind}", tally.answered > 0 and not tally.failed, found, NONE_FAILED)
        )
    return checks


def check_bad(tallies: dict[str, Tally], kinds: Iterable[str]) -> list[Check]:
    """Everything that bad clients did was refused in the right way."""
    checks = []
    for kind in kinds:
        tally = tallies.get(kind, Tally())
        found = f"{tally.answered} times, {tally.failed} not as expected {_problems(tally)}"
        checks.append(
            Check(f"bad: {kind}", tally.answered > 0 and not tally.failed, found, AS_EXPECTED)
        )
    return checks


def _problems(tally: Tally) -> str:
    return "; ".join(dict.fromkeys(tally.problems))


def check_flat(samples: Sequence[Usage]) -> list[Check]:
    """Memory, threads and open files do not grow."""
    times_s = [one.at_s for one in samples]
    grown: dict[str, tuple[str, Growth]] = {
        "memory": (" MB", growth(times_s, [one.memory_mb for one in samples])),
        "threads": ("", growth(times_s, [one.threads for one in samples])),
        "files": ("", growth(times_s, [one.files for one in samples])),
    }
    seconds = times_s[-1] - times_s[0]
    return [
        Check(
            f"{what} flat",
            one.grown <= (limit := _most(what, one.usual, seconds)),
            f"{one.grown:+.1f}{unit} after warm-up; "
            f"median {one.usual:.0f}{unit}, highest {one.highest:.0f}{unit}",
            f"growth of at most {limit:.3g}{unit}",
        )
        for what, (unit, one) in grown.items()
    ]


def _most(what: str, usual: float, seconds: float) -> float:
    """How much it may grow in a run of this length."""
    if what == "memory" and seconds >= LONG_S:
        return MAX_LONG_GROWTH_MB
    return max(MAX_GROWTH[what], MAX_SHARE * usual)


def check_returned(before: Usage, after: Usage) -> Check:
    """Closed connections hold no file descriptors."""
    found = f"{before.files} open before the load and {after.files} after it"
    wanted = f"at most {MAX_FILES_LEFT} more open files after the load than before it"
    return Check("files returned", after.files <= before.files + MAX_FILES_LEFT, found, wanted)


def check_log(events: Sequence[dict[str, object]]) -> Check:
    """Nothing went wrong inside the server."""
    bad = [one for one in events if one.get("level") not in LEVELS or "trace" in one]
    shown = "; ".join(dict.fromkeys(str(one)[:600] for one in bad[:5]))
    found = f"{len(events)} lines, {len(bad)} with an error {shown}"
    return Check("log free of errors", bool(events) and not bad, found, "no error or traceback")


def check_metrics(
    page: str, tallies: dict[str, Tally], good: Iterable[str], n_swaps: int
) -> list[Check]:
    """The server counted what its clients counted."""
    # by model, because the series of a version disappear with it
    decoded = sum(v for labels, v in series(page, DECODED) if labels["model"] == GOOD)
    answered = total(tallies[kind] for kind in good if kind in tallies).decoded
    refused = sum(
        value
        for labels, value in series(page, "unfreeze_images_total")
        if labels["model"] == BAD and labels["outcome"] == "bad_image"
    )
    said = sum(tally.bad_images for tally in tallies.values())
    swaps = sum(v for labels, v in series(page, "unfreeze_swaps_total") if labels["model"] == GOOD)
    started = sum(value for _, value in series(page, "grpc_server_started_total"))
    handled = sum(value for _, value in series(page, "grpc_server_handled_total"))
    return [
        Check(
            "images counted",
            decoded == answered > 0,
            f"server {decoded:.0f}, clients {answered}",
            SAME_COUNT,
        ),
        Check(
            "bad images counted",
            refused == said,
            f"server {refused:.0f}, clients {said}",
            SAME_COUNT,
        ),
        # the first version went live at the start
        Check(
            "swaps counted",
            swaps == n_swaps + 1,
            f"server {swaps:.0f}, client {n_swaps} + 1",
            SAME_COUNT,
        ),
        Check(
            "calls ended",
            started == handled > 0,
            f"{started:.0f} started and {handled:.0f} ended",
            "every call that started",
        ),
    ]


def series(page: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of every series of a metric in a scrape."""
    lines = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", page, re.MULTILINE)
    return [
        (dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)), float(value))
        for labels, value in lines
    ]
