"""The comparison with other servers in its quick form, and how it judges."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TESTS

sys.path.append(str(TESTS.parent / "benchmarks"))

from bench.judge import conditions, wrong_answers
from bench.prepare import DONE, prepare_work
from bench.record import Record
from bench.results import COMPARED, Condition, write_section
from bench.rows import (
    BARE,
    DYNAMO,
    FP16,
    GPU,
    IMAGES,
    INT8,
    LIMIT,
    OURS,
    OVERLOAD,
    PROTOCOL,
    PROVIDER,
    SEVERAL,
    START,
    TENSORS,
    TTA,
    near_the_fastest,
)
from bench.servers import PeerSettings

SERVING = TESTS.parent / "benchmarks" / "serving.py"

# Measures that fulfil every condition, by row and contestant.
GOOD: dict[tuple[str, str], dict[str, Any]] = {
    (IMAGES, LIMIT): {"per_s": 100},
    (IMAGES, OURS): {"per_s": 90, "p50_ms": 10, "p99_ms": 14},
    (IMAGES, "kserve"): {"per_s": 50},
    (IMAGES, "mlserver"): {"per_s": 40},
    (TENSORS, LIMIT): {"per_s": 100},
    (TENSORS, OURS): {"per_s": 90},
    (TENSORS, DYNAMO): {"per_s": 100},
    (TENSORS, INT8): {"per_s": 160},
    (TENSORS, "kserve"): {"per_s": 50},
    (PROTOCOL, OURS): {"per_s": 3000},
    (PROTOCOL, "kserve"): {"per_s": 1900},
    (TTA, "1 view"): {"p50_ms": 10},
    (TTA, "5 views"): {"p50_ms": 30},
    (OVERLOAD, "peak"): {"per_s": 100},
    (OVERLOAD, "peak, 5 views"): {"per_s": 20},
    (OVERLOAD, "three times, 5 views"): {"per_s": 19},
    (OVERLOAD, "three times"): {"per_s": 95, "rejection_ms": 2, "rss_end": 1e8},
    (START, OURS): {"rss": 2e8, "ready_s": 1.5},
}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "run.jsonl")


def fill(record: Record, changes: dict[tuple[str, str], dict[str, Any]] | None = None) -> Record:
    for (row, contestant), measures in (GOOD | (changes or {})).items():
        for number in range(2):
            record.add(row, contestant, number, measures)
    return record


def failing(record: Record) -> list[Condition]:
    return [one for one in conditions(record) if not one.holds]


def quick(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A run in `folder`, with its work below that."""
    return subprocess.run(
        [sys.executable, str(SERVING), "--quick", "--work", "work", *flags],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
    )


