"""The hot swaps in their shortest form, how they judge latency, and what they write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TESTS

sys.path.append(str(TESTS.parent / "benchmarks"))

import analyzer
from bench.results import write_section
from load.loads import Bystanders, Loads, check_latency
from load.section import section
from load.tally import Tally
from load.verdict import Check

SWAPS = TESTS.parent / "benchmarks" / "swaps.py"
LATENCY = "another model: p"


def test_swaps_and_rollbacks_lose_no_request_and_the_results_are_written(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    flags = ["--swaps", "9", "--rollbacks", "3", "--seconds-before", "1", "--write", str(results)]
    done = subprocess.run(
        [sys.executable, str(SWAPS), *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
    )
    assert results.exists(), done.stdout + done.stderr
    lines = results.read_text().splitlines()
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    rows = {name: cells for name, *cells in table if len(cells) == 3}
    assert lines[:3] == ["# Results", "", "## Hot swaps"]
    assert rows["swapped"][:2] == ["9 swaps, 3 rollbacks"] * 2
    missed = {name for name, (*_, verdict) in rows.items() if "fail" in verdict}
    assert all(name.startswith(LATENCY) for name in missed), done.stdout  # a busy machine
    assert sum(name.startswith(LATENCY) for name in rows) == 2


def answered(ms: float, n: int = 100) -> Tally:
    tally = Tally()
    for _ in range(n):
        tally.add_answer(ms / 1000, {1: 1}, 0, True)
    return tally


@pytest.mark.parametrize(
    ("during", "holds"),
    [(answered(10), [True, True]), (answered(25), [False, True]), (answered(50), [False, False])],
    ids=["as before", "two and a half times", "five times"],
)
def test_latency_during_loads_is_held_against_that_before(during: Tally, holds: list[bool]) -> None:
    assert [check.holds for check in check_latency(answered(10), during)] == holds


def test_latency_that_was_not_measured_does_not_hold() -> None:
    for before, during in ((Tally(), answered(10)), (answered(10), Tally())):
        checks = check_latency(before, during)
        assert [(check.holds, check.found) for check in checks] == [(False, "not measured")] * 2


def test_a_request_counts_for_a_load_if_they_were_at_the_same_time() -> None:
    loads = Loads()
    bystanders = Bystanders(loads)
    assert bystanders.tally(loads.ended) is bystanders.before
    began_before = loads.ended
    with loads.one():
        began_during = loads.ended
        assert bystanders.tally(began_before) is bystanders.during
    assert bystanders.tally(began_before) is bystanders.during  # the load was within the request
    assert bystanders.tally(began_during) is bystanders.during
    assert bystanders.tally(loads.ended) is bystanders.between


def test_what_a_check_found_stays_in_its_cell() -> None:
    text = section("What was run.", [Check("one", False, "a | b\nc", "nothing")])
    assert "| one | nothing | a \\| b c | **fail** |" in text


def test_sections_of_several_programs_stay_beside_one_another(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    for title in ("Soak", "Hot swaps", "perf_analyzer", "Soak"):
        write_section(path, title, section(f"What {title} ran.", [Check("one", True, "1", "1")]))
    text = path.read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Soak",
        "## Hot swaps",
        "## perf_analyzer",
    ]
    assert text.count("What Soak ran.") == 1


@pytest.mark.parametrize(("failed", "verdict"), [(0, "pass"), (2, "**fail**")])
def test_the_analyzers_section_has_its_table_and_the_failed_requests(
    failed: int, verdict: str
) -> None:
    text = analyzer.document(None, "| sent |", failed)
    assert f"| failed requests | 0, as counted by the server | {failed} | {verdict} |" in text
    assert text.endswith("| sent |")
