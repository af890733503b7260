"""The comparisons of training: parts, weights, intervals, and going on where one stopped."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TESTS, wait_until
from scipy.stats import ttest_rel

sys.path.append(str(TESTS.parent / "benchmarks"))

from bench.ablations import CHANGES, TITLES
from bench.cells import COMPARED, PROTOCOLS, TRIAL, Cell, block, read_cells, trial_cells
from bench.fitting import reached
from bench.intervals import over_seeds, paired, wilson
from bench.processes import PROC, family
from bench.rounds import speed_verdicts
from bench.runs import Run, RunFailed, Runs, carry_out
from bench.training_tables import beside_deitsch, beside_fastai, document
from bench.trials import ablation_row, ablation_runs
from bench.versus import FASTAI, FULL, QUICK, SMALL_FIRST, UNTIMED, Scale, verdict, versus_runs
from training.reading_settings import read_settings

MEASURES = {
    "accuracy": 0.8,
    "accuracy_tta": 0.8,
    "log_loss": 0.4,
    "log_loss_tta": 0.4,
    "cpu_s": 9.0,
}


SAM = TITLES["SAM"]
MACHINE = {
    "cpu": "A CPU",
    "cores": 2,
    "gpu": "",
    "python": "3",
    "versions": {"torch": "2"},
    "commit": "abc",
}


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return read_cells()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("deitsch", (1968, 656)), ("stratified", (2099, 525)), ("blocked", (2099, 525))],
)
def test_a_protocols_table_has_its_parts(
    name: str, sizes: tuple[int, int], cells: list[Cell], tmp_path: Path
) -> None:
    held_out = PROTOCOLS[name].write_table(cells, 0, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    parts = [row["split"] for row in rows]
    assert (parts.count("train"), parts.count("valid")) == sizes
    assert [row["file"] for row in rows if row["split"] == "valid"] == [
        str(c.file) for c in held_out
    ]
    assert all(Path(row["file"]).is_file() for row in rows)


def test_deitschs_parts_have_the_same_share_of_each_kind(cells: list[Cell]) -> None:
    held_out = PROTOCOLS["deitsch"].hold_out(cells, 1)
    kinds = {(cell.probability, cell.silicon) for cell in cells}
    for kind in kinds:
        places = {n for n, cell in enumerate(cells) if (cell.probability, cell.silicon) == kind}
        assert abs(len(places & held_out) - len(places) / 4) < 1


def test_blocks_are_neighbours_and_together_are_everything(cells: list[Cell]) -> None:
    blocks = [block(cells, fold) for fold in range(5)]
    assert sorted(place for one in blocks for place in one) == list(range(len(cells)))
    assert all(max(one) - min(one) == len(one) - 1 for one in blocks)


def test_what_settings_are_chosen_on_is_none_of_what_is_scored(cells: list[Cell]) -> None:
    scored = {cells[place].file for place in PROTOCOLS["deitsch"].hold_out(cells, 0)}
    chosen_on = trial_cells(cells)
    assert len(chosen_on) == 1968
    assert scored.isdisjoint(cell.file for cell in chosen_on)
    assert len(TRIAL.hold_out(chosen_on, 0)) == 492
    assert COMPARED.hold_out(cells, 0) == COMPARED.hold_out(cells, 1)


def test_doubtful_cells_are_defective_and_count_for_what_the_experts_thought() -> None:
    doubtful = [Cell(Path("cell"), p, "mono") for p in (0, 1 / 3, 2 / 3, 1)]
    functional = np.array([[0.1, 0.9]] * 4, np.float32)
    found = PROTOCOLS["deitsch"].accuracies(doubtful, functional)
    assert found == pytest.approx({"weighted": 1 / 3, "accuracy": 1 / 4})
    found = PROTOCOLS["deitsch"].accuracies(doubtful, 1 - functional)
    assert found == pytest.approx({"weighted": 2 / 3, "accuracy": 3 / 4})


def test_the_weights_of_deitschs_held_out_cells_are_those_of_the_paper(cells: list[Cell]) -> None:
    protocol = PROTOCOLS["deitsch"]
    weights = [protocol.weight(cells[place].probability) for place in protocol.hold_out(cells, 0)]
    assert sum(weights) == pytest.approx(596, abs=2.5)  # 88.42 % is 527 of 596


def test_intervals_are_those_of_the_books() -> None:
    a, b = [0.81, 0.84, 0.86], [0.80, 0.80, 0.85]
    difference, known = paired(a, b), ttest_rel(a, b).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((known.low, known.high))
    found = wilson(0.8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert over_seeds([0.5]).show(1, 100) == "50.0"


def test_a_run_that_is_in_the_file_is_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def measure(run: Run) -> dict[str, float]:
        made.append(run.seed)
        if run.seed == 1:
            raise RunFailed("no luck")
        return {"accuracy": run.seed / 10}

    wanted = [Run("row", "base", seed, {"size": "32"}) for seed in range(3)]
    failed = carry_out(Runs(tmp_path / "runs.jsonl"), wanted, measure)
    assert len(failed) == 1
    carry_out(Runs(tmp_path / "runs.jsonl"), wanted, measure)
    assert made == [0, 1, 2, 1]
    known = Runs(tmp_path / "runs.jsonl")
    assert known.of("row", "base", {"size": "32"}) == {0: {"accuracy": 0}, 2: {"accuracy": 0.2}}
    assert known.of("row", "base", {"size": "64"}) == {}


def test_every_change_is_of_settings_that_exist_and_runs_come_seed_by_seed() -> None:
    wanted = ablation_runs(128, 2, {"recipe": "modern"}, ["SAM", "mixup"])
    assert [(run.name, run.seed) for run in wanted][:3] == [
        ("base", 0),
        ("SAM", 0),
        ("mixup", 0),
    ]
    assert wanted[2].settings["mixup"] == "0.2"
    for change in CHANGES.values():
        read_settings(change)


def test_a_change_that_the_base_has_already_is_not_run() -> None:
    names = ["one cycle in half cosines", "cosine restarts"]
    wanted = ablation_runs(128, 1, {"recipe": "modern"}, names)
    assert [run.name for run in wanted] == ["base", "cosine restarts"]


def test_the_table_has_paired_differences_of_each_base(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs.jsonl")
    for run in ablation_runs(64, 3, {}, ["SAM", "AdamW"]):
        gain = 0.01 * (run.seed + 1) if run.name == "AdamW" else 0
        runs.add(run, MEASURES | {"accuracy": 0.8 + run.seed / 100 + gain}, MACHINE)
    text = document(Runs(tmp_path / "runs.jsonl"))
    assert text.startswith("Python 3, torch 2.")
    assert "All rows were measured on: A CPU, 2 cores." in text
    assert "commit" not in text
    assert "| base | 3 | 81.0 (" in text
    assert "| AdamW, learning rate 1e-3 | 3 | +2.0 (-0.5 to +4.5) |" in text
    assert ablation_row(64) == "ablation at 64"


def test_a_table_says_which_rows_are_from_which_processor_and_commit(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs.jsonl")
    for run in ablation_runs(64, 2, {}, ["SAM", "AdamW", "a shorter mean"]):
        machine = MACHINE
        if run.name in ("AdamW", "a shorter mean"):
            machine = machine | {"commit": "def"}
        if run.name == "AdamW" and run.seed:
            machine = machine | {"cpu": "Another CPU"}
        runs.add(run, MEASURES, machine)
    told = document(runs).splitlines()
    mean = TITLES["a shorter mean"]
    assert f"- A CPU, 2 cores: base; AdamW, learning rate 1e-3 (seed 0); {mean}; {SAM}" in told
    assert "- Another CPU, 2 cores: AdamW, learning rate 1e-3 (seed 1)" in told
    assert any(line.startswith("2 of the 3 changes ran at another commit") for line in told)
    cpu_s = {line.split(" | ")[0]: line.split(" | ")[-1] for line in told if line[:2] == "| "}
    assert cpu_s[f"| {SAM}"] == "+0 (+0 to +0) |"
    assert cpu_s["| AdamW, learning rate 1e-3"] == " |"  # on another processor than the base


def test_a_run_that_was_made_again_replaces_the_earlier_one_and_its_machine(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    for accuracy, commit in ((0.5, "old"), (0.75, "new")):
        again = {"recipe": "modern", "size": "64"} if commit == "new" else {}  # in another order
        run = Run("ablation at 64", "base", 0, again or {"size": "64", "recipe": "modern"})
        other = Runs(tmp_path / f"{commit}.jsonl")  # as of another machine
        other.add(run, MEASURES | {"accuracy": accuracy}, MACHINE | {"commit": commit})
        with path.open("a") as file:
            file.write((tmp_path / f"{commit}.jsonl").read_text())
    runs = Runs(path)
    assert {seed: one["accuracy"] for seed, one in runs.of(run.row, run.name, again).items()} == {
        0: 0.75
    }
    assert [one["commit"] for one in runs.machines] == ["new"]
    assert "| base | 1 | 75.0 |" in document(runs)


def test_titles_are_of_changes_that_exist_and_no_two_are_alike() -> None:
    assert set(TITLES) <= set(CHANGES)
    shown = [TITLES.get(name, name) for name in CHANGES]
    assert len(set(shown)) == len(shown)


def test_the_recipe_of_2018_is_compared_on_the_backbone_of_the_base() -> None:
    (_, change) = ablation_runs(128, 1, {"recipe": "modern"}, ["the recipe of 2018"])
    settings = read_settings(dict(change.settings))
    assert (settings.recipe, settings.backbone) == ("fastai2018", "efficientnet_lite0")
    assert settings.optimizer == "sgd"


def test_the_mean_over_seeds_is_held_against_that_of_deitschs_paper() -> None:
    assert beside_deitsch("one", [0.880, 0.889]).holds
    missed = beside_deitsch("one", [0.880, 0.887])
    assert not missed.holds
    assert (missed.wanted, missed.measured[:6]) == ("at least 88.4", "88.3 (")


def trainings(pid: int) -> list[int]:
    """What it has started, once that is more than a copy of itself."""
    return [one for one in family(pid) if b"--json" in (PROC / str(one) / "cmdline").read_bytes()]


def test_ending_the_comparison_ends_the_training_that_runs(tmp_path: Path) -> None:
    script = TESTS.parent / "benchmarks" / "training.py"
    command = [sys.executable, str(script), "ablate", "--work", str(tmp_path), "--size", "32"]
    quick = {"backbone": "test_efficientnet", "pretrained": "false", "cycles": "0"}
    for key, value in quick.items():
        command += ["--set", f"{key}={value}"]
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        wait_until(lambda: trainings(process.pid))
        begun = trainings(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    wait_until(lambda: not any((PROC / str(pid)).exists() for pid in begun))
    assert not any(tmp_path.glob("run-*"))


def compared(seconds: float, accuracy: float, with_views: float) -> dict[str, Any]:
    return {"fitted_s": seconds, "accuracy": accuracy, "accuracy_tta": with_views}


def test_both_conditions_beside_fastai_are_of_means_over_seeds() -> None:
    fastai = [compared(1700, 0.79, 0.81), compared(1900, 0.81, 0.83)]
    quick = [compared(60, 0.81, 0.79), compared(100, 0.83, 0.80)]
    full = [compared(800, 0.85, 0.88), compared(900, 0.88, 0.90)]
    judged = {one.what: one for one in verdict(fastai, {QUICK: quick, FULL: full})}
    assert all(one.holds for one in judged.values())
    assert judged["full recipe: points over fastai, plain"].measured.startswith("+6.5 (")
    assert judged["head on activations: share of fastai's training time"].measured.startswith(
        "0.044 ("
    )


@pytest.mark.parametrize(
    ("quick", "full", "what"),
    [
        (compared(91, 0.83, 0.79), compared(800, 0.87, 0.89), "head on activations: share of"),
        (compared(80, 0.81, 0.83), compared(800, 0.87, 0.89), "points over fastai, one view over"),
        (
            compared(80, 0.83, 0.79),
            compared(901, 0.87, 0.89),
            "full recipe: share of fastai's training time",
        ),
        (
            compared(80, 0.83, 0.79),
            compared(800, 0.85, 0.89),
            "full recipe: points over fastai, plain",
        ),
        (compared(80, 0.83, 0.79), compared(800, 0.87, 0.87), "points over fastai, with TTA"),
    ],
)
def test_a_miss_beside_fastai_fails_its_condition(
    quick: dict[str, Any], full: dict[str, Any], what: str
) -> None:
    ours = {QUICK: [quick], FULL: [full]}
    failed = [one for one in verdict([compared(1800, 0.80, 0.82)], ours) if not one.holds]
    assert len(failed) == 1
    assert what in failed[0].what


def test_the_spread_of_both_counts_in_their_difference() -> None:
    fastai = [compared(1800, 0.80, 0.82), compared(1800, 0.82, 0.84)]
    full = [compared(800, 0.86, 0.88), compared(900, 0.88, 0.90)]
    judged = {one.what: one for one in verdict(fastai, {FULL: full})}
    assert judged["full recipe: points over fastai, plain"].measured == "+6.0 (-0.1 to +12.1)"
    assert judged["full recipe: share of fastai's training time"].measured.startswith("0.472 (")


def test_fastai_runs_with_our_seeds_if_it_is_timed() -> None:
    timed = versus_runs(3, {}, Scale(), fastai=True)
    assert [run.seed for run in timed if run.name == FASTAI] == [0, 1, 2]
    untimed = versus_runs(3, {}, Scale(), fastai=True, timed=False)
    assert {run.row for run in untimed} == {UNTIMED}
    assert FASTAI not in {run.name for run in untimed}


def test_what_was_not_timed_is_compared_in_points_and_not_in_seconds(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs.jsonl")
    fastai = compared(1800, 0.80, 0.82) | {"seconds": 1810.0, "epochs": []}
    runs.add(Run("beside fastai", FASTAI, 0), fastai, MACHINE)
    for seed in range(2):
        run = Run(UNTIMED, SMALL_FIRST, seed, {"sizes": "128,224"})
        runs.add(run, MEASURES | {"accuracy": 0.86, "accuracy_tta": 0.88}, MACHINE)
    told = beside_fastai(runs).splitlines()
    cells = next(
        line for line in told if line.startswith("| Unfreeze, progressive resizing")
    ).split(" | ")
    assert cells[1] == "2"
    assert [cell.split()[0] for cell in cells[4:6]] == ["+6.0", "+6.0"]


def test_small_images_first_are_a_row_of_their_own_and_the_head_knows_nothing_of_them() -> None:
    told = {"sizes": "128,224", "size_epochs": "14,5", "cycle_len": "19"}
    head, all_of_it = versus_runs(1, told, Scale(), fastai=False)
    assert (head.name, all_of_it.name) == (QUICK, SMALL_FIRST)
    assert head == versus_runs(1, {}, Scale(), fastai=False)[0]
    assert told.items() <= all_of_it.settings.items()


def test_the_time_to_an_accuracy_is_that_of_the_first_epoch_that_has_it() -> None:
    epochs = [
        {"metric_value": value, "seconds": 10.0 * n} for n, value in enumerate((0.7, 0.8, 0.9))
    ]
    assert reached({"epochs": epochs}, 0.75) == 10
    assert reached({"epochs": epochs}, 0.95) is None


def test_speed_that_was_not_measured_does_not_hold_and_a_missing_gpu_is_said(
    tmp_path: Path,
) -> None:
    runs = Runs(tmp_path / "runs.jsonl")
    runs.add(Run("speed", "head epoch", 0), {"ratio": 51.0}, {})
    judged = speed_verdicts(runs)
    assert judged[0].holds
    assert {one.measured for one in judged[1:]} == {"not measured", "no GPU here"}
    assert all(one.holds == (one.measured == "no GPU here") for one in judged[1:])
