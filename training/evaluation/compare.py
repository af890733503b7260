"""Compares candidate and promoted version, both as ONNX, on the same held-out images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from registry.bundle import MODEL, Bundle, read_bundle, verify_bundle
from registry.errors import BundleError
from registry.images import Float32Array, prepare
from registry.jobs import Assignment, Score, Scored
from training.data.dataset import Dataset, Rows
from training.data.items import Part, SplitRule
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
    """Scores both on the held-out images that the promoted version was not trained on; if they
    cannot be compared, the candidate alone on all held-out images.

    Args:
        answers: the candidate's outputs, for all held-out rows in order.
        beta: of the F score of multi-label answers, the candidate's for both.
    """
    rows = dataset.rows("valid")
    stages.begin("compare with the promoted version", len(rows))
    folder, promoted = assignment.champion, _comparable(assignment, bundle, stages.note)
    unseen = _unseen(dataset, rows, assignment, stages.note) if promoted else np.zeros(0, bool)
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
    if promoted is None:
        return None
    try:
        settings = json.loads(read_bundle(promoted).provenance["settings"])
        return SplitRule(*(settings[name] for name in ("split", "valid_fraction", "seed", "fold")))
    except (BundleError, ValueError, KeyError, TypeError):  # imported, damaged, or an older one
        return None


def _comparable(
    assignment: Assignment, bundle: Bundle, note: Callable[[str], None]
) -> Bundle | None:
    """The promoted version's bundle; None if there is none that can be compared with `bundle`."""
    if assignment.champion is None:
        return None
    version = assignment.champion_version
    try:
        promoted = verify_bundle(assignment.champion)
    except (
        BundleError
    ) as error:  # pruned meanwhile, or damaged; the candidate is still worth having
        note(f"version {version} cannot be compared: {error}")
        return None
    if (promoted.labels, promoted.task) != (bundle.labels, bundle.task):
        note(f"version {version} has other labels: it cannot be compared")
        return None
    return promoted


def _unseen(
    dataset: Dataset, rows: Rows, assignment: Assignment, note: Callable[[str], None]
) -> npt.NDArray[np.bool_]:
    """[rows]: which of them the promoted version was not trained on."""
    version, parts = assignment.champion_version, known_parts(assignment.champion)
    if not parts:
        note(f"version {version} has no list of its training images: comparing on all images")
    unseen = np.array([parts.get(dataset.items[row].sha256) != "train" for row in rows])
    if not unseen.all():
        note(
            f"{(~unseen).sum()} of {len(rows)} held-out images are left out of the comparison: "
            f"version {version} was trained on them"
        )
    return unseen


def _answers_of(
    folder: Path, dataset: Dataset, rows: Rows, advance: Callable[[int], None]
) -> Float32Array:
    """A bundle's outputs, [n,classes], with that bundle's own image preprocessing."""
    answer, spec = answering(folder / MODEL), read_bundle(folder).image
    answers = []
    for row in rows:
        pixels = prepare(dataset.items[row].path.read_bytes(), spec)
        answers.append(answer(pixels[None])[0])
        advance(1)
    return np.stack(answers)


def _score(answers: Float32Array, targets: Float32Array, bundle: Bundle, beta: float) -> Score:
    """With the bundle's own thresholds, as it would be served."""
    measures = measure(answers, targets, bundle.task, bundle.thresholds, beta)
    return Score(metric=measures.metric, value=measures.value, log_loss=measures.log_loss)
