"""What a training can be told: `--set key=value` on the command, `settings` in an admin request.

`training/reading_settings.py` makes them of text.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from registry.bundle import Reduced, Task
from registry.images import ImageSpec
from registry.schema import Record
from registry.tta import MAX_VIEWS, Symmetries, TtaSpec
from training.items import Drawing, Layout, SplitRule
from training.presets import Recipe
from training.schedule import restart_epochs
from training.turns import LARGEST, SMALLEST, Turn, take_turns

Augmentation = Literal["none", "basic", "side_on", "flips", "top_down"]
TrainCrop = Literal["window", "googlenet"]
Policy = Literal["none", "trivial", "rand"]
Precision = Literal["auto", "float32"]
Width = Annotated[int, Field(ge=1, le=2**14)]
Share = Annotated[float, Field(ge=0, lt=1)]
RateShare = Annotated[float, Field(ge=0)]
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
    """How `training.optimizer.Optimizer` steps."""

    kind: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9  # of sgd
    weight_decay: float = 1e-4
    decay_biases: bool = True  # and the scales of normalisation
    clip_norm: float | None = None  # largest norm of all gradients together


Keep = Literal["last", "best", "swa"]  # which weights; see training/keeping.py


class Settings(Record):
    """The recipe's numbers, in the order in which the recipe uses them. What is said below each is
    what `unfreeze train --help` says of it."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    recipe: Recipe = ""
    """A preset of the settings below; see training/presets.py."""

    # 1. data
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Of parts, the order of images, augmentation and new weights."""
    task: Literal["auto", "single", "multi"] = "auto"
    """Labels of an image: one (single) or any number (multi); auto: any number if a row of the
    table has several."""
    valid_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the images that is held out."""
    split: Drawing = "hash"
    """How parts are drawn: hash keeps an image's part while data grows, see training/draws.py;
    stratified draws exact shares of each class; cv and blocks hold out one of several folds."""
    fold: int = Field(default=0, ge=0)
    """Which of the folds is held out, with split=cv or blocks; each takes a model of its own name,
    for images keep the part that a promoted version has given them."""
    group: str = Field(default="", max_length=200)
    """What is never parted: a table's column, or a regular expression for paths
    (training/grouping.py)."""
    images: str = ""
    """The folder of a table's images, relative to the table."""
    suffix: str = ""
    """What the names in a table lack, such as .jpg."""
    header: bool = True
    """Whether a table's first line names its columns."""
    label_separator: str = " "
    """Between the labels of a row of a table; empty: a row has one label."""
    test: str = ""
    """A folder of images to answer in the end; may be without labels."""
    max_unreadable: int = Field(default=0, ge=0)
    """How many files may be left out because they cannot be read."""

    # 2. pixels
    size: int = Field(default=224, ge=SMALLEST, le=LARGEST)
    """Side of the square that the network sees, in pixels."""
    sizes: tuple[int, ...] = ()
    """Train at each in turn, at last at `size`; none: at `size` alone."""
    size_epochs: tuple[int, ...] = ()
    """Of the unfrozen epochs, how many at each of sizes; none: as in 2018, at each size all of
    them."""
    cache_size: int | None = Field(default=None, ge=SMALLEST, le=LARGEST)
    """Side of the images on disk that views for training are cut from, in pixels, whatever `size`
    is: larger is sharper where train_crop=googlenet enlarges; unsaid: 1.15 of `size`."""
    crop: Literal["center", "squash"] = "center"
    """What is seen of an oblong image: the square in its middle, or all of it, squashed."""
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    """Of that square's side, how much is seen."""
    augmentation: Augmentation = "side_on"
    """Which ways an image may be turned and mirrored: basic neither; side_on left and right;
    flips also upside down; top_down also by quarter turns; none changes nothing."""
    max_rotate: float = Field(default=10, ge=0, le=180)
    """Degrees by which it may be turned, either way."""
    max_zoom: float = Field(default=1.1, ge=1, le=2)
    """How much it may be enlarged, at most."""
    train_crop: TrainCrop = "window"
    """What training sees of an image: a window by max_zoom; or 8 to 100 % of its area, of another
    aspect (googlenet)."""
    policy: Policy = "none"
    """Stronger changes, for long trainings: TrivialAugment or RandAugment; see
    training/stronger.py."""
    erasing: float = Field(default=0, ge=0, le=1)
    """How likely a rectangle of an image is erased."""
    mixup: float = Field(default=0, ge=0)
    """Alpha of the beta distribution of the shares in which two images are mixed; 0: never."""
    cutmix: float = Field(default=0, ge=0)
    """The same where a rectangle of one is put into the other."""

    # 3. network
    backbone: str = "efficientnet_lite0"
    """Any name in timm or torchvision."""
    weights: Path | None = None
    """A safetensors file, an earlier run's network.safetensors among them, or a plain checkpoint,
    instead of a download."""
    pretrained: bool = True
    """Begin with weights that have learnt, or with weights drawn anew."""
    hidden: tuple[Width, ...] = (512,)
    """Widths of the head's hidden layers; none: a linear head."""
    dropout: tuple[Share, ...] = (0.25, 0.5)
    """Before each linear layer of the head; one number counts for all; unsaid: 0.25, the last
    0.5."""
    epsilon: float = Field(default=0.01, gt=0)
    """Added to the variance of each of the backbone's features before the head scales it to one."""

    # 4. learning: steps
    precision: Precision = "auto"
    """Of the backbone and its gradients; auto: bfloat16 where the device multiplies it in
    hardware."""
    batch_size: int = Field(default=64, ge=2, le=2**16)
    """Images of a step."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """Classes of unequal size: weights in the loss, or rare ones drawn more often."""
    label_smoothing: float = Field(default=0, ge=0, lt=1)
    """Of the right label's 1, what is spread over all labels; single-label training loss alone."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Of the head; empty: what the finder suggests."""
    unfrozen_learning_rate: float | None = Field(default=None, gt=0)
    """The same, once all layers learn."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD: how much of the last step is in the next."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """How much weights are drawn to zero."""
    decay_biases: bool = True
    """Also of biases and the scales of normalisation, or of matrices and filters alone."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """The largest norm of all gradients together; empty: any."""
    decay: Literal["optimizer", "decoupled", "per_cycle"] = "optimizer"
    """What weight_decay is: the optimizer's own; a share of each weight that every step takes off,
    whatever the rate (decoupled); or that share for a cycle, scaled to its steps (per_cycle)."""

    # learning: epochs and the rates in them
    head_epochs: int = Field(default=5, ge=1, le=MOST_EPOCHS)
    """Of the head on cached activations."""
    head_schedule: Literal["constant", "cosine"] = "cosine"
    """How the rate falls in them."""
    augmented_epochs: int = Field(default=1, ge=0, le=MOST_EPOCHS)
    """Of the head alone, on augmented images."""
    schedule: Literal["cosine", "one_cycle", "cosine_cycle"] = "cosine"
    """Of a cycle on augmented images: a cosine down; or up and down, momentum opposite, in lines
    (one_cycle) or in half cosines (cosine_cycle)."""
    cycle_div: float = Field(default=10, gt=1)
    """Up and down begins at this part of the rate."""
    cycle_rise: float = Field(default=0.25, gt=0, lt=1)
    """Share of the steps of cosine_cycle in which the rate goes up."""
    cycle_tail: float = Field(default=10, ge=0, lt=100)
    """Percent of one_cycle's steps in which the rate falls below where it began."""
    cycle_momenta: tuple[Share, Share] = (0.95, 0.85)
    """The momentum where the rate is low, and where it is high."""
    cycles: int = Field(default=2, ge=0, le=200)
    """Through all layers; 0 stops at the head."""
    cycle_len: int = Field(default=1, ge=1, le=MOST_EPOCHS)
    """Epochs of the first cycle."""
    cycle_mult: int = Field(default=2, ge=1, le=10)
    """Every cycle is so many times as long as the last."""
    group_rates: tuple[RateShare, RateShare, RateShare] = (0.1, 0.3, 1.0)
    """The rate of early layers, late layers and head, as shares of the head's."""

    # learning: the unfrozen epochs
    sam: float = Field(default=0, ge=0)
    """The distance within which the steepest loss is descended from, for example 0.05
    (sharpness-aware minimisation); 0: never."""
    sam_every: int = Field(default=1, ge=1)
    """In one of how many steps."""
    compile: bool = False
    """torch.compile for the unfrozen pass: minutes at first, then faster, on GPUs above all."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | Literal["family"] = 1.0
    """Of each block of the backbone as a share of the next one's, instead of group_rates: 0.65 to
    0.9 for ConvNeXt and transformers; family: by the backbone's name; 1: as group_rates say."""
    frozen_groups: int = Field(default=0, ge=0, le=2)
    """Groups of layers that stay frozen when the rest unfreezes."""
    freeze_batchnorm: bool = True
    """Whether the running statistics of the backbone's normalisation stay as they are; its scales
    learn with their layers either way."""
    keep: Keep = "last"
    """Which weights of the unfrozen epochs are kept; swa is their mean."""
    ema: float = Field(default=0, ge=0, lt=1)
    """How much an exponential mean of the unfrozen epochs' weights keeps of itself each step, for
    example 0.999; 0: there is none."""
    ema_kept: Literal["better", "always"] = "better"
    """When the mean takes the weights' place: if it is better on images set apart, and where none
    can be spared; or always."""
    judge_share: float = Field(default=0.1, gt=0, lt=1)
    """Of the training part, set apart where keep, ema, patience or thresholds need images to
    judge."""
    judge_by: Literal["log_loss", "metric"] = "log_loss"
    """What is better there: a lower log loss, or a higher metric."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many cycles in a row without an epoch better than the best before; 0: never."""
    snapshots: bool = False
    """Keep the network at each cycle's end, and measure their mean answer."""

    checkpoint_seconds: float = Field(default=30, ge=0)
    """Least time between two checkpoints of a stage, besides one at its end; 0: after every
    batch."""

    # 5. evaluation
    learning_curve: int = Field(default=0, ge=0, le=20)
    """Heads learnt from 1/8, 1/4, 1/2 and all of the images, so many times each; 0: no such
    curve."""
    label_noise: bool = True
    """List labels that heads which never saw them call otherwise; none is changed."""
    calibrate: bool = False
    """Divide the logits by the temperature that makes answers as sure as they are right, found on a
    share of the training part that is not learnt from."""
    calibrate_share: float = Field(default=0.1, gt=0, lt=1)
    """Of the training part, for that."""
    thresholds: Literal["half", "fitted"] = "half"
    """Of multi-label answers: 0.5, or each label's best for F2 on the images set apart."""
    tta_views: int = Field(default=5, ge=0, le=MAX_VIEWS)
    """Views of an image whose mean answer the report compares with the plain one."""
    serve_tta_views: int = Field(default=1, ge=0, le=MAX_VIEWS)
    """Views that a service takes when a request does not say."""

    # 6. export
    variants: tuple[Reduced, ...] = ("int8",)
    """Copies in fewer bits, published if they cost next to nothing: int8, fp16."""

    # 7. watching
    tensorboard: bool | None = None
    """Curves in the run's folder; unsaid: where the package tensorboard is installed."""

    def judges(self, task: Task) -> bool:
        """Whether images have to be set apart to judge by: epochs of all layers, or the thresholds
        of several labels."""
        epochs = self.cycles > 0 and (self.keep == "best" or self.patience > 0)
        return epochs or (self.thresholds == "fitted" and task == "multi")

    @property
    def compares(self) -> bool:
        """Whether images should be, as long as there are some to spare."""
        return self.ema > 0 and self.ema_kept == "better" and self.cycles > 0

    def layout(self) -> Layout:
        """A row of a single-label task has one label, whatever separators are in it."""
        return Layout(
            images=self.images,
            suffix=self.suffix,
            header=self.header,
            separator="" if self.task == "single" else self.label_separator,
            group=self.group,
            test=self.test,
        )

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
    def unfrozen_cycles(self) -> list[int]:
        """Epochs of each cycle."""
        return restart_epochs(self.cycles, self.cycle_len, self.cycle_mult)

    def turns(self) -> tuple[Turn, ...]:
        """What is trained at each size; see training/turns.py."""
        return take_turns(
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
    """The user's folder for what is computed once."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "unfreeze"
