"""Candidate and promoted version, both as ONNX, on the same held-out images."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from registry.bundle import MODEL, Bundle, verify_bundle
from registry.images import Float32Array, prepare
from registry.jobs import Assignment, Score, Scored
from training.data import Dataset, read_split
from training.evaluate import measure, right
from training.export import open_session
from training.progress import Stages

SPLIT = "report/split.csv"  # in every bundle: what it learnt from, by content
BATCH = 16


def score(dataset: Dataset, assignment: Assignment, stages: Stages) -> Scored:
    """How both do on the held-out images that the champion never learnt from.

    A champion with other labels cannot be compared; then the candidate is scored alone, and a note
    says why.
    """
    candidate, champion = assignment.stage, assignment.champion
    champion_version, note, advance = assignment.champion_version, stages.note, stages.advance
    bundle = verify_bundle(candidate)
    rows = [int(row) for row in dataset.rows("valid")]
    rival = verify_bundle(champion) if champion else None
    if champion and rival and rival.labels != bundle.labels:
        note(f"version {champion_version} has other labels and cannot be compared")
        rival = None
    if champion and rival:
        learnt = {sha for sha, part in read_split(champion / SPLIT).items() if part == "train"}
        fresh = [row for row in rows if dataset.items[row].sha256 not in learnt]
        if len(fresh) < len(rows):
            note(
                f"{len(rows) - len(fresh)} held-out images are left out of the comparison: "
                f"version {champion_version} learnt from them"
            )
        if not fresh:
            note(f"version {champion_version} learnt from every held-out image: no comparison")
            rival = None
        rows = fresh or rows
    targets = dataset.targets[rows]
    mine = probabilities(dataset, rows, candidate, bundle, advance)
    theirs = probabilities(dataset, rows, champion, rival, advance) if champion and rival else None
    ours_right = right(mine, targets, dataset.task)
    theirs_right = ours_right if theirs is None else right(theirs, targets, dataset.task)
    return Scored(
        candidate=_score(mine, targets, dataset),
        promoted=None if theirs is None else _score(theirs, targets, dataset),
        promoted_version=None if theirs is None else champion_version,
        images=len(rows),
        gained=int((ours_right & ~theirs_right).sum()),
        lost=int((theirs_right & ~ours_right).sum()),
    )


def probabilities(
    dataset: Dataset,
    rows: Sequence[int],
    folder: Path,
    bundle: Bundle,
    advance: Callable[[int], None],
) -> Float32Array:
    """A bundle's answers, [n,classes], each with that bundle's own image preparation."""
    session = open_session(str(folder / MODEL))
    answers = []
    for start in range(0, len(rows), BATCH):
        encoded = [dataset.items[row].path.read_bytes() for row in rows[start : start + BATCH]]
        pixels = np.stack([prepare(image, bundle.image) for image in encoded])
        answers.append(session.run(["probabilities"], {"image": pixels})[0])
        advance(len(encoded))
    return np.concatenate(answers)


def _score(answers: Float32Array, targets: Float32Array, dataset: Dataset) -> Score:
    measures = measure(answers, targets, dataset.task)
    return Score(metric=measures.metric, value=measures.value, log_loss=measures.log_loss)
