"""What the steps of the recipe work on."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.data.audit import Audit
from training.data.dataset import Dataset, Rows
from training.data.decoded import Decoded
from training.data.inner_split import TrainingPart, split_training_part
from training.data.items import Part
from training.data.strong_augmentation import Stronger
from training.evaluation.evaluate import THRESHOLD, metric_of
from training.fit.activations import Activations
from training.fit.balance import Float64Array, class_weights, draw_shares
from training.fit.batches import ActivationBatches, ImageBatches
from training.fit.loss import loss_function
from training.fit.out_of_memory import BatchSplitter
from training.fit.size_phases import SizePhase
from training.network.classifier import Network
from training.network.saving import save_network
from training.results import Results
from training.run.checkpoint import Checkpoint
from training.run.event_files import EventFile
from training.run.progress import Stages
from training.settings import Settings


@dataclass(frozen=True)
class Bench:
    """What every step works on. Two of its values change on the way: the network, which is trained
    in place, and the results, to which each step adds what it finds."""

    settings: Settings
    dataset: Dataset
    decoded: Decoded  # as `prepare` gives them: for evaluation and activations
    enlarged: Decoded  # with more pixels, for augmentation only
    network: Network
    stages: Stages
    audit: Audit
    run: Path  # a folder for torch weights
    phase: SizePhase  # the size that this bench is for, and what is trained at it
    results: Results = field(default_factory=Results)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    event_file: EventFile = field(default_factory=lambda: EventFile(None))  # for TensorBoard

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def metric(self) -> str:
        """Its name: accuracy, or multi-label F-beta."""
        return metric_of(self.dataset.task, self.settings.beta)

    @property
    def n_train(self) -> int:
        return len(self.rows("train"))

    @property
    def n_valid(self) -> int:
        return len(self.rows("valid"))

    def rows(self, part: Part) -> Rows:
        """The images to train on, which is the training part without what is set apart for model
        selection or calibration; or the held-out ones."""
        return self._training_part.learnt if part == "train" else self.dataset.rows(part)

    @property
    def selection_rows(self) -> Rows:
        """Images of the training part set apart for model selection; none unless the settings ask
        for it."""
        return self._training_part.selection

    @property
    def calibration_rows(self) -> Rows:
        """Images of the training part set apart for calibration; none unless the settings ask for
        it, or if there are too few."""
        return self._training_part.calibration

    @property
    def rows_set_apart(self) -> Rows:
        """The images of the training part that are not trained on."""
        return np.sort(np.concatenate([self.selection_rows, self.calibration_rows]))

    @cached_property
    def _training_part(self) -> TrainingPart:
        return split_training_part(self.dataset, self.settings)

    @cached_property
    def splitter(self) -> BatchSplitter:
        """For training batches; says so when it splits them."""
        return BatchSplitter(self.network, partial(self.note, "memory"))

    def note(self, name: str, text: str) -> None:
        """Reports `text` now, and keeps it in the provenance."""
        self.stages.note(text)
        self.results.facts[name] = text

    def save(self, name: str) -> Path:
        """Saves the network as it is now to a file in the run's folder."""
        path, data = self.run / name, self.dataset
        if not self.network.world.is_main:
            return path
        self.run.mkdir(parents=True, exist_ok=True)
        save_network(
            self.network,
            path,
            labels=data.labels,
            size=self.settings.size,
            task=data.task,
            learnt=[item.sha256 for item in data.items if item.part == "train"],
        )
        return path

    def targets(self, part: Part) -> Tensor:
        """[n,classes], 1 for each label that an image has."""
        return torch.from_numpy(self.dataset.targets[self.rows(part)])

    def learning_targets(self) -> Tensor:
        """Targets of the training images, scaled by each image's weight relative to the mean
        weight, because the loss is linear in the targets."""
        weights = self.dataset.weights[self.rows("train")]
        return self.targets("train") * torch.from_numpy(weights / weights.mean())[:, None]

    @property
    def label_thresholds(self) -> tuple[float, ...]:
        """Each label's decision threshold; none in a single-label task."""
        if self.dataset.task == "single":
            return ()
        return self.results.thresholds or (THRESHOLD,) * len(self.dataset.labels)

    def loss(self) -> nn.Module:
        """For held-out images: unweighted, however training balances the classes."""
        return loss_function(self.dataset.task)

    def training_loss(self) -> nn.Module:
        task, weights = self.dataset.task, None
        if self.settings.balance == "weights":
            weights = torch.from_numpy(class_weights(self.learning_targets().numpy(), task))
        smoothing = self.settings.label_smoothing
        return loss_function(task, weights, label_smoothing=smoothing).to(self.device)

    def draw_shares(self) -> Float64Array | None:
        """The probability of drawing each training image; None: each once per epoch."""
        balanced = self.settings.balance == "sampling"
        return draw_shares(self.learning_targets().numpy()) if balanced else None

    def image_batches(self) -> ImageBatches:
        """The training images, augmented as the settings say, by draws that no stage before had."""
        chosen = self.settings
        as_served = chosen.augmentation == "none" and chosen.train_crop == "window"
        return ImageBatches(
            decoded=self.decoded if as_served else self.enlarged,
            rows=self.rows("train"),
            targets=self.learning_targets(),
            size=chosen.size,
            augmentation=chosen.augmentation,
            max_zoom=chosen.max_zoom,
            max_rotate=chosen.max_rotate,
            batch_size=chosen.batch_size,
            seed=chosen.seed,
            device=self.device,
            shares=self.draw_shares(),
            first_epoch=self.results.n_augmented_epochs,
            crop=chosen.train_crop,
            stronger=Stronger(chosen.policy, chosen.erasing, chosen.mixup, chosen.cutmix),
        )

    def activation_batches(self, activations: Activations) -> ActivationBatches:
        """The training images as the features of the frozen backbone."""
        return ActivationBatches(
            activations,
            self.learning_targets(),
            self.settings.batch_size,
            self.settings.seed,
            self.draw_shares(),
            self.device,
        )
