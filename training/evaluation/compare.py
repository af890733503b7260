"""Compares candidate and promoted version, both as ONNX, on the same held-out images."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from registry.bundle import MODEL, Bundle, read_bundle, verify_bundle
from registry.errors import BundleError
from registry.images import Float32Array, prepare
from registry.jobs import Assignment, Score, Scored
from registry.labels import label_changes
from training.data.dataset import Dataset, Rows
from training.data.items import Part, SplitRule
from training.data.labels import in_known_order
from training.data.split import read_split
from training.evaluation.evaluate import BETA, measure, right
from training.export.runtime import answering
from training.run.progress import Stages

SPLIT = "report/split.csv"  # in every bundle: its training and held-out images, by content


def score(
    dataset: Dataset,
    bundle: Bundle,
    answers: Float32Array,
    assignment: Assignment,
    stages: Stages,
    beta: float = BETA,
) -> Scored:
    """Scores both on the held-out images that the promoted version was not trained on.

    Args:
        answers: the candidate's outputs, for all held-out rows in order.
        beta: of the F score of multi-label answers, the candidate's for both.
    """
    rows = dataset.rows("valid")
    stages.begin("compare with the promoted version", len(rows))
    fresh = _fresh(dataset, rows, bundle, assignment, stages.note)
    chosen = fresh if fresh.any() else np.ones(len(rows), dtype=bool)
    targets = dataset.targets[rows[chosen]]
    mine = answers[chosen]
    theirs = None
    if assignment.champion and fresh.any():
        theirs = _answers_of(assignment.champion, dataset, rows[chosen], stages.advance)
    rival = bundle
    if assignment.champion and fresh.any():
        rival = _reordered(read_bundle(assignment.champion), bundle.labels)
    mine_right = right(mine, targets, dataset.task, bundle.thresholds)
    theirs_right = (
        mine_right if theirs is None else right(theirs, targets, dataset.task, rival.thresholds)
    )
    return Scored(
        candidate=_score(mine, targets, bundle, beta),
        promoted=None if theirs is None else _score(theirs, targets, rival, beta),
        promoted_version=None if theirs is None else assignment.champion_version,
        images=len(targets),
        gained=int((mine_right & ~theirs_right).sum()),
        lost=int((theirs_right & ~mine_right).sum()),
    )


def known_parts(champion: Path | None) -> dict[str, Part]:
    """The training and held-out images of the promoted version, by content.

    Empty if there is none, or if it was imported and has no such list.
    """
    split = champion / SPLIT if champion else None
    return read_split(split) if split and split.is_file() else {}


def known_rule(champion: Path | None) -> SplitRule | None:
    """The settings by which the promoted version's images were split; None if there is none, or if
    it does not record them."""
    if champion is None:
        return None
    try:
        told = json.loads(read_bundle(champion).provenance["settings"])
        return SplitRule(told["split"], told["valid_fraction"], told["seed"], told["fold"])
    except (BundleError, ValueError, KeyError, TypeError):  # imported, damaged, or an older one
        return None


def keep_label_order(
    dataset: Dataset, assignment: Assignment, note: Callable[[str], None]
) -> Dataset:
    """The data set with its labels in the promoted version's order, and new ones sorted after them.

    Callers of the Open Inference Protocol know a probability by its column alone, so a retraining
    must not move it.
    """
    if assignment.champion is None:
        return dataset
    try:
        known = read_bundle(assignment.champion).labels
    except BundleError:  # the comparison says so
        return dataset
    kept = replace(dataset, labels=in_known_order(dataset.labels, known))
    if changes := label_changes(known, kept.labels):
        version = assignment.champion_version
        note(f"the labels differ from those of version {version}, the promoted one: {changes}")
    return kept


def _fresh(
    dataset: Dataset,
    rows: Rows,
    bundle: Bundle,
    assignment: Assignment,
    note: Callable[[str], None],
) -> npt.NDArray[np.bool_]:
    """[n]: which held-out rows can be used for the comparison; none if there can be none."""
    champion, version = assignment.champion, assignment.champion_version
    if champion is None:
        return np.zeros(len(rows), dtype=bool)
    try:
        rival = verify_bundle(champion)
    except (
        BundleError
    ) as error:  # pruned meanwhile, or damaged; the candidate is still worth having
        note(f"version {version} cannot be compared: {error}")
        return np.zeros(len(rows), dtype=bool)
    changes = label_changes(rival.labels, bundle.labels)
    if rival.task != bundle.task or set(rival.labels) != set(bundle.labels):
        how = changes or f"as a {rival.task}-label model"
        note(f"version {version} has other labels ({how}): it cannot be compared")
        return np.zeros(len(rows), dtype=bool)
    if changes:
        note(f"version {version} has {changes}: both are compared by name")
    parts = known_parts(champion)
    if not parts:
        note(f"version {version} has no list of its training images: comparing on all images")
    fresh = np.array([parts.get(dataset.items[row].sha256) != "train" for row in rows])
    if not fresh.all():
        note(
            f"{(~fresh).sum()} of {len(rows)} held-out images are left out of the comparison: "
            f"version {version} was trained on them"
        )
    return fresh


def _answers_of(
    folder: Path, dataset: Dataset, rows: Rows, advance: Callable[[int], None]
) -> Float32Array:
    """A bundle's outputs, [n,classes], with that bundle's own image preprocessing, and with the
    classes in the data set's order."""
    bundle = read_bundle(folder)
    answer, spec = answering(folder / MODEL), bundle.image
    places = {label: place for place, label in enumerate(bundle.labels)}
    columns = [places[label] for label in dataset.labels]
    answers = []
    for row in rows:
        pixels = prepare(dataset.items[row].path.read_bytes(), spec)
        answers.append(answer(pixels[None])[0])
        advance(1)
    return np.stack(answers)[:, columns]


def _reordered(bundle: Bundle, labels: tuple[str, ...]) -> Bundle:
    """The same with its labels in the order of `labels`, and their thresholds too."""
    thresholds = dict(zip(bundle.labels, bundle.thresholds, strict=False))  # single-label: none
    ordered = tuple(thresholds[label] for label in labels if thresholds)
    return bundle.model_copy(update={"labels": labels, "thresholds": ordered})


def _score(answers: Float32Array, targets: Float32Array, bundle: Bundle, beta: float) -> Score:
    """With the bundle's own thresholds, as it would be served."""
    measures = measure(answers, targets, bundle.task, bundle.thresholds, beta)
    return Score(metric=measures.metric, value=measures.value, log_loss=measures.log_loss)
