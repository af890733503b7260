"""The speed of the parts of training, round by round, and its conditions."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from bench.cells import COMPARED as COMPARED_CELLS
from bench.cells import read_cells
from bench.fitting import ROOT, end_with_parent, trained
from bench.intervals import over_seeds
from bench.record import Measures
from bench.results import COMPARED, Condition
from bench.runs import Run, RunFailed, Runs, carry_out
from bench.trials import Place

ROW, GPU, SOLAR = "speed", "gpu", "solar cells"
# oneDNN and ATen as on a CPU without bfloat16 or AVX-512
NO_BF16 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
BACKBONES = ("efficientnet_lite0", "resnet34")
RECIPES = ("fastai2018", "modern")
PARTS = ["head epoch", *(f"lesson head, {one}" for one in RECIPES)]
PARTS += [f"forward, {one}" for one in BACKBONES]
CACHED_OVER_UNCACHED, LESSON_S, FORWARD, FORWARD_NO_BF16 = 50, 5, 2.5, 1
GPU_SHARE, GPU_SOLAR_S = 0.85, 60


def speed_runs(rounds: int, base: Mapping[str, str], *, gpu: bool) -> list[Run]:
    """Every part once per round; the forward passes also without bfloat16."""
    runs = []
    for number in range(rounds):
        for part in PARTS:
            runs.append(Run(ROW, part, number))
            if part.startswith("forward"):
                runs.append(Run(ROW, part, number, NO_BF16))
        if gpu:
            runs += [Run(ROW, GPU, number), Run(ROW, SOLAR, number, dict(base))]
    return runs


def measure_speed(place: Place, wanted: list[Run]) -> list[str]:
    """Makes all runs; returns a line for each that failed."""
    table = place.work / "tables" / "compared-1.csv"
    COMPARED_CELLS.write_table(read_cells(), 0, table)

    def measure(run: Run) -> Measures:
        if run.name != SOLAR:
            return part(run)
        with trained(table, run.settings, run.seed, work=place.work, cache=None) as one:
            return one.measures

    return carry_out(place.runs, wanted, measure)


def part(run: Run) -> Measures:
    """Runs a part in a process of its own, with the run's settings in its environment."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))
    ran = subprocess.run(
        [sys.executable, "-m", "bench.speed", run.name],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths} | dict(run.settings),
        check=False,
        preexec_fn=end_with_parent,
    )
    if ran.returncode:
        raise RunFailed(ran.stderr[-600:].strip())
    measures: Measures = json.loads(ran.stdout.splitlines()[-1])
    return measures


def speed_verdicts(runs: Runs) -> list[Condition]:
    """Judges means over rounds; what was not measured does not hold."""
    cached = "head epoch on cached activations: speed-up over running the frozen backbone"
    judged = [_judge(runs, "head epoch", {}, "ratio", cached, CACHED_OVER_UNCACHED)]
    for recipe in RECIPES:
        what = f"three head epochs on 23,000 activations of a ResNet-34, {recipe}, s"
        judged.append(_judge(runs, f"lesson head, {recipe}", {}, "seconds", what, LESSON_S, -1))
    for backbone in BACKBONES:
        what = f"computing activations of {backbone}: speed-up over plain eager float32"
        name = f"forward, {backbone}"
        bf16 = any(one["bf16"] for one in runs.of(ROW, name, {}).values())
        judged.append(_judge(runs, name, {}, "ratio", what, FORWARD if bf16 else FORWARD_NO_BF16))
        what += ", without bfloat16 (AVX2)"
        judged.append(_judge(runs, name, NO_BF16, "ratio", what, FORWARD_NO_BF16))
    return [*judged, *gpu_verdicts(runs)]


def gpu_verdicts(runs: Runs) -> list[Condition]:
    """Reported, and not judged, if there is no GPU."""
    share = "ResNet-34 at 224 in bf16 on a GPU: throughput over forward and backward alone"
    whole = "solar cells on a GPU: from the start of the process to the sealed bundle, s"
    if not runs.of(ROW, GPU, {}):
        return [Condition(what, COMPARED, "no GPU here", holds=True) for what in (share, whole)]
    judged = [_judge(runs, GPU, {}, "ratio", share, GPU_SHARE)]
    for name, settings, _ in runs.series(ROW):
        if name == SOLAR:
            judged.append(_judge(runs, SOLAR, settings, "seconds", whole, GPU_SOLAR_S, -1))
    return judged


def _judge(
    runs: Runs,
    name: str,
    settings: Mapping[str, str],
    measure: str,
    what: str,
    bound: float,
    sign: int = 1,
) -> Condition:
    """At least the bound; with `sign` -1 at most."""
    values = [one[measure] for one in runs.of(ROW, name, settings).values()]
    wanted = f"at {'least' if sign > 0 else 'most'} {bound:g}"
    if not values:
        return Condition(what, wanted, "not measured", holds=False)
    mean = over_seeds(values)
    return Condition(what, wanted, mean.show(2), sign * mean.mean >= sign * bound)
