"""Brings together what a training works on: the images, a backbone, and a checkpoint."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from registry.errors import BadRequest
from registry.jobs import CHECKPOINT
from training.bench import Bench
from training.data.paths import is_within
from training.fit.device import pick_device, unused_gpu
from training.fit.malloc import keep_freed_memory
from training.images import Images
from training.learnt_before import begin_with
from training.network.backbone import Backbone, load_backbone
from training.network.classifier import build_network, try_size
from training.run.event_files import EVENTS_FOLDER, EventFile, tensorboard_wanted
from training.run.progress import Stages
from training.settings import Settings


def open_backbone(settings: Settings, *, within: Sequence[Path] = ()) -> Backbone:
    """The backbone of the settings, with the weights of the settings.

    Args:
        within: folders that a weights file must lie in, links followed; none: anywhere.

    Raises:
        BadRequest: no such network; or its weights file does not fit it or lies outside; or it
            does not take images of a size in the settings.
        Unavailable: the weights cannot be downloaded.
    """
    weights = settings.weights
    # before any file is opened: a service's clients must learn nothing about its other files
    if weights and within and not is_within(weights, within):
        raise BadRequest(
            f"settings: weights={weights} lies outside the folders that may be trained on; move "
            "it below one of them, or start without it (weights=)"
        )
    backbone = load_backbone(settings.backbone, pretrained=settings.pretrained, weights=weights)
    for size in {settings.size, *settings.sizes}:  # before images are decoded at a wrong size
        try_size(backbone.name, backbone.body, size)
    return backbone


def open_bench(
    settings: Settings, images: Images, backbone: Backbone, stages: Stages, run: Path
) -> Bench:
    """A bench of the images and a network with a new head for their labels, on the device.

    Raises:
        BadRequest: the backbone does not take images of this size.
    """
    keep_freed_memory()
    network = build_network(
        backbone,
        len(images.dataset.labels),
        size=settings.size,
        hidden=settings.hidden,
        dropout=settings.dropout,
        epsilon=settings.epsilon,
    )
    network.precision = settings.precision
    bench = Bench(
        settings,
        images.dataset,
        images.decoded,
        images.enlarged,
        network.to(pick_device()),
        stages,
        images.audit,
        run,
        settings.size_phases()[-1],
        event_file=EventFile(
            run / EVENTS_FOLDER if tensorboard_wanted(settings.tensorboard) else None
        ),
    )
    if why := unused_gpu():
        bench.note(
            "gpu", f"training on the CPU, as PyTorch cannot use the GPU of this machine: {why}"
        )
    if settings.weights:
        begin_with(bench, settings.weights)
    return bench


def keep_checkpoint(bench: Bench, weights_digest: str) -> None:
    """From now on the steps keep a checkpoint in the bench's run folder; if there is one of the
    same training, interrupted, they resume from it.

    Raises:
        Conflict: the folder holds an unfinished training of something else.
    """
    key = {
        "settings": bench.settings.model_dump_json(),
        "images": bench.dataset.fingerprint,
        "labels": str(bench.dataset.labels),  # in the order of the outputs
        "weights of images": hashlib.sha256(bench.dataset.weights.tobytes()).hexdigest(),
        "weights of the backbone": weights_digest,
        "device": bench.device.type,
    }
    every_s, world = bench.settings.checkpoint_seconds, bench.network.world
    note = bench.stages.note
    bench.checkpoint.open(bench.run / CHECKPOINT, key, every_s, writes=world.is_main, note=note)
    world.barrier()  # all must have read the checkpoint before it is overwritten
    bench.checkpoint.register("bench", bench.results)
