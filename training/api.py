"""Training from Python, in a notebook for example. Three calls train a folder of images:

    from training import pretrained, read_images

    images = read_images("photos", size=224)
    learner = pretrained("efficientnet_lite0", images)
    learner.fit()

`training/learner.py` has the single steps of `fit`, and what comes after them.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import torch

from registry.errors import BadRequest
from training.images import Images, open_images
from training.learner import Learner
from training.opening import open_backbone, open_bench
from training.planned_stages import planned_stages
from training.reading_settings import read_settings, write_setting
from training.run.progress import Lines, Stages, Tell
from training.settings import default_cache


def read_images(
    source: str | Path,
    size: int = 224,
    *,
    settings: Mapping[str, object] | None = None,
    cache: str | Path | None = None,
    tell: Tell | None = None,
) -> Images:
    """Reads the images at `source`, splits them into training and validation, and decodes them
    once.

    Args:
        source: a folder of class folders, or one with train/ and valid/, or a table of file,label.
        size: side of the network's square input, in pixels.
        settings: any others of `training/settings.py`, for all steps that follow; except
            `backbone`, which is an argument of `pretrained`.
        cache: the cache folder; by default the user's.
        tell: called with progress and findings; by default they are printed, a line each.

    Raises:
        BadRequest: an unknown setting, one that is an argument here, or a value of a wrong type.
        DataError: nothing to train on; says which file or class, and what to do.
    """
    for name, taker in (("size", "read_images"), ("backbone", "pretrained")):
        if name in (settings or {}):
            raise BadRequest(f"settings: {name} is an argument of {taker}; pass it there")
    given = {name: write_setting(value) for name, value in (settings or {}).items()}
    chosen = read_settings(given | {"size": str(size)})
    stages = Stages(tell or Lines(), len(planned_stages(chosen)))
    return open_images(chosen, Path(source), Path(cache or default_cache()), stages)


def pretrained(
    backbone: str, images: Images, *, run: str | Path | None = None, tell: Tell | None = None
) -> Learner:
    """The network `backbone` of timm or torchvision, pretrained on ImageNet, with a new head for
    the labels of `images`.

    Args:
        run: a folder for torch weights; by default a new one in the cache.

    Raises:
        BadRequest: no such network, or it does not take images of this size.
        Unavailable: its weights are not here and cannot be downloaded.
    """
    settings = images.settings.model_copy(update={"backbone": backbone})
    torch.manual_seed(settings.seed)
    network = open_backbone(settings)
    folder = Path(run or images.cache / "runs" / f"{backbone}-{datetime.now():%Y%m%d-%H%M%S}")
    folder = folder.absolute()  # so that what `save` returns can be loaded from any folder
    stages = Stages(tell or Lines(), len(planned_stages(settings)))
    return Learner(
        open_bench(settings, images, network, stages, folder), network, images.source, images.cache
    )
