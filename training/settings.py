"""The settings of a training: `--set key=value` on the command, `settings` in an admin request.

`training/reading_settings.py` makes them of text.
"""

import os
import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from registry.bundle import Reduced, Task
from registry.images import ImageSpec
from registry.record import Record
from registry.tta import MAX_VIEWS, Symmetries, TtaSpec
from training.data.items import Drawing, Layout, SplitRule
from training.fit.schedule import restart_epochs
from training.fit.size_phases import LARGEST, SMALLEST, SizePhase, plan_phases
from training.presets import Recipe

Augmentation = Literal["none", "basic", "side_on", "flips", "top_down"]
TrainCrop = Literal["window", "googlenet"]
Policy = Literal["none", "trivial", "rand"]
Precision = Literal["auto", "float32"]
Width = Annotated[int, Field(ge=1, le=2**14)]
Share = Annotated[float, Field(ge=0, lt=1)]
RateShare = Annotated[float, Field(ge=0)]
# Layers of the largest ResNet whose batch statistics the course of 2018 updated. Updating them made
# others "fall apart" once unfrozen: hence its bn_freeze(True) (forums.fast.ai/t/8738).
UPDATED_UP_TO = 34
MOST_EPOCHS = 10_000  # of a stage: requests come over a network

# What training has shown the network, its views at test time may show it too.
SYMMETRIES: dict[Augmentation, Symmetries] = {
    "none": "none",
    "basic": "none",
    "side_on": "flip",
    "flips": "flips",
    "top_down": "dihedral",
}


@dataclass(frozen=True)
class OptimizerSpec:
    """How `training.fit.optimizer.Optimizer` steps."""

    kind: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9  # of sgd
    weight_decay: float = 1e-4
    decay_biases: bool = True  # and the scales of normalisation
    clip_norm: float | None = None  # largest norm of all gradients together


Keep = Literal["last", "best", "swa"]  # which weights; see training/fit/keeping.py


