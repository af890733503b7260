"""What a training begins with: images read, split and decoded, and a network with a fresh head."""

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
from training.data.items import Item, Part, is_within
from training.fit.device import pick_device
from training.fit.malloc import keep_freed_memory
from training.network.backbone import Backbone, load_backbone
from training.network.classifier import build_network, try_size
from training.run.event_files import FOLDER, Curves, wanted
from training.run.progress import Stages
from training.settings import Settings


@dataclass(frozen=True)
class Images:
    """A data set whose pixels are at hand, and what is remarkable about it."""

    settings: Settings  # by which it was read, and for all that follows
    source: Path
    cache: Path  # where what is computed once is kept
    dataset: Dataset
    decoded: Decoded  # what `prepare` gives: evaluation and activations
    roomy: Decoded  # larger, for augmentation alone
    audit: Audit

    def __repr__(self) -> str:
        """A line for a notebook, where a last line is shown."""
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
) -> Images:
    """The images at `source`, in their parts and decoded once; problems are told.

    Args:
        within, known_parts: see `read_dataset`.

    Raises:
        DataError: nothing to train on; says which file or class, and what to do.
        BadRequest: a fold is asked for, and known images keep another one held out.
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
        tell_kept(settings, dataset, stages.note)
        return dataset

    stages.begin("audit and split", 0)
    dataset = read({})
    stages.begin("decode once", 2 * len(dataset.items) + len(dataset.tests))
    spec = settings.image_spec()
    dataset, decoded, tests = decode_whole(dataset, read, spec, cache, stages)
    room = larger(spec, settings.cache_size)
    roomy = decode(dataset.items, room, cache, stages.advance, stages.note)

    audit = audit_decoded(source, dataset, decoded, tests)
    for problem in audit.problems:
        stages.note(problem.text)
    if any(problem.rows or problem.files for problem in audit.problems):
        stages.note(f"which ones: unfreeze data audit {shlex.quote(str(source))}")
    return Images(settings, source, cache, dataset, decoded, roomy, audit)


def tell_kept(settings: Settings, dataset: Dataset, note: Callable[[str], None]) -> None:
    """Settings by which known images would be in other parts are told to count for new ones alone.

    Raises:
        BadRequest: one of them asks for a fold.
    """
    if not dataset.n_elsewhere:
        return
    kept = (
        f"{dataset.n_kept} of {len(dataset.items)} images keep the part that the promoted version "
        "gave them"
    )
    if settings.split in ("cv", "blocks") and "fold" in settings.model_fields_set:
        raise BadRequest(
            f"settings: fold={settings.fold}: {kept}, by which this fold is not what is held out; "
            "train each fold as a model of its own name, or leave fold out"
        )
    note(
        f"{kept}, {dataset.n_elsewhere} of them another than split, valid_fraction, fold and seed "
        "would; these count for the other images alone"
    )


def decode_whole(
    dataset: Dataset,
    read: Callable[[Mapping[Path, str]], Dataset],
    spec: ImageSpec,
    cache: Path,
    stages: Stages,
) -> tuple[Dataset, Decoded, Decoded | None]:
    """The data set without files that are damaged behind their header, if it may be without them;
    its pixels, and those of the test part: that they are there is looked at now, and not in the
    end, when everything has been learnt.

    Args:
        read: the data set anew, told which files are damaged and why.
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
    """The network that the settings name, with the weights that they name.

    Args:
        within: folders in which a file of weights must lie, links followed; none: anywhere.

    Raises:
        BadRequest: no such network, or its file of weights is not for it, or outside; or it does
            not take images of a size that the settings name.
        Unavailable: the weights cannot be downloaded.
    """
    weights = settings.weights
    # before anything is looked at: who asks a service learns nothing of its other files
    if weights and within and not is_within(weights, within):
        raise BadRequest(
            f"settings: weights={weights} lies outside the folders that may be trained on; move "
            "it below one of them, or leave weights out"
        )
    backbone = load_backbone(settings.backbone, pretrained=settings.pretrained, weights=weights)
    for size in {settings.size, *settings.sizes}:  # before all images are decoded at it
        try_size(backbone.name, backbone.body, size)
    return backbone


def open_bench(
    settings: Settings, images: Images, backbone: Backbone, stages: Stages, run: Path
) -> Bench:
    """The images beside a network that has a fresh head for their labels, on the device.

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
    """From now on the steps keep a checkpoint in the bench's run; if a training of the same was
    killed there, they go on where it was.

    Raises:
        Conflict: an unfinished training of something else is there.
    """
    key = {
        "settings": bench.settings.model_dump_json(),
        "images": bench.dataset.fingerprint,
        "weights of images": hashlib.sha256(bench.dataset.weights.tobytes()).hexdigest(),
        "weights of the backbone": weights_digest,
        "device": bench.device.type,
    }
    every_s, world = bench.settings.checkpoint_seconds, bench.network.world
    note = bench.stages.note
    bench.checkpoint.open(bench.run / CHECKPOINT, key, every_s, writes=world.first, note=note)
    world.wait()  # so that all have read the same before it is written anew
    bench.checkpoint.register("bench", bench)
