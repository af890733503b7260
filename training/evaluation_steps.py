"""The steps of the recipe that evaluate: label errors, thresholds, and the model to be served."""

from pathlib import Path

import numpy as np
import torch

from registry.counted import counted
from registry.images import Float32Array
from training.bench import Bench
from training.evaluation.evaluate import Evaluation, flips, measure, predict, predict_rows
from training.evaluation.label_noise import find_suspects, too_many
from training.evaluation.predict_test_part import answer_tests
from training.evaluation.reads import describe_reads, note_read
from training.evaluation.suspects import describe
from training.evaluation.thresholds import fit_thresholds
from training.export.runtime import Answer
from training.fit.activations import Parts
from training.network.weights import weights_digest


def check_labels(bench: Bench, activations: Parts) -> None:
    """Lists labels that are likely to be wrong, in training and held-out images alike, unless there
    are too many to check. The list is for people: it does not affect the training."""
    bench.stages.begin("check the labels", 0)
    dataset = bench.dataset
    rows = [bench.rows("train"), bench.rows("valid")]
    features = [activations.train, activations.valid]
    if activations.apart:
        rows, features = [*rows, bench.rows_set_apart], [*features, activations.apart]
    everything = np.concatenate(rows)
    n_features = activations.train.features.shape[1]
    if reason := too_many(len(everything), n_features, len(dataset.labels)):
        bench.note("label_noise", reason)
        return
    found = find_suspects(
        torch.cat([each.features for each in features]).numpy(),
        dataset.targets[everything],
        everything,
        [dataset.units[row] for row in everything],
        dataset.labels,
        dataset.task,
        bench.settings.seed,
    )
    bench.results.label_noise = found
    bench.note("label_noise", describe(found, dataset))


def choose_thresholds(bench: Bench) -> None:
    """Fits a multi-label task's thresholds on images that are neither trained on nor scored, if the
    settings ask for it."""
    if bench.dataset.task == "single" or bench.settings.thresholds == "half":
        return
    rows, beta = bench.selection_rows, bench.settings.beta
    answers = predict(bench.network, bench.decoded.pixels[rows], bench.dataset.task)
    fitted = fit_thresholds(answers, bench.dataset.targets[rows], beta)
    bench.results.thresholds = fitted
    shown = ", ".join(f"{value:.2f}" for value in fitted[:10])
    bench.note(
        "thresholds", f"fitted for F{beta:g} on {counted(len(rows), 'image')} set apart: {shown}"
    )


def evaluate(bench: Bench, answer: Answer) -> Evaluation:
    """Evaluates the model that will be served on the held-out images, with one view, with
    several, and with as many as it will be served with."""
    settings, dataset = bench.settings, bench.dataset
    rows = dataset.rows("valid")
    n_tta, n_served = max(1, settings.tta_views), max(1, settings.serve_tta_views)
    wanted = {1, n_tta, n_served}
    bench.stages.begin("evaluate with and without views", len(rows) * sum(wanted))

    def answers(n_views: int) -> Float32Array:
        return predict_rows(
            answer,
            dataset,
            bench.decoded,
            rows,
            tta=settings.tta_spec(),
            n_views=n_views,
            advance=bench.stages.advance,
        )

    by_views = {n_views: answers(n_views) for n_views in sorted(wanted)}
    plain, tta = by_views[1], by_views[n_tta]
    targets = dataset.targets[rows]
    gained, lost = flips(plain, tta, targets, dataset.task, bench.label_thresholds)
    return Evaluation(
        rows,
        plain,
        tta,
        by_views[n_served],
        measure(plain, targets, dataset.task, bench.label_thresholds, settings.beta),
        measure(tta, targets, dataset.task, bench.label_thresholds, settings.beta),
        gained=gained,
        lost=lost,
    )


def read_tests(bench: Bench, answer: Answer, cache: Path, model: str) -> Float32Array:
    """Predictions for the test images, by which nothing has been chosen. That they were read, and
    how often before, is recorded in `cache`, reported, and kept in the provenance."""
    dataset = bench.dataset
    if dataset.tests:
        reads = note_read(cache, dataset.tests, model, weights_digest(bench.network))
        unscored = f"; {dataset.unscored_tests}" if dataset.unscored_tests else ""
        bench.note("test_part", describe_reads(reads) + unscored)
    return answer_tests(dataset, answer, bench.decoded.spec, cache)