class Settings(Record):
    """The recipe's numbers, in the order in which the recipe uses them. The text below each is its
    help in `unfreeze train --help`."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    recipe: Recipe = "modern"
    """A named set of values: modern is the settings below as they are; fastai2018 changes them to
    what the course of 2018 used (training/presets.py)."""

    # 1. data
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Of the split, the order of the images, augmentation and new weights."""
    task: Literal["auto", "single", "multi"] = "auto"
    """Labels per image: exactly one (single) or any number (multi). auto: multi if some row of the
    table has several; refused where these may be one name with a space in it, or where some rows
    have none and no row has several."""
    valid_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the images that is held out for validation."""
    split: Drawing = "hash"
    """How images are assigned to training and validation. hash: by content, so that an image keeps
    its part while the data grow (training/data/draws.py); stratified: exact shares of each class;
    cv and blocks: hold out one of several folds."""
    fold: int = Field(default=0, ge=0)
    """Which fold is held out, with split=cv or blocks; the others have none. Give each fold a model
    name of its own, because images keep the part that a promoted version gave them."""
    group: str = Field(default="", max_length=200)
    """What must never be split: a column of the table, or a regular expression for paths
    (training/data/grouping.py)."""
    images: str = ""
    """The folder of a table's images, relative to the table."""
    suffix: str = ""
    """What to add to the file names in a table, such as .jpg."""
    header: bool = True
    """Whether a table's first line names its columns."""
    label_separator: str = " "
    """Between the labels in a row of a table; empty: every row has one label."""
    label_columns: tuple[str, ...] = ()
    """The columns of a table that have 0 or 1 in them, one for each class, instead of a column with
    the names of the classes."""
    test: str = ""
    """A folder of images to predict at the end; they need no labels."""
    max_unreadable: int = Field(default=0, ge=0)
    """How many unreadable files may be left out before the training is refused."""

    # 2. pixels
    size: int = Field(default=224, ge=SMALLEST, le=LARGEST)
    """Side of the network's square input, in pixels."""
    sizes: tuple[int, ...] = ()
    """Progressive resizing: train at each of these sizes in turn, the last being `size`. Empty: at
    `size` alone."""
    size_epochs: tuple[int, ...] = ()
    """How many of the unfrozen epochs to spend at each of sizes. Empty: all of them at each, as in
    2018."""
    cache_size: int | None = Field(default=None, ge=SMALLEST, le=LARGEST)
    """Side of the cached images that augmented views are cut from, in pixels, whatever `size` is;
    larger is sharper where train_crop=googlenet enlarges. Not set: 1.15 times `size`."""
    crop: Literal["center", "squash"] = "center"
    """What the network sees of an oblong image: the square in its middle (center), or all of it,
    squashed."""
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    """How much of that square's side it sees."""
    augmentation: Augmentation = "side_on"
    """Flips and turns. none: no augmentation at all; basic: neither; side_on: left-right flips;
    flips: upside down too; top_down: quarter turns too."""
    max_rotate: float = Field(default=0, ge=0, le=180)
    """Rotate by up to this many degrees, either way."""
    max_zoom: float = Field(default=1.1, ge=1, le=2)
    """Enlarge by up to this factor."""
    train_crop: TrainCrop = "window"
    """What training sees of an image: a window by max_zoom, or a random resized crop of 8 to 100 %
    of its area with another aspect ratio (googlenet)."""
    policy: Policy = "none"
    """Stronger augmentation, for long trainings: TrivialAugment or RandAugment; see
    training/data/strong_augmentation.py."""
    erasing: float = Field(default=0, ge=0, le=1)
    """Probability of erasing a rectangle of an image."""
    mixup: float = Field(default=0, ge=0)
    """Alpha of the Beta distribution that mixup draws its shares from; 0: off."""
    cutmix: float = Field(default=0, ge=0)
    """The same for CutMix, which pastes a rectangle of one image into another."""

    # 3. network
    backbone: str = "efficientnet_lite0"
    """Any name in timm or torchvision."""
    weights: Path | None = None
    """Initial weights instead of a download: a safetensors file, such as an earlier run's
    network.safetensors, or a plain checkpoint."""
    pretrained: bool = True
    """Start from pretrained weights, or from random ones."""
    hidden: tuple[Width, ...] = (512,)
    """Widths of the head's hidden layers; empty: a linear head."""
    dropout: tuple[Share, ...] = (0.0,)
    """Before each linear layer of the head; one number serves for all. Empty: as in 2018, 0.25, and
    0.5 before the last."""
    epsilon: float = Field(default=0.01, gt=0)
    """Added to the variance of each feature of the backbone before the head normalises it."""

    # 4. steps: batches, loss, rates, optimizer
    precision: Precision = "auto"
    """Of the backbone and its gradients; auto: bfloat16 where the hardware multiplies it."""
    batch_size: int = Field(default=32, ge=2, le=2**16)
    """Images per step."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """For unbalanced classes: weight the loss, or sample rare classes more often."""
    label_smoothing: float = Field(default=0, ge=0, lt=1)
    """Probability moved from the true label to all labels alike, in the training loss of
    single-label tasks."""
    learning_rate: float | None = Field(default=1e-3, gt=0)
    """Of the head; empty: what the learning-rate finder suggests."""
    unfrozen_learning_rate: float | None = Field(default=5e-4, gt=0)
    """Once all layers learn; empty: what the finder suggests then."""
    # AdamW (arXiv 1711.05101): its steps are as large as the rate, whatever the gradient, so these
    # rates suit most networks
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """SGD with momentum, or AdamW."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Strength of weight decay; see decay."""
    decay_biases: bool = True
    """Decay biases and the scales of normalisation too, or only matrices and filters."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Clip gradients to this global norm; empty: never."""
    decay: Literal["optimizer", "decoupled", "per_cycle"] = "optimizer"
    """What weight_decay means. optimizer: the optimizer's own; decoupled: the share of each weight
    that a step takes off, whatever the learning rate; per_cycle: that share for a whole cycle,
    divided among its steps."""

    # 5. epochs and the schedule of the rates in them
    head_epochs: int = Field(default=5, ge=1, le=MOST_EPOCHS)
    """Epochs of the head on cached activations."""
    head_schedule: Literal["constant", "cosine"] = "cosine"
    """How the learning rate falls in them."""
    augmented_epochs: int = Field(default=0, ge=0, le=MOST_EPOCHS)
    """Epochs of the head alone on augmented images."""
    schedule: Literal["cosine", "one_cycle", "cosine_cycle"] = "cosine_cycle"
    """Of each cycle on augmented images: cosine: annealing; one_cycle: up and down in straight
    lines, momentum the other way; cosine_cycle: the same in half cosines."""
    cycle_div: float = Field(default=25, gt=1)
    """The rate at the start of one_cycle and cosine_cycle is the learning rate divided by this."""
    cycle_rise: float = Field(default=0.25, gt=0, lt=1)
    """Share of cosine_cycle's steps in which the learning rate rises."""
    cycle_tail: float = Field(default=10, ge=0, lt=100)
    """Percentage of one_cycle's steps in which the learning rate falls below where it started."""
    cycle_momenta: tuple[Share, Share] = (0.95, 0.85)
    """Momentum where the learning rate is lowest, and where it is highest."""
    cycles: int = Field(default=1, ge=0, le=200)
    """Cycles with all layers learning; 0: train the head only."""
    cycle_len: int = Field(default=10, ge=1, le=MOST_EPOCHS)
    """Epochs in the first cycle."""
    cycle_mult: int = Field(default=1, ge=1, le=10)
    """Each cycle is this many times as long as the one before."""
    group_rates: tuple[RateShare, RateShare, RateShare] = (0.1, 0.3, 1.0)
    """Differential learning rates: of early layers, late layers and head, as shares of the
    head's."""

    # 6. what applies to the unfrozen epochs alone
    sam: float = Field(default=0, ge=0)
    """Radius of sharpness-aware minimisation, for example 0.05; 0: off."""
    sam_every: int = Field(default=1, ge=1)
    """Use it in one of this many steps."""
    compile: bool = False
    """torch.compile the unfrozen pass: minutes at first, then faster, above all on GPUs."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | Literal["family"] = "family"
    """Learning rate of each block of the backbone as a share of the next one's, instead of
    group_rates: 0.65 to 0.9 for ConvNeXt and transformers. family: by the backbone's name; 1:
    off."""
    frozen_groups: int = Field(default=0, ge=0, le=2)
    """Layer groups that stay frozen when the rest is unfrozen."""
    freeze_batchnorm: bool | Literal["family"] = True
    """Keep the backbone's running batch statistics as they are; its scales learn with their layers
    either way. family: unless the backbone is a ResNet of at most 34 layers."""
    keep: Keep = "last"
    """Which weights of the unfrozen epochs are kept: the last, the best, or their mean (swa)."""
    ema: float = Field(default=0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights in the unfrozen epochs, for example
    0.999; 0: off."""
    ema_kept: Literal["better", "always"] = "better"
    """When the average replaces the weights: if it is better on images set apart (or none can be
    spared), or always."""
    judge_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training part to set apart where keep, ema, patience or thresholds need images
    to decide on."""
    judge_by: Literal["log_loss", "metric"] = "log_loss"
    """What is better on them: a lower log loss, or a higher metric."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many cycles in a row without a new best epoch; 0: never. It takes cycles to
    stop between, for example cycles=10 and cycle_len=1."""
    snapshots: bool = False
    """Keep the network at the end of each cycle, and evaluate the mean of their answers."""

    checkpoint_seconds: float = Field(default=30, ge=0)
    """Shortest time between two checkpoints of a stage, besides the one at its end; 0: one after
    every batch."""

    # 7. evaluation
    learning_curve: int = Field(default=0, ge=0, le=20)
    """Train this many heads on each of 1/8, 1/4, 1/2 and all of the images, to show what more
    images would bring; 0: off."""
    label_noise: bool = True
    """List labels that heads which never saw them disagree with; none is changed."""
    calibrate: bool = False
    """Temperature scaling, fitted on a share of the training part that is not learnt from."""
    calibrate_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training part to set apart for that."""
    thresholds: Literal["half", "fitted"] = "half"
    """Of multi-label answers: 0.5, or each label's best F-beta on the images set apart."""
    beta: float = Field(default=2, ge=0.01, le=100)
    """Of the F-beta score of multi-label answers, by which thresholds are fitted and versions
    compared: a label that is missed counts beta² times as much as one too many."""
    tta_views: int = Field(default=5, ge=0, le=MAX_VIEWS)
    """Views per image whose mean answer the report compares with the plain one."""
    serve_tta_views: int = Field(default=1, ge=0, le=MAX_VIEWS)
    """Views that a service uses when a request does not say."""

    # 8. export
    variants: tuple[Reduced, ...] = ("int8",)
    """Reduced-precision copies, published if they cost next to nothing: int8, fp16."""

    # 9. monitoring
    tensorboard: bool | None = None
    """Write TensorBoard event files into the run's folder. Not set: if the package tensorboard is
    installed."""

    def needs_selection(self, task: Task) -> bool:
        """Whether images must be set apart, to choose among epochs or to fit thresholds on."""
        return self.compares_epochs or (self.thresholds == "fitted" and task == "multi")

    @property
    def compares_epochs(self) -> bool:
        """Whether the unfrozen epochs are compared on images set apart."""
        return (self.cycles > 0 and self.keep == "best") or self.can_stop_early

    @property
    def can_stop_early(self) -> bool:
        """Whether `patience` can save an epoch. Only the last size counts, whose first cycle always
        has a new best epoch."""
        before = sum(self.size_epochs[:-1])
        n_cycles = sum(end > before for end in accumulate(self.unfrozen_cycles))
        return 0 < self.patience < n_cycles - 1

    @property
    def wants_selection(self) -> bool:
        """Whether images should be set apart if there are some to spare, to decide on the moving
        average."""
        return self.ema > 0 and self.ema_kept == "better" and self.cycles > 0

    def layout(self) -> Layout:
        """How a table is read. A row of a single-label task has one label, separators or not."""
        return Layout(
            images=self.images,
            suffix=self.suffix,
            header=self.header,
            separator="" if self.task == "single" else self.label_separator,
            label_columns=self.label_columns,
            group=self.group,
            test=self.test,
        )

    @property
    def has_folds(self) -> bool:
        return self.split in ("cv", "blocks")

    def split_rule(self) -> SplitRule:
        return SplitRule(self.split, self.valid_fraction, self.seed, self.fold)

    def optimizer_spec(self) -> OptimizerSpec:
        return OptimizerSpec(
            kind=self.optimizer,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            decay_biases=self.decay_biases,
            clip_norm=self.clip_norm,
        )

    @property
    def keeps_statistics(self) -> bool:
        """Whether the backbone's batch statistics stay as they are while all layers learn."""
        if self.freeze_batchnorm != "family":
            return self.freeze_batchnorm
        resnet = re.match(r"(?:tv_)?resnet(\d+)(?!\d*ts)", self.backbone)
        return resnet is None or int(resnet[1]) > UPDATED_UP_TO

    @property
    def unfrozen_cycles(self) -> list[int]:
        """Epochs of each cycle."""
        return restart_epochs(self.cycles, self.cycle_len, self.cycle_mult)

    def size_phases(self) -> tuple[SizePhase, ...]:
        """What is trained at each size; see training/fit/size_phases.py."""
        return plan_phases(
            self.size,
            self.sizes,
            self.size_epochs,
            head_epochs=self.augmented_epochs,
            n_epochs=sum(self.unfrozen_cycles),
        )

    def image_spec(self) -> ImageSpec:
        return ImageSpec(size=self.size, crop=self.crop, crop_fraction=self.crop_fraction)

    def tta_spec(self) -> TtaSpec:
        return TtaSpec(
            default_views=self.serve_tta_views,
            symmetries=SYMMETRIES[self.augmentation],
            max_zoom=self.max_zoom,
        )


def default_cache() -> Path:
    """The user's cache folder, by the XDG convention."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "unfreeze"
