"""Photographs of solar cells from the installed package `elpv-dataset` (CC-BY-NC-SA)."""

import random
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from unfreeze.demo.errors import DemoError

DEFECTIVE, FUNCTIONAL = "defective", "functional"
DEFECTIVE_FROM = 0.5  # lowest probability of a defect in the data set that counts as one
HELD_OUT_SHARE = 0.25
SEED = 42


@dataclass(frozen=True)
class Photographs:
    """Two folders for training, with the same held-out files, and the classes of those."""

    first: Path  # half of the training images
    all: Path
    truth: dict[Path, str] = field(default_factory=dict)  # held-out file -> class

    @property
    def held_out(self) -> list[Path]:
        return sorted(self.truth)


def lay_out(folder: Path) -> Photographs:
    """Copies the images into `folder`/first and /all, each with train/<class>/ and valid/<class>/.

    Raises:
        DemoError: the package is not installed.
    """
    photographs = Photographs(folder / "first", folder / "all")
    rng = random.Random(SEED)
    for name, files in sorted(_by_class().items()):
        rng.shuffle(files)
        n_held_out = round(len(files) * HELD_OUT_SHARE)
        held_out, rest = files[:n_held_out], files[n_held_out:]
        half = rest[: len(rest) // 2]
        for root, part, chosen in (
            (photographs.first, "train", half),
            (photographs.first, "valid", held_out),
            (photographs.all, "train", rest),
            (photographs.all, "valid", held_out),
        ):
            copies = _copy(chosen, root / part / name)
            if root == photographs.all and part == "valid":
                photographs.truth.update(dict.fromkeys(copies, name))
    return photographs


def _by_class() -> dict[str, list[Path]]:
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise DemoError("elpv-dataset is not installed; pip install elpv-dataset==1.0.0.post1")
    source = Path(spec.origin).parent / "data"
    by_class: dict[str, list[Path]] = defaultdict(list)
    for line in (source / "labels.csv").read_text(encoding="utf-8").splitlines():
        file, probability, _ = line.split()
        name = DEFECTIVE if float(probability) >= DEFECTIVE_FROM else FUNCTIONAL
        by_class[name].append(source / file)
    return by_class


def _copy(files: list[Path], target: Path) -> list[Path]:
    target.mkdir(parents=True)
    return [Path(shutil.copyfile(file, target / file.name)) for file in files]
