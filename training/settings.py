"""What a training can be told: `--set key=value` on the command, `settings` in an admin request.

`training/reading_settings.py` makes them of text.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from registry.bundle import Reduced
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
    """The recipe's numbers, in the order in which the recipe uses them."""

    recipe: Recipe = ""  # the preset that was chosen; see training/presets.py

    # 1. data
    seed: int = Field(
        default=42, ge=0, lt=2**32
    )  # of parts, order of images, augmentation, new weights
    # labels of an image: one, or any number; auto: any number if a row of the table has several
    task: Literal["auto", "single", "multi"] = "auto"
    valid_fraction: float = Field(default=0.2, gt=0, lt=1)  # share that is held out
    # how parts are drawn: hash keeps every image's part while data grows
    split: Drawing = "hash"
    fold: int = Field(default=0, ge=0)  # which of the folds is held out, with split=cv or blocks
    # a table's column, or a regular expression for paths (training/grouping.py): never parted
    group: str = Field(default="", max_length=200)
    images: str = ""  # the folder of a table's images, relative to the table
    suffix: str = ""  # what the names in a table lack, such as .jpg
    header: bool = True  # a table's first line names its columns
    label_separator: str = " "  # in a table; empty: a row has one label
    test: str = ""  # a folder of images to answer in the end; may be without labels
    max_unreadable: int = Field(default=0, ge=0)  # files that may be left out of a training

    # 2. pixels
    size: int = Field(default=224, ge=SMALLEST, le=LARGEST)
    sizes: tuple[int, ...] = ()  # train at each in turn, at last at `size`; none: at `size` alone
    # of the unfrozen epochs, how many at each of sizes; none: as in 2018, at each size all of them
    size_epochs: tuple[int, ...] = ()
    # what is seen of an oblong image: the square in its middle, or all of it, squashed
    crop: Literal["center", "squash"] = "center"
    crop_fraction: float = Field(default=1.0, gt=0, le=1)  # of that square's side
    augmentation: Augmentation = "side_on"  # which ways an image may be turned and mirrored
    max_rotate: float = Field(default=10, ge=0, le=180)  # degrees either way
    max_zoom: float = Field(default=1.1, ge=1, le=2)
    # what training sees of an image: a window by max_zoom; or 8 to 100 % of its area, of another
    # aspect
    train_crop: TrainCrop = "window"
    # stronger changes, for long trainings; see training/stronger.py
    policy: Policy = "none"  # TrivialAugment or RandAugment
    erasing: float = Field(default=0, ge=0, le=1)  # how likely a rectangle of an image is erased
    mixup: float = Field(default=0, ge=0)  # alpha of the beta distribution of shares; 0: never
    cutmix: float = Field(default=0, ge=0)  # likewise

    # 3. network
    backbone: str = "efficientnet_lite0"  # any name in timm or torchvision
    # a safetensors file, an earlier run's network.safetensors among them, or a plain checkpoint,
    # instead of a download
    weights: Path | None = None
    pretrained: bool = True  # or weights drawn anew
    hidden: tuple[Width, ...] = (512,)  # widths of the head's hidden layers; none: a linear head
    # before each linear layer of the head; one number counts for all; unsaid: 0.25, the last 0.5
    dropout: tuple[float, ...] = (0.25, 0.5)
    # added to the variance of each of the backbone's features before the head scales it to one
    epsilon: float = Field(default=0.01, gt=0)

    # 4. learning: steps
    # of the backbone and its gradients; auto: bfloat16 where the device multiplies it in hardware
    precision: Precision = "auto"
    batch_size: int = Field(default=64, ge=2, le=2**16)
    # classes of unequal size: weights in the loss, or rare ones drawn more often
    balance: Literal["none", "weights", "sampling"] = "none"
    # of the right label's 1, what is spread over all labels; single-label training loss alone
    label_smoothing: float = Field(default=0, ge=0, lt=1)
    learning_rate: float | None = Field(default=None, gt=0)  # None: what the finder suggests
    unfrozen_learning_rate: float | None = Field(default=None, gt=0)  # the same, once unfrozen
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)  # of sgd
    weight_decay: float = Field(default=1e-4, ge=0)
    decay_biases: bool = True  # and the scales of normalisation, or matrices and filters alone
    clip_norm: float | None = Field(default=1.0, gt=0)  # of all gradients together; empty: none
    # what weight_decay is: the optimizer's own; a share of each weight that every step takes off,
    # whatever the rate (decoupled); or that share for a cycle, scaled to its steps (per_cycle)
    decay: Literal["optimizer", "decoupled", "per_cycle"] = "optimizer"

    # learning: epochs and the rates in them
    head_epochs: int = Field(default=5, ge=1, le=MOST_EPOCHS)  # on cached activations
    head_schedule: Literal["constant", "cosine"] = "cosine"
    augmented_epochs: int = Field(default=1, ge=0, le=MOST_EPOCHS)  # head alone, augmented images
    # of a cycle on augmented images: a cosine down; or up and down, momentum opposite, in lines
    # (one_cycle) or in half cosines (cosine_cycle)
    schedule: Literal["cosine", "one_cycle", "cosine_cycle"] = "cosine"
    cycle_div: float = Field(default=10, gt=1)  # up and down begins at this part of the rate
    cycle_rise: float = Field(default=0.25, gt=0, lt=1)  # share of cosine_cycle's steps, to go up
    # percent of one_cycle's steps in which the rate falls below where it began
    cycle_tail: float = Field(default=10, ge=0, lt=100)
    cycle_momenta: tuple[float, float] = (0.95, 0.85)  # where the rate is low and high
    cycles: int = Field(default=2, ge=0, le=200)  # through all layers; 0 stops at the head
    cycle_len: int = Field(default=1, ge=1, le=MOST_EPOCHS)  # epochs of the first cycle
    cycle_mult: int = Field(
        default=2, ge=1, le=10
    )  # every cycle is so many times as long as the last
    # the rate of each layer group as a share of the head's: 3x to 10x steps
    group_rates: tuple[float, float, float] = (0.1, 0.3, 1.0)

    # learning: the unfrozen epochs
    # the distance within which the steepest loss is descended from
    # (sharpness-aware minimisation, for example 0.05), and in which step of how many; 0: never
    sam: float = Field(default=0, ge=0)
    sam_every: int = Field(default=1, ge=1)
    compile: bool = False  # the unfrozen pass: minutes at first, then faster, on GPUs above all
    # of each block of the backbone as a share of the next one's, instead of group_rates: 0.65 to
    # 0.9 for ConvNeXt and transformers; family: by the backbone's name; 1: as group_rates say
    layer_decay: Annotated[float, Field(gt=0, le=1)] | Literal["family"] = 1.0
    frozen_groups: int = Field(default=0, ge=0, le=2)  # that stay frozen when the rest unfreezes
    freeze_batchnorm: bool = True  # running statistics and scales of the backbone stay as they are
    # which weights of the unfrozen epochs are kept; swa is their mean
    keep: Keep = "last"
    # an exponential mean of the unfrozen epochs' weights beside them: how much of it is kept each
    # step, for example 0.999; 0: none
    ema: float = Field(default=0, ge=0, lt=1)
    # when the mean takes the weights' place: if it is better on images set apart, and where none
    # can be spared; or always
    ema_kept: Literal["better", "always"] = "better"
    # of the training part, set apart where keep, ema, patience or thresholds need images to judge
    judge_share: float = Field(default=0.1, gt=0, lt=1)
    judge_by: Literal["log_loss", "metric"] = "log_loss"  # lower, and higher, is better
    # stop after so many cycles in a row without an epoch better than the best before; 0: never
    patience: int = Field(default=0, ge=0)
    snapshots: bool = False  # keep the network at each cycle's end, and measure their mean answer

    # least time between two checkpoints of a stage, besides one at its end; 0: after every batch
    checkpoint_seconds: float = Field(default=30, ge=0)

    # 5. evaluation
    # heads learnt from 1/8, 1/4, 1/2 and all of the images, so many times each; 0: no such curve
    learning_curve: int = Field(default=0, ge=0, le=20)
    # labels that heads which never saw them call otherwise are told and listed, never changed
    label_noise: bool = True
    # divide the logits by the temperature that makes answers as sure as they are right, found on a
    # share of the training part that is not learnt from
    calibrate: bool = False
    calibrate_share: float = Field(default=0.1, gt=0, lt=1)
    # of multi-label answers: 0.5, or each label's best for F2 on the images set apart
    thresholds: Literal["half", "fitted"] = "half"
    tta_views: int = Field(default=5, ge=0, le=MAX_VIEWS)
    serve_tta_views: int = Field(default=1, ge=0, le=MAX_VIEWS)  # when a request does not say

    # 6. export: copies in fewer bits, kept if they cost next to nothing
    variants: tuple[Reduced, ...] = ("int8",)

    # 7. watching: curves in the run's folder; unsaid: where the package tensorboard is installed
    tensorboard: bool | None = None

    @property
    def judges(self) -> bool:
        """Whether images have to be set apart to judge by."""
        return self.keep == "best" or self.patience > 0 or self.thresholds == "fitted"

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
