"""The content of a report: all results of a training, as plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from registry.bundle import Task
from registry.images import Float32Array, UInt8Array
from training.data.audit import Audit
from training.data.dataset import Dataset
from training.evaluation.calibration import Reliability, measure_reliability
from training.evaluation.conformal import Abstention, SetFigures
from training.evaluation.evaluate import BETA, THRESHOLD, Measures, confusions, right
from training.evaluation.intervals import Interval
from training.evaluation.overfitting import Overfitting, overfitting
from training.evaluation.per_class import (
    ClassFigures,
    Pair,
    confused_pairs,
    per_class,
    predicted_labels,
    score_interval,
    taken_for,
)
from training.evaluation.suspects import LabelNoise
from training.fit.epoch import Epoch
from training.fit.lr_finder import RateSearch
from training.fit.schedule import Shares
from training.report.galleries import Places, galleries

# pixels [n,s,s,3] and a class for each -> Grad-CAM heat maps, [n,s,s];
# see training/evaluation/gradcam.py
Looked = Callable[[UInt8Array, Sequence[int]], Float32Array | None]


@dataclass(frozen=True)
class Findings:
    """Everything in a report. What is missing here is left out there."""

    model: str
    dataset: Dataset
    searches: Mapping[str, RateSearch]  # by stage
    schedules: Mapping[str, Shares]
    history: Sequence[Epoch]
    rows: npt.NDArray[np.int64]  # held-out
    probabilities: Float32Array  # of those rows
    plain: Measures
    tta_probabilities: Float32Array  # the mean over the views
    tta: Measures
    n_views: int
    facts: Mapping[str, str]  # provenance
    views: UInt8Array  # augmented training images, [n,s,s,3]
    audit: Audit
    thresholds: tuple[float, ...] = ()  # of a multi-label task
    beta: float = BETA  # of its F score
    looked: Looked | None = None
    curve: Mapping[int, Sequence[float]] = field(default_factory=dict)  # images -> metric per draw
    temperature: float | None = None  # that the logits have been divided by
    uncalibrated: Reliability | None = None  # what it would be without that temperature
    sets: tuple[SetFigures, ...] = ()
    sets_from: str = ""  # which images these are of, or why there are none
    abstention: Abstention | None = None
    noise: LabelNoise | None = None
    n_selection: int = 0  # images of the training part set apart for model selection
    n_calibration: int = 0  # and for calibration

    @property
    def n_images(self) -> dict[str, int]:
        """How many images each use has, test images aside."""
        learnt = len(self.dataset.rows("train")) - self.n_selection - self.n_calibration
        apart = {"judge": self.n_selection, "calibrate": self.n_calibration}
        return {"train": learnt, "valid": len(self.rows)} | apart

    @property
    def task(self) -> Task:
        return self.dataset.task

    @property
    def labels(self) -> tuple[str, ...]:
        return self.dataset.labels

    @cached_property
    def limits(self) -> tuple[float, ...]:
        """Each label's decision threshold, in a multi-label task."""
        return self.thresholds or (THRESHOLD,) * len(self.labels)

    @property
    def interval(self) -> Interval:
        """95 % interval of the metric."""
        return score_interval(self.probabilities, self.targets, self.task, self.limits, self.beta)

    @cached_property
    def targets(self) -> Float32Array:
        """Of the held-out images, [n,classes]."""
        return self.dataset.targets[self.rows]

    @cached_property
    def said(self) -> npt.NDArray[np.bool_]:
        """[n,classes]: whether a label is predicted."""
        return predicted_labels(self.probabilities, self.task, self.limits)

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """The confusion matrix; in a multi-label task, how often a label was predicted wrongly on
        images of another one."""
        if self.task == "single":
            return confusions(self.probabilities, self.targets)
        return taken_for(self.said, self.targets)

    @cached_property
    def pairs(self) -> list[Pair]:
        return confused_pairs(taken_for(self.said, self.targets), self.targets, self.labels)

    @cached_property
    def classes(self) -> list[ClassFigures]:
        """The worst first."""
        return per_class(
            self.probabilities, self.targets, self.labels, self.task, self.limits, self.beta
        )

    @cached_property
    def galleries(self) -> dict[str, Places]:
        return galleries(self.probabilities, self.targets, self.task, self.limits)

    @cached_property
    def turned(self) -> tuple[Places, Places]:
        """Places of the predictions that the views corrected, and of those that they spoiled."""
        before = right(self.probabilities, self.targets, self.task, self.limits)
        after = right(self.tta_probabilities, self.targets, self.task, self.limits)
        return np.flatnonzero(after & ~before), np.flatnonzero(before & ~after)

    @property
    def n_turned(self) -> tuple[int, int]:
        """How many predictions the views corrected, and how many they spoiled."""
        gained, lost = self.turned
        return len(gained), len(lost)

    @cached_property
    def reliability(self) -> Reliability:
        return measure_reliability(self.probabilities, self.targets, self.task)

    @cached_property
    def overfit(self) -> Overfitting | None:
        return overfitting(self.history)
