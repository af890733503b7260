"""Training from Python, in a notebook for example. Three calls train a folder of images:

    from training import pretrained, read_images

    images = read_images("photos", size=224)
    learner = pretrained("efficientnet_lite0", images)
    learner.fit()

`training/learner.py` has the steps that `fit` takes, and what comes after them.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import torch

from registry.errors import BadRequest
from training.learner import Learner
from training.opening import Images, open_backbone, open_bench, open_images
from training.reading_settings import read_settings, write_setting
from training.recipe import count_stages
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
    """The images at `source`, read, split into what is learnt from and what is held out, and
    decoded once.

    Args:
        source: a folder of class folders, or one with train/ and valid/, or a table of file,label.
        size: side of the square that the network sees, in pixels.
        settings: any others of `training/settings.py`, for all that follows; but for `backbone`,
            which is an argument of `pretrained`.
        cache: a folder for what is computed once; the user's own if not said.
        tell: told what is done and found; printed in lines if not said.

    Raises:
        BadRequest: an unknown setting, one that is an argument, or a value that is not of its kind.
        DataError: nothing to train on; says which file or class, and what to do.
    """
    for name, taker in (("size", "read_images"), ("backbone", "pretrained")):
        if name in (settings or {}):
            raise BadRequest(f"settings: {name} is an argument of {taker}; say it there")
    given = {name: write_setting(value) for name, value in (settings or {}).items()}
    chosen = read_settings(given | {"size": str(size)})
    stages = Stages(tell or Lines(), count_stages(chosen))
    return open_images(chosen, Path(source), Path(cache or default_cache()), stages)


def pretrained(
    backbone: str, images: Images, *, run: str | Path | None = None, tell: Tell | None = None
) -> Learner:
    """The network that timm or torchvision calls `backbone`, as it learnt from ImageNet, with a
    fresh head for the labels of `images`.

    Args:
        run: a folder for torch weights; a new one in the cache if not said.

    Raises:
        BadRequest: no such network, or it does not take images of this size.
        Unavailable: its weights are neither here nor to be downloaded.
    """
    settings = images.settings.model_copy(update={"backbone": backbone})
    torch.manual_seed(settings.seed)
    network = open_backbone(settings)
    folder = Path(run or images.cache / "runs" / f"{backbone}-{datetime.now():%Y%m%d-%H%M%S}")
    stages = Stages(tell or Lines(), count_stages(settings))
    return Learner(
        open_bench(settings, images, network, stages, folder), network, images.source, images.cache
    )
