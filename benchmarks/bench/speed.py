"""Times the parts of training, each in a process of its own: `-m bench.speed NAME`.

Whatever a part needs is loaded and warmed up before the clock starts.
"""

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from bench.cells import read_cells
from bench.record import Measures
from registry.images import ImageSpec, prepare
from training.bench import Bench
from training.data.audit import Audit
from training.data.dataset import Dataset
from training.data.decoded import Decoded, larger
from training.data.items import Item, Part
from training.fit.activations import BATCH, Activations, Parts, compute, compute_folded, to_device
from training.fit.batches import ActivationBatches, ImageBatches
from training.fit.device import has_fast_bf16, pick_device
from training.fit.epoch import Stage, Tally, train_epoch
from training.fit.malloc import keep_freed_memory
from training.fit.optimizer import Optimizer
from training.fit.passes import whole
from training.fit.plan import Plan
from training.fit.schedule import constant
from training.network.backbone import load_backbone
from training.network.classifier import Network, build_network, evaluating
from training.reading_settings import read_settings
from training.run.progress import Stages
from training.settings import OptimizerSpec, Settings
from training.steps import fit_head

SIZE, N_CLASSES, N_HIDDEN, BATCH_SIZE = 224, 2, 512, 64
N_IMAGES = 512  # of a head epoch, and of the forward passes that are compared
LESSON_TRAIN, LESSON_VALID, LESSON_EPOCHS = 23_000, 2_000, 3  # dogs and cats, 2018
CPU = torch.device("cpu")


def head_epoch() -> Measures:
    """An epoch of the head on cached activations, and one through the frozen backbone."""
    network = open_network("efficientnet_lite0")
    network.freeze_to(2)
    decoded = open_cells(N_IMAGES, SIZE)
    rows = np.arange(N_IMAGES)
    targets = torch.eye(N_CLASSES)[torch.arange(N_IMAGES) % N_CLASSES]
    features = compute(network, decoded, rows)
    cached = ActivationBatches(Activations(features, ""), targets, BATCH_SIZE, seed=0)
    numbers = Activations(torch.from_numpy(rows)[:, None], "")
    # the same batches, by row number instead of by features
    uncached = ActivationBatches(numbers, targets, BATCH_SIZE, seed=0)

    def through_backbone(places: Tensor) -> Tensor:
        pixels = to_device(decoded.pixels[places.flatten().numpy()], CPU)
        with torch.no_grad(), network.autocast():
            features = network.features(pixels)
        logits: Tensor = network.head(features.float())
        return logits

    epoch_s(network, network.head, cached)  # warms up
    with_cache = epoch_s(network, network.head, cached)
    without = epoch_s(network, through_backbone, uncached)
    return {"cached_s": with_cache, "uncached_s": without, "ratio": without / with_cache}


def epoch_s(
    network: Network, forward: Callable[[Tensor], Tensor], batches: ActivationBatches
) -> float:
    """Seconds of one epoch of the head."""
    plan = Plan(constant(len(batches), 1), None, None, (1,))
    stage = Stage("head", forward, nn.CrossEntropyLoss(), batches, [1e-2], plan)
    optimizer = Optimizer([list(network.head.parameters())], OptimizerSpec())
    network.train_unfrozen(freeze_batchnorm=True)
    began = time.perf_counter()
    train_epoch(stage, optimizer, Tally())
    return time.perf_counter() - began


def lesson_head(recipe: str) -> Measures:
    """The recipe's step for the head, with its head and learning rate, and the statistics and
    held-out measures of each epoch, on numbers in place of the activations of a ResNet-34."""
    settings = read_settings({"recipe": recipe, "head_epochs": str(LESSON_EPOCHS), "ema": "0"})
    body = load_backbone("resnet34", pretrained=False)
    network = build_network(
        body,
        N_CLASSES,
        size=SIZE,
        hidden=settings.hidden,
        dropout=settings.dropout,
        epsilon=settings.epsilon,
    )
    network.freeze_to(2)
    n_images: dict[Part, int] = {"train": LESSON_TRAIN, "valid": LESSON_VALID}
    items = [
        Item(Path(f"{number}.jpg"), (("cat", "dog")[number % 2],), part)
        for part, n in n_images.items()
        for number in range(n)
    ]
    dataset = Dataset(Path(), tuple(items), ("cat", "dog"), "single")
    dataset.targets  # noqa: B018  # computed once, as by the audit before a training
    bench = open_bench(settings, dataset, network, Decoded(np.empty(0, np.uint8), spec(), ""))
    torch.manual_seed(0)
    parts = Parts(*(Activations(torch.rand(n, 1024), "") for n in (LESSON_TRAIN, LESSON_VALID)))
    keep_freed_memory()  # as every training does
    began = time.perf_counter()
    fit_head(bench, parts, settings.learning_rate or 1e-2)
    return {"seconds": time.perf_counter() - began}


