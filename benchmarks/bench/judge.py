"""The conditions of the serving benchmark, and whether they hold."""

import statistics
from collections.abc import Sequence

from bench.record import Record, spread
from bench.results import COMPARED, Condition
from bench.rows import (
    BARE,
    BUNDLES_GPU,
    DYNAMO,
    FP16,
    GPU,
    IMAGES,
    IN_FLIGHT_GPU,
    INT8,
    LIMIT,
    LIMIT_SIMPLIFIED,
    OURS,
    OVERLOAD,
    OVERLOAD_TIMES,
    PROTOCOL,
    PROVIDER,
    SETTINGS,
    SEVERAL,
    START,
    TENSORS,
    TTA,
    TTA_VIEWS,
    overload_names,
)

TOLERANCE = 1e-3  # of any probability
GPU_SHARE = 0.85  # of the in-process limit with its best batch size
SAME_MEMORY = 1.05  # tolerance for what allocators happen to keep


def conditions(record: Record) -> list[Condition]:
    """All conditions, in the order of the rows; one that was not measured does not hold."""
    return [
        _at_least(
            "images: throughput over that of the in-process limit",
            record.ratios(IMAGES, OURS, LIMIT),
            0.88,
        ),
        _for_comparison(
            "images: throughput over that of the in-process limit of the simplified graph",
            record.ratios(IMAGES, OURS, LIMIT_SIMPLIFIED),
        ),
        _for_comparison(
            "images: throughput over that of a bare server", record.ratios(IMAGES, OURS, BARE)
        ),
        *_over_peers(record, IMAGES, 1.45),
        _at_least(
            "tensors: throughput over that of the in-process limit",
            record.ratios(TENSORS, OURS, LIMIT),
            0.85,
        ),
        _for_comparison(
            "tensors: throughput over that of the in-process limit of the simplified graph",
            record.ratios(TENSORS, OURS, LIMIT_SIMPLIFIED),
        ),
        _for_comparison(
            "tensors: throughput over that of a bare server", record.ratios(TENSORS, OURS, BARE)
        ),
        *_over_peers(record, TENSORS, 1.4),
        *_over_peers(record, PROTOCOL, 1.5),
        _at_most("images: p99 over p50", _p99_over_p50(record), 1.5),
        _at_most(
            f"TTA: p50 of {TTA_VIEWS} views over that of 1 view",
            record.ratios(TTA, f"{TTA_VIEWS} views", "1 view", "p50_ms"),
            3.5,
        ),
        _at_least(
            "tensors: throughput of INT8 over FP32, same export",
            record.ratios(TENSORS, INT8, DYNAMO),
            1.5,
        ),
        *_goodput(record),
        _at_most(
            "overload: median time to a rejection, ms",
            record.values(OVERLOAD, "three times", "rejection_ms"),
            10,
        ),
        _at_most(
            "overload: memory after the last round over that after the first",
            _growth(record),
            SAME_MEMORY,
        ),
        _at_most(
            "start: resident memory of an idle server, MB",
            [one / 1e6 for one in record.values(START, OURS, "rss")],
            300,
        ),
        _at_most("start: from exec to ready, s", record.values(START, OURS, "ready_s"), 3),
        *_gpu(record),
    ]


def better_peer(record: Record, row: str, *, tuned: bool) -> str | None:
    """The one with the higher median throughput, among all or among those as documented."""
    found = {
        name: statistics.median(values)
        for name in SETTINGS
        if (values := record.values(row, name, "per_s")) and (tuned or "," not in name)
    }
    return max(found, key=lambda name: found[name]) if found else None


def wrong_answers(record: Record) -> list[str]:
    """Contestants whose answers were not the expected ones, or that failed requests."""
    problems = []
    for row in (IMAGES, TENSORS, PROTOCOL, TTA, GPU):
        for name in record.contestants(row):
            for measures in record.rounds(row, name):
                failed = set(measures.get("outcomes", {})) - {"OK"}
                exact = row not in (TTA, GPU) and name not in (INT8, FP16)
                if failed or (exact and measures.get("worst", 0) > TOLERANCE):
                    problems.append(f"{row}, {name}: {measures['outcomes']}, {measures['worst']}")
    return problems


def limit_of(record: Record, row: str, name: str) -> str | None:
    """The in-process limit to compare a contestant with; on a GPU, that of its best batch size."""
    start = f"{LIMIT} of {name}, batches of "  # in full: "unfreeze, fp16" begins like "unfreeze"
    own = [LIMIT, *(one for one in record.contestants(row) if one.startswith(start))]
    found = [one for one in own if record.rounds(row, one)]
    if name.startswith(LIMIT) or not found:
        return None
    return max(found, key=lambda one: statistics.median(record.values(row, one, "per_s")))


