"""How far answers can be believed: what is fitted on images set apart for it, and what the held-out
images say of that.

One temperature and the sets' quantiles are fitted on the same images. Strictly, the quantiles want
images of their own; one number fitted on many moves them by less than halving the images would.
"""

from dataclasses import dataclass

import torch

from training.bench import Bench
from training.data.inner_split import LEAST
from training.evaluation.calibration import (
    Reliability,
    at_temperature,
    cool,
    fit_temperature,
    measure_reliability,
)
from training.evaluation.conformal import (
    Abstention,
    Quantile,
    SetFigures,
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
    """What was fitted on images that are neither learnt from nor held out."""

    images: int
    temperature: float
    quantiles: tuple[Quantile, ...]  # of single-label answers
    alone: float | None  # probability from which on one of them can be given alone


@dataclass(frozen=True)
class Trust:
    """What the held-out images say of the answers that will be served."""

    calibrated: Calibrated | None
    before: Reliability | None  # as if nothing had been calibrated
    after: Reliability
    sets: tuple[SetFigures, ...]
    abstention: Abstention | None


def calibrate(bench: Bench) -> Calibrated | None:
    """The network's logits are divided by the temperature that makes its answers as sure as they
    are right; None: there are too few images to tell, and the network is as it was."""
    bench.stages.begin("calibrate", len(bench.spared))
    if not len(bench.spared):
        bench.note("calibration", f"left out: it takes {LEAST} images; raise calibrate_share")
        return None
    task, pixels = bench.dataset.task, bench.decoded.pixels[bench.spared]
    targets = bench.dataset.targets[bench.spared]
    logits = answer_logits(bench.network, pixels, bench.stages.advance)
    temperature = fit_temperature(logits, torch.from_numpy(targets), task)
    cool(bench.network, temperature)
    bench.note("calibration", f"temperature {temperature:.3f}, by {len(pixels)} images set apart")
    if task == "multi":
        return Calibrated(len(pixels), temperature, (), None)
    answers = to_probabilities(logits / temperature, task).numpy()
    quantiles = fit_quantiles(answers, targets, bench.settings.seed)
    return Calibrated(len(pixels), temperature, quantiles, least_confidence(answers, targets))


def measure_trust(bench: Bench, calibrated: Calibrated | None, evaluation: Evaluation) -> Trust:
    """The answers with one view are measured: those of the model that will be served."""
    task, answers = bench.dataset.task, evaluation.plain
    targets = bench.dataset.targets[evaluation.rows]
    after = measure_reliability(answers, targets, task)
    if calibrated is None:
        return Trust(None, None, after, (), None)
    raw = at_temperature(answers, 1 / calibrated.temperature, task)
    before = measure_reliability(raw, targets, task)
    if task == "multi":
        return Trust(calibrated, before, after, (), None)
    sets = measure_sets(calibrated.quantiles, answers, targets, bench.settings.seed)
    alone = measure_abstention(calibrated.alone, answers, targets)
    return Trust(calibrated, before, after, sets, alone)


def trust_metrics(trust: Trust) -> dict[str, float]:
    """What a client can know of a version: how far to believe it, and when to abstain.

    A label belongs to the set that lacks the true one in one of ten images if its probability is
    `least_probability_0.1` at least.
    """
    told = {"calibration_error": trust.after.error}
    if trust.calibrated is None:
        return told
    least = least_probabilities(trust.calibrated.quantiles)
    told |= {"temperature": trust.calibrated.temperature}
    return told | {f"least_probability_{alpha}": value for alpha, value in least.items()}
