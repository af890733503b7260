"""The images of a training: read, split, decoded and audited before anything is learnt."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import BadRequest
from registry.images import ImageSpec
from training.data.audit import Audit, audit_decoded
from training.data.dataset import Dataset, read_dataset
from training.data.decoded import Damaged, Decoded, decode, larger
from training.data.items import Item, Part, SplitRule
from training.reading_settings import write_setting
from training.run.progress import Stages
from training.settings import Settings

# the settings that an audit's findings depend on
AUDITED = (
    *("task", "images", "suffix", "header", "label_separator"),
    *("label_columns", "test"),
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
    enlarged: Decoded  # with more pixels, for augmentation only
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
            note=stages.note,
        )
        stages.note(dataset.summary())
        check_kept_parts(settings, known_rule, dataset, stages.note)
        return dataset

    stages.begin("audit and split", 0)
    dataset = read({})
    stages.begin("decode the images", 2 * len(dataset.items) + len(dataset.tests))
    spec = settings.image_spec()
    dataset, decoded, tests = decode_whole(dataset, read, spec, cache, stages)
    large = larger(spec, settings.cache_size)
    enlarged = decode(dataset.items, large, cache, stages.advance, stages.note)

    audit = audit_decoded(source, dataset, decoded, tests)
    for problem in audit.problems:
        stages.note(problem.text)
    if any(problem.rows or problem.files for problem in audit.problems):
        stages.note(f"which ones: {audit_command(source, settings)}")
    return Images(settings, source, cache, dataset, decoded, enlarged, audit)


def audit_command(source: Path, settings: Settings) -> str:
    """The command that shows the problems of these images as a training with `settings` finds
    them."""
    plain, words = Settings(), ["unfreeze", "data", "audit", str(source)]
    for name in AUDITED:
        if (value := getattr(settings, name)) != getattr(plain, name):
            words += ["--set", f"{name}={write_setting(value)}"]
    return shlex.join(words)


def check_kept_parts(
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
        f"{dataset.n_kept} of {len(dataset.items)} images "
        f"{'keeps' if dataset.n_kept == 1 else 'keep'} the part that the promoted version gave them"
    )
    named = settings.has_folds and "fold" in settings.model_fields_set
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