def _over_peers(record: Record, row: str, wanted: float) -> list[Condition]:
    """A condition against the peers as in their documentation; a peer whose user has tuned its code
    is reported, without a condition.
    """
    judged = []
    for tuned in (False, True):
        peer = better_peer(record, row, tuned=tuned)
        form = "tuned or not" if tuned else "as documented"
        what = f"{row}: throughput over that of the better peer, {form} ({peer})"
        ratios = record.ratios(row, OURS, peer) if peer else []
        judged.append(_for_comparison(what, ratios) if tuned else _at_least(what, ratios, wanted))
    return judged


def _goodput(record: Record) -> list[Condition]:
    """Conditions for ours with one model; the rest explains them."""
    judged = []
    for form in ("", f"{TTA_VIEWS} views"):
        peak, flood = overload_names(form)
        suffix = f", {form}" if form else ""
        what = f"overload: goodput at {OVERLOAD_TIMES} times the peak over the peak{suffix}"
        judged.append(_at_least(what, record.ratios(OVERLOAD, flood, peak), 0.9))
        # the client takes a part of the cores, and a larger one in a flood
        what = f"overload: the same per second of the server's own CPU time{suffix}"
        judged.append(_for_comparison(what, _by_server_cpu(record, flood, peak)))
    forms = {
        SEVERAL: f"of {SEVERAL}",
        BARE: f"of a {BARE} with that limit",
        **{peer: f"of {peer}, over its own peak" for peer in SETTINGS},
    }
    for form, whose in forms.items():
        peak, flood = overload_names(form)
        if ratios := record.ratios(OVERLOAD, flood, peak):
            judged.append(_for_comparison(f"overload: the same {whose}", ratios))
    return judged


def _by_server_cpu(record: Record, flood: str, peak: str) -> list[float]:
    """Answers per CPU second of the server, in a flood over those at the peak, round by round."""

    def answers(name: str) -> list[float]:
        return [
            one["per_s"] / (one["offered_per_s"] * one["server_cpu_ms"])
            for one in record.rounds(OVERLOAD, name)
            if one.get("server_cpu_ms")
        ]

    return [a / b for a, b in zip(answers(flood), answers(peak), strict=False)]


def _gpu(record: Record) -> list[Condition]:
    """Reported, and not judged, if there is no GPU."""
    active = "GPU: execution provider of every model"
    over = f"throughput over that of the in-process limit, {IN_FLIGHT_GPU} in flight"
    shares = {
        name: f"GPU: {precision} {over}" for name, precision in ((OURS, "FP32"), (FP16, "FP16"))
    }
    if not record.contestants(GPU):
        whats = (active, *shares.values())
        return [Condition(what, COMPARED, "no GPU here", holds=True) for what in whats]
    found = [
        one["provider"]
        for bundle in BUNDLES_GPU.values()
        for one in record.rounds(PROVIDER, bundle)
    ]
    holds = found == ["cuda"] * len(BUNDLES_GPU)
    judged = [Condition(active, "cuda", ", ".join(found) or "not measured", holds)]
    for name, what in shares.items():
        limit = limit_of(record, GPU, name)
        ratios = record.ratios(GPU, name, limit) if limit else []
        judged.append(_at_least(what, ratios, GPU_SHARE))
    return judged


def _p99_over_p50(record: Record) -> list[float]:
    return [one["p99_ms"] / one["p50_ms"] for one in record.rounds(IMAGES, OURS)]


def _growth(record: Record) -> list[float]:
    first, *others = record.values(OVERLOAD, "three times", "rss_end") or [0.0]
    return [others[-1] / first] if others else []


def _at_least(what: str, values: Sequence[float], bound: float) -> Condition:
    holds = bool(values) and statistics.median(values) >= bound
    return Condition(what, f"at least {bound:g}", _shown(values), holds)


def _for_comparison(what: str, values: Sequence[float]) -> Condition:
    """Reported only, without a condition."""
    return Condition(what, COMPARED, _shown(values), True)


def _at_most(what: str, values: Sequence[float], bound: float) -> Condition:
    holds = bool(values) and statistics.median(values) <= bound
    return Condition(what, f"at most {bound:g}", _shown(values), holds)


def _shown(values: Sequence[float]) -> str:
    return spread(values).show(2) if values else "not measured"
