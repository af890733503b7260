"""What a training can be told: `--set key=value` on the command, `settings` in an admin request."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from registry.bundle import Reduced
from registry.errors import BadRequest
from registry.images import ImageSpec
from registry.schema import Record, explain
from registry.tta import MAX_VIEWS, Symmetries, TtaSpec
from training.items import Drawing, Layout, SplitRule

Augmentation = Literal["none", "basic", "side_on", "flips", "top_down"]

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
    clip_norm: float | None = None  # largest norm of all gradients together


class Settings(Record):
    """The recipe's numbers, in the order in which the recipe uses them."""

    # 1. data
    seed: int = Field(default=42, ge=0)
    task: Literal["auto", "single", "multi"] = "auto"
    valid_fraction: float = Field(default=0.2, gt=0, lt=1)
    # how parts are drawn: hash keeps every image's part while data grows
    split: Drawing = "hash"
    fold: int = Field(default=0, ge=0)  # which of the folds is held out, with split=cv or blocks
    group: str = ""  # a table's column, or a regular expression for paths: never parted
    images: str = ""  # the folder of a table's images, relative to the table
    suffix: str = ""  # what the names in a table lack, such as .jpg
    header: bool = True  # a table's first line names its columns
    label_separator: str = " "  # in a table; empty: a row has one label
    test: str = ""  # a folder of images to answer in the end; may be without labels
    max_unreadable: int = Field(default=0, ge=0)  # files that may be left out of a training

    # 2. pixels
    size: int = Field(default=224, ge=2, le=1024)
    crop: Literal["center", "squash"] = "center"
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    augmentation: Augmentation = "side_on"
    max_rotate: float = Field(default=10, ge=0, le=180)  # degrees either way
    max_zoom: float = Field(default=1.1, ge=1, le=2)

    # 3. network
    backbone: str = "efficientnet_lite0"
    weights: Path | None = None  # a safetensors file or a plain checkpoint, instead of a download
    pretrained: bool = True
    hidden: tuple[int, ...] = (512,)  # widths of the head's hidden layers; none: a linear head
    dropout: tuple[float, ...] = (0.25, 0.5)  # one before each linear layer of the head

    # 4. optimisation
    batch_size: int = Field(default=64, ge=2)
    # classes of unequal size: weights in the loss, or rare ones drawn more often
    balance: Literal["none", "weights", "sampling"] = "none"
    learning_rate: float | None = Field(default=None, gt=0)  # None: what the finder suggests
    unfrozen_learning_rate: float | None = Field(default=None, gt=0)  # the same, once unfrozen
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)  # of sgd
    weight_decay: float = Field(default=1e-4, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)  # of all gradients together; empty: none
    head_epochs: int = Field(default=5, ge=1)  # on cached activations
    augmented_epochs: int = Field(default=1, ge=0)  # head alone, augmented images
    cycles: int = Field(default=2, ge=0)  # unfrozen; 0 stops at the head
    cycle_len: int = Field(default=1, ge=1)
    cycle_mult: int = Field(default=2, ge=1)
    # the rate of each layer group as a share of the head's: 3x to 10x steps
    group_rates: tuple[float, float, float] = (0.1, 0.3, 1.0)
    frozen_groups: int = Field(default=0, ge=0, le=2)  # that stay frozen when the rest unfreezes
    freeze_batchnorm: bool = True  # running statistics and scales of the backbone stay as they are

    # 5. evaluation
    tta_views: int = Field(default=5, ge=0, le=MAX_VIEWS)
    serve_tta_views: int = Field(default=1, ge=0, le=MAX_VIEWS)  # when a request does not say

    # 6. export: copies in fewer bits, kept if they cost next to nothing
    variants: tuple[Reduced, ...] = ("int8",)

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
            clip_norm=self.clip_norm,
        )

    def image_spec(self) -> ImageSpec:
        return ImageSpec(size=self.size, crop=self.crop, crop_fraction=self.crop_fraction)

    def tta_spec(self) -> TtaSpec:
        return TtaSpec(
            default_views=self.serve_tta_views,
            symmetries=SYMMETRIES[self.augmentation],
            max_zoom=self.max_zoom,
        )


def read_settings(given: dict[str, str]) -> Settings:
    """Settings from text, as a command line or a request gives it; lists are comma-separated.

    Raises:
        BadRequest: an unknown name, or a value that is not of its kind; names the field.
    """
    values: dict[str, object] = {}
    for name, text in given.items():
        field = Settings.model_fields.get(name)
        if field is None:
            known = ", ".join(sorted(Settings.model_fields))
            raise BadRequest(f"no setting is called {name!r:.80}; there are: {known}")
        if str(field.annotation).startswith("tuple"):
            values[name] = [part for part in text.split(",") if part.strip()]
        else:
            values[name] = None if text == "" and field.annotation is not str else text
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise BadRequest(f"settings: {explain(error)}") from error
    if len(settings.dropout) != len(settings.hidden) + 1:
        raise BadRequest(
            f"settings: {len(settings.dropout)} dropout values for {len(settings.hidden)} hidden "
            f"layers; give {len(settings.hidden) + 1}, one before each linear layer"
        )
    return settings
