"""fastai and Unfreeze on the same solar cells, from the start of the process to the last step."""

import json
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.ablations import QUIET
from bench.cells import COMPARED, read_cells
from bench.fitting import end_with_parent, reached, trained
from bench.intervals import Interval, apart, over_seeds
from bench.record import Measures
from bench.results import COMPARED as FOR_COMPARISON
from bench.results import Condition
from bench.runs import Run, RunFailed, carry_out
from bench.trials import Place

ROW = "beside fastai"
UNTIMED = "beside fastai, not timed"  # the same, while other work shared the cores
FASTAI, QUICK, FULL = "fastai", "Unfreeze, the head on activations", "Unfreeze, all of it"
SMALL_FIRST = "Unfreeze, small images first"  # with progressive resizing, if `sizes` is set
TITLES = {  # how the tables name them; the record keeps the names above
    QUICK: "Unfreeze, head on activations",
    FULL: "Unfreeze, full recipe",
    SMALL_FIRST: "Unfreeze, progressive resizing",
}
# For the frozen head, timing ends with the training on cached activations.
HEAD_ALONE = {"augmented_epochs": "0", "cycles": "0"}
UNFROZEN = ("sizes", "size_epochs", "cycle_len")  # settings that do not apply to the head alone
SCRIPT = Path(__file__).parents[1] / "peers" / "fastai_cells.py"
WANTED = {  # at least so many points over fastai, in at most this share of its time
    QUICK: (0.0, 0.05),
    FULL: (6.0, 0.5),
    SMALL_FIRST: (6.0, 0.5),
}
PLAIN, VIEWS = "accuracy", "accuracy_tta"
SAME_WAY = {"plain": (PLAIN, PLAIN), "with TTA": (VIEWS, VIEWS)}  # ours over fastai's
# The head has learnt from no views, and a bundle answers by one unless it is asked for more: what
# it is to reach is the better of fastai's two answers.
BY_ONE = {"plain": (PLAIN, PLAIN), "one view over its `tta()`": (PLAIN, VIEWS)}
JUDGED = {QUICK: BY_ONE, FULL: SAME_WAY, SMALL_FIRST: SAME_WAY}


@dataclass(frozen=True)
class Scale:
    """How much of it to run; the defaults are the real comparison."""

    size: int = 224
    frozen: int = 3  # epochs of fastai
    unfrozen: int = 3
    every: int = 1  # of the cells, one in so many

    @property
    def settings(self) -> dict[str, str]:
        """fastai's settings as text."""
        return {name: str(value) for name, value in vars(self).items()}


def versus_runs(
    seeds: int, base: Mapping[str, str], scale: Scale, *, fastai: bool, timed: bool = True
) -> list[Run]:
    """Our runs, and fastai's with the same seeds if they are to be timed."""
    row = (ROW if timed else UNTIMED) if scale == Scale() else f"{ROW}, rehearsed"
    settings = {"size": str(scale.size)} | QUIET | dict(base)
    head = {name: value for name, value in settings.items() if name not in UNFROZEN} | HEAD_ALONE
    full = SMALL_FIRST if "sizes" in settings else FULL
    ours = [Run(row, QUICK, seed, head) for seed in range(seeds)]
    ours += [Run(row, full, seed, settings) for seed in range(seeds)]
    theirs = range(seeds if fastai and timed else 0)
    return ours + [Run(row, FASTAI, seed, scale.settings) for seed in theirs]


def compare(place: Place, wanted: list[Run], scale: Scale, peers: Path | None) -> list[str]:
    """Makes all runs, each with a cold cache; returns a line for each that failed."""
    table = place.work / "tables" / f"compared-{scale.every}.csv"
    COMPARED.write_table(read_cells()[:: scale.every], 0, table)

    def measure(run: Run) -> Measures:
        if run.name == FASTAI:
            assert peers is not None
            return ask_fastai(peers / FASTAI / "bin" / "python", table, run.seed, scale)
        with trained(table, run.settings, run.seed, work=place.work, cache=None) as one:
            return one.measures

    return carry_out(place.runs, wanted, measure)


def ask_fastai(python: Path, table: Path, seed: int, scale: Scale) -> Measures:
    """fastai's epochs, seconds and accuracies, as measured by itself."""
    command = [str(python), str(SCRIPT), str(table), "--seed", str(seed), "--size", str(scale.size)]
    command += ["--frozen", str(scale.frozen), "--unfrozen", str(scale.unfrozen)]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=end_with_parent
    )
    if ran.returncode:
        raise RunFailed(ran.stderr[-600:].strip())
    measures: Measures = json.loads(ran.stdout.splitlines()[-1])
    return measures


def verdict(fastai: Sequence[Measures], ours: Mapping[str, Sequence[Measures]]) -> list[Condition]:
    """The conditions on the means over seeds, of fastai's runs and of ours by their name."""
    judged = []
    its_s = mean_of(fastai, "fitted_s")
    for name, (points, share) in WANTED.items():
        runs, what = ours.get(name, []), TITLES[name].removeprefix("Unfreeze, ")
        if not runs:
            continue
        for how, (our_way, its_way) in (JUDGED[name] | SAME_WAY).items():
            gain = points_over(fastai, runs, our_way, its_way)
            title = f"{what}: points over fastai, {how}"
            judged.append(
                _at_least(title, gain, points, 1)
                if how in JUDGED[name]
                else Condition(title, FOR_COMPARISON, gain.show(1, sign=True), holds=True)
            )
        shares = [one["fitted_s"] / its_s for one in runs]
        judged.append(_at_most(f"{what}: share of fastai's training time", shares, share))
    return judged


def points_over(
    fastai: Sequence[Measures], ours: Sequence[Measures], our_way: str, its_way: str
) -> Interval:
    """How many points our mean is above fastai's, each with its own way of answering."""
    return apart([100 * one[our_way] for one in ours], [100 * one[its_way] for one in fastai])


def first_as_good(ours: Measures, fastai: Sequence[Measures]) -> float | None:
    """Seconds from the start until an epoch was as good as fastai was at its end, in the mean of
    its runs, with one view."""
    return reached(ours, mean_of(fastai, PLAIN))


def mean_of(runs: Sequence[Measures], measure: str) -> float:
    """A measure's mean over runs."""
    return statistics.fmean(one[measure] for one in runs)


def _at_least(what: str, mean: Interval, bound: float, digits: int) -> Condition:
    return Condition(what, f"at least {bound:g}", mean.show(digits, sign=True), mean.mean >= bound)


def _at_most(what: str, values: list[float], bound: float) -> Condition:
    mean = over_seeds(values)
    return Condition(what, f"at most {bound:g}", mean.show(3), mean.mean <= bound)
