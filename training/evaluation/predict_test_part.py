"""The test part: predicted once, at the end, by the model that will be served."""

import csv
from pathlib import Path

import numpy as np

from registry.images import Float32Array, ImageSpec
from training.data.dataset import Dataset
from training.data.decoded import decode
from training.evaluation.evaluate import BETA, Measures, Thresholds, measure
from training.evaluation.per_class import predicted_labels
from training.export.runtime import Answer


def answer_tests(dataset: Dataset, answer: Answer, spec: ImageSpec, cache: Path) -> Float32Array:
    """Probabilities of the test images, [n,classes], n possibly 0."""
    if not dataset.tests:
        return np.zeros((0, len(dataset.labels)), np.float32)
    pixels = decode(dataset.tests, spec, cache, lambda n: None).pixels
    return np.stack([answer(pixels[[row]])[0] for row in range(len(pixels))])


def measure_tests(
    dataset: Dataset, answers: Float32Array, thresholds: Thresholds, beta: float = BETA
) -> Measures | None:
    """Metrics on the test images whose labels are known; None if there are none."""
    rows = dataset.scored_tests
    if not len(rows):
        return None
    tests = [dataset.tests[row] for row in rows]
    targets = [[label in item.labels for label in dataset.labels] for item in tests]
    return measure(answers[rows], np.array(targets, np.float32), dataset.task, thresholds, beta)


def write_answers(
    path: Path,
    dataset: Dataset,
    answers: Float32Array,
    thresholds: Thresholds,
    separator: str = " ",
) -> None:
    """Writes a CSV: file, true labels, predicted labels, and every label's probability.

    Args:
        separator: between an image's labels; if a label contains it, a bar instead.
    """
    if any(separator in label for label in dataset.labels):
        separator = "|"
    said = predicted_labels(answers, dataset.task, thresholds)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "labels", "answer", *dataset.labels])
        for item, row, chosen in zip(dataset.tests, answers, said, strict=True):
            answer = separator.join(np.array(dataset.labels)[chosen])
            labels = separator.join(item.labels)
            writer.writerow([dataset.name(item), labels, answer, *(f"{p:.6f}" for p in row)])
