"""One image of a data set with its label, and how data sets are laid out and split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["train", "valid", "test"]
Drawing = Literal["hash", "stratified", "cv", "blocks"]
TABLES = {".csv", ".tsv"}
PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Facts:
    """What an image's header says."""

    width: int
    height: int
    mode: str  # as Pillow names it: RGB, L, I;16, CMYK, P, …
    format: str
    n_bytes: int


@dataclass(frozen=True)
class Item:
    """One image; several labels only in a multi-label task; test images may have none."""

    path: Path
    labels: tuple[str, ...]
    part: Part | None
    sha256: str = ""
    group: str = ""  # images of one group are never split
    weight: float = 1.0  # in the training loss; scores count every image once
    facts: Facts | None = None  # once the file has been read


# between the labels of a table that Unfreeze writes: names may have any character that people type
SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Layout:
    """How to read files and tables, where they do not show it themselves."""

    images: str = ""  # the folder of a table's images, relative to the table
    suffix: str = ""  # what to add to the file names in a table, such as .jpg
    header: bool = True  # the table's first line names its columns
    separator: str = " "  # between the labels of a row; empty: a row has one label
    label_columns: tuple[str, ...] = ()  # columns of 0 and 1, one for each class
    # a column, or a regular expression for the group's name in a path: training/data/grouping.py
    group: str = ""
    test: str = ""  # a folder of images to predict at the end; test/ beside train/ is found anyway


@dataclass(frozen=True)
class SplitRule:
    """How to split images whose part is not given."""

    kind: Drawing = "hash"
    valid_fraction: float = 0.2
    seed: int = 42
    fold: int = 0  # of cv and blocks: which share of the images is held out


PLAIN = Layout()
BY_HASH = SplitRule()
