"""Compares candidate and promoted version, both as ONNX, on the same held-out images, and each with
as many views of them as it is served with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.bundle import MODEL, Bundle, read_bundle, verify_bundle
from registry.counted import are, counted
from registry.errors import BundleError
from registry.images import Float32Array, prepare
from registry.jobs import Assignment, Score, Scored
from registry.labels import label_changes
from registry.tta import tta_views
from training.data.dataset import Dataset, Rows
from training.data.items import Part, SplitRule
from training.data.labels import in_known_order
from training.data.read_again import read_again
from training.data.split import read_split
from training.evaluation.evaluate import BETA, measure, right
from training.export.runtime import answering
from training.learnt_before import learnt
from training.run.progress import Stages
from training.same_settings import settings_of

SPLIT = "report/split.csv"  # in every bundle: its training and held-out images, by content


def score(
    dataset: Dataset,
    bundle: Bundle,
    answers: Float32Array,
    assignment: Assignment,
    stages: Stages,
    beta: float = BETA,
    learnt_before: frozenset[str] = frozenset(),
) -> Scored:
    """Scores both on the held-out images that neither has learnt from; if they cannot be compared,
    the candidate alone on all held-out images.

    Args:
        answers: the candidate's outputs as it is served, for all held-out rows in order.
        learnt_before: what the candidate's initial weights had learnt from; see
            training/learnt_before.py.
        beta: of the F score of multi-label answers, the candidate's for both.
    """
    rows = dataset.rows("valid")
    stages.begin("compare with the promoted version", len(rows))
    folder, promoted = assignment.champion, _comparable(assignment, bundle, stages.note)
    unseen = np.zeros(len(rows), bool)
    if promoted:
        unseen = _unseen(dataset, rows, assignment, stages.note)
        unseen &= _new_to_candidate(dataset, rows, learnt_before, stages.note)
    if folder is None or promoted is None or not unseen.any():
        return Scored(
            candidate=_score(answers, dataset.targets[rows], bundle, beta),
            promoted=None,
            promoted_version=None,
            images=len(rows),
            gained=0,
            lost=0,
        )
    rows, answers = rows[unseen], answers[unseen]
    targets = dataset.targets[rows]
    _note_views(bundle, promoted, assignment, stages.note)
    promoted_answers = _answers_of(folder, dataset, rows, stages.advance)
    after = right(answers, targets, dataset.task, bundle.thresholds)
    before = right(promoted_answers, targets, dataset.task, promoted.thresholds)
    return Scored(
        candidate=_score(answers, targets, bundle, beta),
        promoted=_score(promoted_answers, targets, promoted, beta),
        promoted_version=assignment.champion_version,
        images=len(rows),
        gained=int((after & ~before).sum()),
        lost=int((before & ~after).sum()),
    )


def known_parts(promoted: Path | None) -> dict[str, Part]:
    """The training and held-out images of the promoted version, by content.

    Empty if there is none, or if it was imported and has no such list.
    """
    split = promoted / SPLIT if promoted else None
    return read_split(split) if split and split.is_file() else {}


def known_rule(promoted: Path | None) -> SplitRule | None:
    """The settings by which the promoted version's images were split; None if there is none, or if
    it does not record them."""
    settings: dict[str, Any] = settings_of(promoted)
    try:
        return SplitRule(*(settings[name] for name in ("split", "valid_fraction", "seed", "fold")))
    except (ValueError, KeyError, TypeError):  # imported, damaged, or an older one
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


def _comparable(
    assignment: Assignment, bundle: Bundle, note: Callable[[str], None]
) -> Bundle | None:
    """The promoted version's bundle, its labels in the order of `bundle`'s; None if there is none
    that can be compared with it."""
    if assignment.champion is None:
        return None
    version = assignment.champion_version
    try:
        promoted = verify_bundle(assignment.champion)
    except BundleError as error:  # pruned meanwhile, or damaged: then the candidate alone is scored
        note(f"version {version} cannot be compared: {error}")
        return None
    changes = label_changes(promoted.labels, bundle.labels)
    if promoted.task != bundle.task or set(promoted.labels) != set(bundle.labels):
        how = changes or f"as a {promoted.task}-label model"
        note(f"version {version} has other labels ({how}): it cannot be compared")
        return None
    if changes:
        note(f"version {version} has {changes}: both are compared by name")
    return _reordered(promoted, bundle.labels)


def _unseen(
    dataset: Dataset, rows: Rows, assignment: Assignment, note: Callable[[str], None]
) -> npt.NDArray[np.bool_]:
    """[rows]: which of them the promoted version was not trained on."""
    version, parts = assignment.champion_version, known_parts(assignment.champion)
    if not parts:
        note(f"version {version} has no list of its training images: comparing on all images")
    unseen = np.array([parts.get(dataset.items[row].sha256) != "train" for row in rows])
    if n := int((~unseen).sum()):
        note(
            f"{n} of {counted(len(rows), 'held-out image')} {are(n)} left out of the comparison: "
            f"version {version} was trained on them"
        )
    return unseen


def _new_to_candidate(
    dataset: Dataset, rows: Rows, before: frozenset[str], note: Callable[[str], None]
) -> npt.NDArray[np.bool_]:
    """[rows]: which of them the candidate's initial weights had not learnt from."""
    seen = learnt([dataset.items[row] for row in rows], before)
    if n := int(seen.sum()):
        note(
            f"{n} of {counted(len(rows), 'held-out image')} {are(n)} left out of the comparison: "
            "the new version's initial weights had learnt from them"
        )
    return ~seen


def _note_views(
    bundle: Bundle, promoted: Bundle, assignment: Assignment, note: Callable[[str], None]
) -> None:
    """Says with how many views they are compared, unless it is one for both."""
    mine, theirs = (max(1, each.tta.default_views) for each in (bundle, promoted))
    if max(mine, theirs) > 1:
        note(
            f"views of each image, as they are served: {mine} for the new version, {theirs} for "
            f"version {assignment.champion_version}"
        )


def _answers_of(
    folder: Path, dataset: Dataset, rows: Rows, advance: Callable[[int], None]
) -> Float32Array:
    """A bundle's outputs, [n,classes], with that bundle's own image preprocessing and views, and
    with the classes in the data set's order."""
    bundle = read_bundle(folder)
    answer = answering(folder / MODEL)
    places = {label: place for place, label in enumerate(bundle.labels)}
    columns = [places[label] for label in dataset.labels]
    answers = []
    for row in rows:
        encoded = read_again(dataset.items[row])
        pixels = prepare(encoded, bundle.image)
        views = tta_views(pixels, encoded, bundle.tta, bundle.tta.default_views)
        answers.append(answer(views).mean(axis=0))
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
