"""How far predictions can be trusted: calibration and prediction sets, fitted on images set apart
for it and measured on the held-out ones. Without such images, sets are cross-fitted within the
held-out ones: nothing was chosen by these, and no half of them is measured with its own quantiles.

The temperature and the sets' quantiles are fitted on the same images. Strictly, the quantiles need
images of their own; but a single fitted number shifts them less than halving the images would.
"""

from dataclasses import dataclass

import torch

from registry.bundle import Task
from registry.images import Float32Array
from training.bench import Bench
from training.data.inner_split import LEAST
from training.evaluation.calibration import (
    Reliability,
    at_temperature,
    divide_logits,
    fit_temperature,
    measure_reliability,
)
from training.evaluation.conformal import (
    CROSS_LEAST,
    Abstention,
    Quantile,
    SetFigures,
    cross_fit_sets,
    fit_quantiles,
    least_confidence,
    least_probabilities,
    measure_abstention,
    measure_sets,
)
from training.evaluation.evaluate import Evaluation, answer_logits
from training.network.classifier import to_probabilities


@dataclass(frozen=True)
class Calibrated:
    """What was fitted on images that are neither trained on nor held out."""

    images: int
    temperature: float
    quantiles: tuple[Quantile, ...]  # of single-label answers
    alone: float | None  # confidence from which on a single label can be given


@dataclass(frozen=True)
class Trust:
    """How far the model to be served can be trusted, measured on the held-out images."""

    calibrated: Calibrated | None
    before: Reliability | None  # without calibration
    after: Reliability
    sets: tuple[SetFigures, ...]
    sets_from: str  # which images they are fitted and measured on, or why there are none
    abstention: Abstention | None


def calibrate(bench: Bench) -> Calibrated | None:
    """Temperature scaling: fits the temperature and divides the network's logits by it. None: there
    are too few images, and the network is left as it was."""
    bench.stages.begin("calibrate", len(bench.calibration_rows))
    if not len(bench.calibration_rows):
        bench.note("calibration", f"left out: it needs {LEAST} images; raise calibrate_share")
        return None
    task, pixels = bench.dataset.task, bench.decoded.pixels[bench.calibration_rows]
    targets = bench.dataset.targets[bench.calibration_rows]
    logits = answer_logits(bench.network, pixels, bench.stages.advance)
    temperature = fit_temperature(logits, torch.from_numpy(targets), task)
    divide_logits(bench.network, temperature)
    bench.note("calibration", f"temperature {temperature:.3f}, by {len(pixels)} images set apart")
    if task == "multi":
        return Calibrated(len(pixels), temperature, (), None)
    answers = to_probabilities(logits / temperature, task).numpy()
    quantiles = fit_quantiles(answers, targets, bench.settings.seed)
    return Calibrated(len(pixels), temperature, quantiles, least_confidence(answers, targets))


def measure_trust(bench: Bench, calibrated: Calibrated | None, evaluation: Evaluation) -> Trust:
    """Measures the predictions with one view, which are those of the model to be served."""
    task, answers = bench.dataset.task, evaluation.plain
    targets = bench.dataset.targets[evaluation.rows]
    after = measure_reliability(answers, targets, task)
    sets, sets_from = _measure_sets(calibrated, answers, targets, task, bench.settings.seed)
    if calibrated is None:
        return Trust(None, None, after, sets, sets_from, None)
    raw = at_temperature(answers, 1 / calibrated.temperature, task)
    before = measure_reliability(raw, targets, task)
    alone = None if task == "multi" else measure_abstention(calibrated.alone, answers, targets)
    return Trust(calibrated, before, after, sets, sets_from, alone)


def _measure_sets(
    calibrated: Calibrated | None,
    answers: Float32Array,
    targets: Float32Array,
    task: Task,
    seed: int,
) -> tuple[tuple[SetFigures, ...], str]:
    """The figures, and in words which images they are of, or why there are none."""
    n = len(answers)
    if task == "multi":
        return (), ""
    if calibrated:
        return measure_sets(calibrated.quantiles, answers, targets, seed), (
            f"Fitted on {calibrated.images} images that are neither trained on nor held out, and "
            f"measured on the {n} held-out ones."
        )
    if sets := cross_fit_sets(answers, targets, seed):
        return sets, (
            f"Cross-fitted within the {n} held-out images: each half of them is measured with the "
            "quantiles of the other one."
        )
    return (), (
        f"Left out: without calibrate=true they need {CROSS_LEAST} held-out images, and there are "
        f"{n}."
    )


def trust_metrics(trust: Trust) -> dict[str, float]:
    """What a client can know about a version: how far to trust it, and when to abstain.

    A label is in the prediction set that misses the true one in one of ten images if its
    probability is at least `least_probability_0.1`.
    """
    metrics = {"calibration_error": trust.after.error}
    if trust.calibrated is None:
        return metrics
    least = least_probabilities(trust.calibrated.quantiles)
    metrics |= {"temperature": trust.calibrated.temperature}
    return metrics | {f"least_probability_{alpha}": value for alpha, value in least.items()}
