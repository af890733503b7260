"""Fine-tunes an image classifier. Begin with `training/recipe.py`: every step, in order.

From Python, three calls train a folder of images; see `training/api.py`:

    from training import pretrained, read_images

    images = read_images("photos", size=224)
    learner = pretrained("efficientnet_lite0", images)
    learner.fit()
"""

import training.short_spins  # noqa: F401  # before torch

# isort: split
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.api import pretrained as pretrained
    from training.api import read_images as read_images
    from training.classify_file import classify as classify
    from training.learner import Learner as Learner

_HOMES = {
    "Learner": "training.learner",
    "classify": "training.classify_file",
    "pretrained": "training.api",
    "read_images": "training.api",
}
__all__ = ["Learner", "classify", "pretrained", "read_images"]


def __getattr__(name: str) -> object:
    """Imported when they are used: `training.foreign` does without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