def forward_passes(backbone: str) -> Measures:
    """Images per second when computing activations, as in training and in plain eager float32."""
    network = open_network(backbone, pretrained=False)
    decoded = open_cells(N_IMAGES, SIZE)
    rows = np.arange(N_IMAGES)
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)

    def plainly(rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
        with evaluating(plain):
            for start in range(0, len(rows), BATCH):
                pixels = torch.from_numpy(decoded.pixels[rows[start : start + BATCH]])
                plain.features(pixels.permute(0, 3, 1, 2).contiguous().float())

    rates = []
    for forward in (lambda rows: compute_folded(network, decoded, rows), plainly):
        forward(rows[:BATCH])  # warms up
        began = time.perf_counter()
        forward(rows)
        rates.append(N_IMAGES / (time.perf_counter() - began))
    ours, theirs = rates
    return {
        "ours_per_s": ours,
        "plain_per_s": theirs,
        "ratio": ours / theirs,
        "bf16": has_fast_bf16(CPU),
    }


def gpu_epoch() -> Measures:
    """Images per second of fine-tuning every layer of a ResNet-34 in bf16, and of the same forward
    and backward passes on one batch that is on the device already."""
    device = pick_device()
    settings = read_settings({"backbone": "resnet34", "batch_size": "256", "frozen_groups": "0"})
    network = open_network("resnet34", pretrained=False).to(device)
    network.freeze_to(0)
    network.train_unfrozen(freeze_batchnorm=settings.keeps_statistics)
    n_images = 32 * settings.batch_size
    enlarged = open_cells(n_images, larger(spec(), None).size)
    targets = torch.eye(N_CLASSES)[torch.arange(n_images) % N_CLASSES]
    batches = ImageBatches(
        decoded=enlarged,
        rows=np.arange(n_images),
        targets=targets,
        size=SIZE,
        augmentation="side_on",
        max_zoom=1.1,
        max_rotate=10,
        batch_size=settings.batch_size,
        seed=0,
        device=device,
    )
    loss = nn.CrossEntropyLoss()
    dataset = Dataset(Path(), (), ("cat", "dog"), "single")
    forward = whole(open_bench(settings, dataset, network, enlarged))
    stage = Stage(
        "all", forward, loss, batches, [1e-4] * 3, Plan(constant(len(batches), 2), None, None, (2,))
    )
    optimizer = Optimizer(network.learning_groups(), settings.optimizer_spec())
    train_epoch(stage, optimizer, Tally())  # warms up
    ours = Tally(1)
    train_epoch(stage, optimizer, ours)
    pixels, labels = next(iter(batches.epoch(0)))
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(len(batches)):
        loss(forward(pixels), labels).backward()
    torch.cuda.synchronize()
    limit = n_images / (time.perf_counter() - began)
    rate = ours.n_images / ours.seconds
    return {"ours_per_s": rate, "limit_per_s": limit, "ratio": rate / limit}


def spec() -> ImageSpec:
    return ImageSpec(size=SIZE)


def open_network(backbone: str, *, pretrained: bool = True) -> Network:
    body = load_backbone(backbone, pretrained=pretrained)
    return build_network(body, N_CLASSES, size=SIZE, hidden=(N_HIDDEN,), dropout=(0.25, 0.5))


def open_cells(n: int, size: int) -> Decoded:
    """The pixels of `n` solar cells, repeated if there are fewer."""
    cells, asked = read_cells(), ImageSpec(size=size)
    pixels = np.stack([prepare(cell.file.read_bytes(), asked) for cell in cells[:n]])
    return Decoded(pixels[np.arange(n) % len(pixels)], asked, "")


def open_bench(settings: Settings, dataset: Dataset, network: Network, decoded: Decoded) -> Bench:
    """A bench for a single step, without an audit."""
    stages = Stages(lambda event: None, 1)
    phase, no_audit = settings.size_phases()[0], cast(Audit, None)
    return Bench(
        settings, dataset, decoded, decoded, network, stages, no_audit, Path(os.devnull), phase
    )


PARTS: dict[str, Callable[[], Measures]] = {
    "head epoch": head_epoch,
    "lesson head, fastai2018": lambda: lesson_head("fastai2018"),
    "lesson head, modern": lambda: lesson_head("modern"),
    "forward, efficientnet_lite0": lambda: forward_passes("efficientnet_lite0"),
    "forward, resnet34": lambda: forward_passes("resnet34"),
    "gpu": gpu_epoch,
}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]]()))