def test_a_quick_run_asks_a_real_server_in_every_row_and_another_one_goes_on(
    tmp_path: Path,
) -> None:
    first = quick(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    for row in (IMAGES, TENSORS, PROTOCOL):
        assert f"{row}  round 1  {OURS}: " in first.stdout
    for row in (IMAGES, TENSORS):
        assert f"{row}  round 1  {BARE}: " in first.stdout
    assert "plan  lite0: " in first.stdout
    for form in ("", f", {SEVERAL}", f", {BARE}"):
        assert f"overload  round 1  three times{form}: " in first.stdout
    again = quick(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "round 1  " not in again.stdout
    assert "plan  " not in again.stdout  # the record keeps the plans that it was measured with
    tables = first.stdout[first.stdout.index("### ") :]
    assert again.stdout.endswith(tables)


def test_peers_cannot_be_measured_quickly(tmp_path: Path) -> None:
    refused = quick(tmp_path, "--peers", "peers")
    assert refused.returncode == 2
    assert "leave out one of --quick and --peers" in refused.stderr
    assert not (tmp_path / "work").exists()


def test_settings_of_a_peer_that_are_near_its_fastest_stay_in_the_race_by_their_medians() -> None:
    """By 121 requests to 118, a trial each once chose those that were slower by a quarter."""
    one, two, far = (PeerSettings(runs=0, threads=n) for n in (1, 2, 4))
    assert near_the_fastest({one: [121.0], two: [117.7], far: [100.0]}) == [one, two]
    assert near_the_fastest({one: [121.0, 115.0, 116.0], two: [117.7, 151.0, 150.0]}) == [two]


def test_a_record_is_read_back_with_its_rounds_in_order(tmp_path: Path) -> None:
    record = Record(tmp_path / "run.jsonl")
    for number in (1, 0):
        record.add(IMAGES, OURS, number, {"per_s": number + 10})
        record.add(IMAGES, LIMIT, number, {"per_s": 20})
    known = Record(tmp_path / "run.jsonl")
    assert known.has(IMAGES, OURS, 1)
    assert not known.has(IMAGES, OURS, 2)
    assert known.ratios(IMAGES, OURS, LIMIT) == [0.5, 0.55]


def test_good_measures_fulfil_every_condition(record: Record) -> None:
    assert failing(fill(record)) == []


@pytest.mark.parametrize(
    ("row", "contestant", "measures", "what"),
    [
        (IMAGES, OURS, {"per_s": 87, "p50_ms": 10, "p99_ms": 14}, "in-process limit"),
        (IMAGES, OURS, {"per_s": 90, "p50_ms": 10, "p99_ms": 16}, "p99 over p50"),
        (PROTOCOL, "mlserver", {"per_s": 2100}, "better peer"),
        (TTA, "5 views", {"p50_ms": 36}, "views"),
        (TENSORS, INT8, {"per_s": 140}, "INT8"),
        (OVERLOAD, "three times", {"per_s": 80, "rejection_ms": 2, "rss_end": 1e8}, "goodput"),
        (OVERLOAD, "three times", {"per_s": 95, "rejection_ms": 12, "rss_end": 1e8}, "rejection"),
        (START, OURS, {"rss": 4e8, "ready_s": 1.5}, "idle"),
        (START, OURS, {"rss": 2e8, "ready_s": 3.5}, "ready"),
    ],
)
def test_a_measure_beyond_its_bound_fails_its_condition(
    record: Record, row: str, contestant: str, measures: dict[str, Any], what: str
) -> None:
    failed = failing(fill(record, {(row, contestant): measures}))
    assert failed
    assert all(what in one.what for one in failed)


def test_memory_that_grows_from_round_to_round_fails(record: Record) -> None:
    fill(record)
    record.add(OVERLOAD, "three times", 2, {"per_s": 95, "rejection_ms": 2, "rss_end": 1.2e8})
    assert [one.what for one in failing(record)] == [
        "overload: memory after the last round over that after the first"
    ]


def test_a_peer_that_its_user_has_rewritten_is_reported_and_fails_nothing(record: Record) -> None:
    better = fill(record, {(IMAGES, "kserve, tuned"): {"per_s": 1000}})
    assert failing(better) == []
    told = [one for one in conditions(better) if one.what.endswith("(kserve, tuned)")]
    assert next(one.measured for one in told).startswith("0.")


def test_a_flood_is_also_compared_by_the_cpu_time_of_the_server_alone(record: Record) -> None:
    """Where the client of a flood takes much of the cores, fewer requests are answered, but each
    second of the server may answer as many as before."""
    peak = {"per_s": 100, "offered_per_s": 100, "server_cpu_ms": 15}
    flood = GOOD[OVERLOAD, "three times"] | {
        "per_s": 80,
        "offered_per_s": 300,
        "server_cpu_ms": 4.5,
    }
    told = conditions(fill(record, {(OVERLOAD, "peak"): peak, (OVERLOAD, "three times"): flood}))
    one_view, five_views = (one for one in told if "server's own CPU time" in one.what)
    assert one_view.measured == "0.89"  # 80 in 1.35 s over 100 in 1.5 s
    assert five_views.measured == "not measured"
    assert one_view.holds
    assert five_views.holds


def test_what_was_not_measured_does_not_hold(record: Record) -> None:
    judged = [one for one in conditions(record) if not one.what.startswith("GPU")]
    assert {one.measured for one in judged} == {"not measured"}
    assert not any(one.holds for one in judged if one.wanted != COMPARED)


def test_a_missing_gpu_is_said_and_fails_nothing(record: Record) -> None:
    told = [one for one in conditions(fill(record)) if one.what.startswith("GPU")]
    assert [(one.measured, one.wanted) for one in told] == [("no GPU here", COMPARED)] * 3


ON_CUDA: dict[tuple[str, str], dict[str, Any]] = {
    (GPU, f"limit of {OURS}, batches of 1"): {"per_s": 500},
    (GPU, f"limit of {OURS}, batches of 8"): {"per_s": 1000},  # its best: what counts
    (GPU, OURS): {"per_s": 900},
    (GPU, f"limit of {FP16}, batches of 8"): {"per_s": 2000},
    (GPU, FP16): {"per_s": 1800},
    (PROVIDER, "lite0"): {"provider": "cuda"},
    (PROVIDER, "lite0-fp16"): {"provider": "cuda"},
}


def one_round(record: Record, changes: dict[tuple[str, str], dict[str, Any]]) -> Record:
    for (row, contestant), measures in changes.items():
        record.add(row, contestant, 0, measures)
    return record


def test_on_a_gpu_throughput_is_judged_by_the_limit_with_its_best_batch_size(
    record: Record,
) -> None:
    assert failing(one_round(fill(record), ON_CUDA)) == []
    told = [one for one in conditions(record) if one.what.startswith("GPU")]
    assert [one.measured for one in told] == ["cuda, cuda", "0.90", "0.90"]


@pytest.mark.parametrize(
    ("row", "contestant", "measures", "what"),
    [
        (GPU, OURS, {"per_s": 800}, "FP32"),
        (GPU, FP16, {"per_s": 1600}, "FP16"),
        (PROVIDER, "lite0", {"provider": "cpu"}, "provider"),
    ],
)
def test_a_miss_on_a_gpu_fails_its_condition(
    record: Record, row: str, contestant: str, measures: dict[str, Any], what: str
) -> None:
    (failed,) = failing(one_round(fill(record), ON_CUDA | {(row, contestant): measures}))
    assert what in failed.what


def test_wrong_answers_and_failed_requests_are_named(record: Record) -> None:
    record.add(IMAGES, OURS, 0, {"outcomes": {"OK": 9}, "worst": 0.2})
    record.add(TENSORS, "kserve", 0, {"outcomes": {"OK": 9, "UNAVAILABLE": 1}, "worst": 0})
    record.add(TENSORS, OURS, 0, {"outcomes": {"OK": 9}, "worst": 1e-6})
    problems = wrong_answers(record)
    assert [problem.split(":")[0] for problem in problems] == [
        "images, unfreeze",
        "tensors, kserve",
    ]


def test_a_section_replaces_itself_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    for title, text in (("Serving", "old"), ("Training", "other"), ("Serving", "### new\n\nx")):
        write_section(path, title, text)
    assert path.read_text() == "# Results\n\n## Serving\n\n### new\n\nx\n\n## Training\n\nother\n"


def test_a_folder_that_an_earlier_version_prepared_is_named(tmp_path: Path):
    (tmp_path / DONE).touch()
    with pytest.raises(SystemExit, match=r"of an earlier version; remove it"):
        prepare_work(tmp_path, quick=True, gpu=False)
