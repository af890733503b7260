"""What a training starts from: images read, split and decoded, and a network with a new head."""

import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import BadRequest
from registry.images import ImageSpec
from registry.jobs import CHECKPOINT
from training.bench import Bench
from training.data.audit import Audit, audit_decoded
from training.data.dataset import Dataset, read_dataset
from training.data.decoded import Damaged, Decoded, decode, larger
from training.data.items import Item, Part, SplitRule, is_within
from training.fit.device import pick_device
from training.fit.malloc import keep_freed_memory
from training.network.backbone import Backbone, load_backbone
from training.network.classifier import build_network, try_size
from training.run.event_files import FOLDER, Curves, wanted
from training.run.progress import Stages
from training.settings import Settings

# the settings that an audit's findings depend on
AUDITED = (
    *("task", "images", "suffix", "header", "label_separator", "test"),
    *("seed", "split", "valid_fraction", "fold", "group"),
    *("size", "crop", "crop_fraction"),
)


@dataclass(frozen=True)
class Images:
    """A decoded data set and its audit."""

    settings: Settings  # that it was read with, and for all steps that follow
    source: Path
    cache: Path
    dataset: Dataset
    decoded: Decoded  # as `prepare` gives them: for evaluation and activations
    roomy: Decoded  # larger, for augmentation only
    audit: Audit

    def __repr__(self) -> str:
        """One line, which a notebook shows for the last value of a cell."""
        size = self.settings.size
        return f"<{self.source}: {self.dataset.summary()}; {size} x {size} pixels>"


def open_images(
    settings: Settings,
    source: Path,
    cache: Path,
    stages: Stages,
    *,
    within: Sequence[Path] = (),
    known_parts: Mapping[str, Part] | None = None,
    known_rule: SplitRule | None = None,
) -> Images:
    """Reads the images at `source`, splits and decodes them; reports problems.

    Args:
        within, known_parts: see `read_dataset`.
        known_rule: the settings of the split that gave the known parts, if that is recorded.

    Raises:
        DataError: nothing to train on; says which file or class, and what to do.
        BadRequest: a fold is asked for, but known images keep the parts of another split.
    """

    def read(damaged: Mapping[Path, str]) -> Dataset:
        dataset = read_dataset(
            source,
            task=settings.task,
            layout=settings.layout(),
            rule=settings.split_rule(),
            max_unreadable=settings.max_unreadable,
            within=within,
            known_parts=known_parts,
            cache=cache,
            damaged=damaged,
            advance=stages.advance,
        )
        stages.note(dataset.summary())
        tell_kept(settings, known_rule, dataset, stages.note)
        return dataset

    stages.begin("audit and split", 0)
    dataset = read({})
    stages.begin("decode the images", 2 * len(dataset.items) + len(dataset.tests))
    spec = settings.image_spec()
    dataset, decoded, tests = decode_whole(dataset, read, spec, cache, stages)
    room = larger(spec, settings.cache_size)
    roomy = decode(dataset.items, room, cache, stages.advance, stages.note)

    audit = audit_decoded(source, dataset, decoded, tests)
    for problem in audit.problems:
        stages.note(problem.text)
    if any(problem.rows or problem.files for problem in audit.problems):
        stages.note(f"which ones: {audit_command(source, settings)}")
    return Images(settings, source, cache, dataset, decoded, roomy, audit)


def audit_command(source: Path, settings: Settings) -> str:
    """The command that shows the problems of these images as a training with `settings` finds
    them."""
    plain, words = Settings(), ["unfreeze", "data", "audit", str(source)]
    for name in AUDITED:
        if (value := getattr(settings, name)) != getattr(plain, name):
            words += ["--set", f"{name}={str(value).lower() if value is False else value}"]
    return shlex.join(words)


def tell_kept(
    settings: Settings,
    known_rule: SplitRule | None,
    dataset: Dataset,
    note: Callable[[str], None],
) -> None:
    """Warns where the settings of the split apply to new images only, because known ones keep the
    part that they had.

    Raises:
        BadRequest: a fold is asked for, and the known parts are not those of the same fold. That
            is decided by `known_rule`: a fold drawn again differs as soon as the data have grown.
    """
    if not dataset.n_elsewhere:
        return
    kept = (
        f"{dataset.n_kept} of {len(dataset.items)} images keep the part that the promoted version "
        "gave them"
    )
    named = settings.split in ("cv", "blocks") and "fold" in settings.model_fields_set
    if named and settings.split_rule() != known_rule:
        raise BadRequest(
            f"settings: fold={settings.fold}: {kept}, so this fold is not what would be held out; "
            "train each fold as a model of its own name, or leave fold out"
        )
    note(
        f"{kept}, which for {dataset.n_elsewhere} of them is not the one that split, "
        "valid_fraction, fold and seed would give; these settings apply to the other images only"
    )


def decode_whole(
    dataset: Dataset,
    read: Callable[[Mapping[Path, str]], Dataset],
    spec: ImageSpec,
    cache: Path,
    stages: Stages,
) -> tuple[Dataset, Decoded, Decoded | None]:
    """The data set without the files that are damaged behind their header, if that is allowed, with
    its pixels and those of the test part. The latter are decoded now, to find damaged files before
    the training rather than after it.

    Args:
        read: reads the data set again, given the damaged files with the reasons.
    """

    def decoded_of(items: Sequence[Item]) -> Decoded:
        return decode(items, spec, cache, stages.advance, stages.note)

    damaged: dict[Path, str] = {}
    while True:
        try:
            decoded = decoded_of(dataset.items)
            tests = decoded_of(dataset.tests) if dataset.tests else None
        except Damaged as error:
            damaged |= error.files
            dataset = read(damaged)
        else:
            return dataset, decoded, tests


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
            "it below one of them, or leave weights out"
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
    return Bench(
        settings,
        images.dataset,
        images.decoded,
        images.roomy,
        network.to(pick_device()),
        stages,
        images.audit,
        run,
        settings.turns()[-1],
        curves=Curves(run / FOLDER if wanted(settings.tensorboard) else None),
    )


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
    bench.checkpoint.open(bench.run / CHECKPOINT, key, every_s, writes=world.first, note=note)
    world.wait()  # all must have read the checkpoint before it is overwritten
    bench.checkpoint.register("bench", bench)
