"""A tiny data set of real files, and a training of seconds: no download, no large network."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from registry.jobs import Assignment, Event

if TYPE_CHECKING:
    from training import Learner

SIZE = 32
CLASSES = {"dark": 60, "light": 190}  # mean brightness

# A network of timm's own test suite, with random weights: 0.4 million parameters.
QUICK = {
    "backbone": "test_efficientnet",
    "pretrained": "false",
    "size": str(SIZE),
    "batch_size": "8",
    "hidden": "16",
    "head_epochs": "4",
    "augmented_epochs": "1",
    "cycles": "1",
    "tta_views": "3",
    "valid_fraction": "0.3",
    "variants": "",
    # steps that show in seconds, and every stage
    "optimizer": "sgd",
    "weight_decay": "0.0001",
    "learning_rate": "",
    "unfrozen_learning_rate": "",
    "schedule": "cosine",
    "cycle_len": "1",
    "dropout": "",
    "layer_decay": "1",
    "max_rotate": "10",
}

# The same from Python, where numbers are numbers; backbone and size are arguments there.
AS_PYTHON: dict[str, object] = {
    **{name: text for name, text in QUICK.items() if name not in ("backbone", "size")},
    **{"pretrained": False, "batch_size": 8, "group_rates": (0.1, 0.3, 1.0), "variants": ()},
    **{"learning_rate": None, "unfrozen_learning_rate": None, "dropout": ()},
}


def photo(path: Path, brightness: int, seed: int) -> Path:
    """A noisy picture, 40 x 36, as a file of the kind that `path` names."""
    noise = np.random.default_rng(seed).normal(brightness, 30, (36, 40, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)
    return path


def folder(root: Path, per_class: int = 12, classes: dict[str, int] = CLASSES) -> Path:
    """`root` has a folder of photographs for each class."""
    for name, brightness in classes.items():
        for number in range(per_class):
            suffix = ("png", "jpg", "webp")[number % 3]
            photo(root / name / f"{number:02d}.{suffix}", brightness, seed=brightness + number)
    return root


def assignment(tmp_path: Path, data: Path, **settings: str) -> Assignment:
    return Assignment(
        model="photos",
        data=data,
        settings=QUICK | settings,
        cache=tmp_path / "cache",
        run=tmp_path / "run",
        stage=tmp_path / "stage",
    )


def learner(tmp_path: Path, per_class: int = 12, **settings: object) -> "Learner":
    """What the first two calls of `training/api.py` give."""
    from training import pretrained, read_images

    images = read_images(
        folder(tmp_path / "data", per_class),
        SIZE,
        settings=AS_PYTHON | settings,
        cache=tmp_path / "cache",
        tell=lambda event: None,
    )
    return pretrained("test_efficientnet", images, run=tmp_path / "run", tell=lambda event: None)


class Heard(list[Event]):
    """Events, as they were told."""

    def of(self, kind: str) -> list[Event]:
        return [event for event in self if event.kind == kind]
