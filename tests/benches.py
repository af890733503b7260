"""Benches of seconds: a network beside a few photographs."""

from pathlib import Path

import photos
import torch
from torch import nn

from training.bench import Bench
from training.images import open_images
from training.network.backbone import load_backbone
from training.opening import open_bench
from training.reading_settings import read_settings
from training.run.progress import Stages
from training.steps import fit_unfrozen


def little() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def opened(tmp_path: Path, data: Path, told: dict[str, str]) -> Bench:
    settings = read_settings(told)
    torch.manual_seed(settings.seed)
    stages = Stages(lambda event: None, 1)
    images = open_images(settings, data, tmp_path / "cache", stages)
    backbone = load_backbone(
        settings.backbone, pretrained=settings.backbone == "efficientnet_lite0"
    )
    return open_bench(settings, images, backbone, stages, tmp_path / "run")


def unfrozen(tmp_path: Path, data: Path | None = None, **told: str) -> Bench:
    """A bench whose network has learnt in one epoch without anything frozen."""
    source = data or photos.folder(tmp_path / "data", per_class=12)
    bench = opened(tmp_path, source, photos.QUICK | told)
    fit_unfrozen(bench, 0.01)
    return bench
