"""Settings that have no effect on a training, which says so instead of ignoring them silently."""

from collections.abc import Iterable, Iterator, Sequence

from registry.bundle import Task
from training.fit.rates import resolved_decay
from training.reading_settings import read_settings, write_setting
from training.settings import Settings

# of training on images, which is not done if only activations are learnt from
AUGMENTED = (
    "cache_size",
    "max_rotate",
    "train_crop",
    "policy",
    "erasing",
    "mixup",
    "cutmix",
    "schedule",
    "cycle_div",
    "cycle_rise",
    "cycle_tail",
    "cycle_momenta",
)
VIEWS = ("augmentation", "max_zoom")  # the same, but test-time augmentation follows them too
UNFROZEN = (
    "unfrozen_learning_rate",
    "cycle_len",
    "cycle_mult",
    "group_rates",
    "sam",
    "sam_every",
    "compile",
    "layer_decay",
    "frozen_groups",
    "freeze_batchnorm",
    "keep",
    "ema",
    "ema_kept",
    "patience",
    "snapshots",
)


def describe_unused(settings: Settings, task: Task) -> str:
    """Names the settings that differ from the recipe's and have no effect, with the reason; empty
    if all have."""
    usual = read_settings({"recipe": settings.recipe})

    def changed(names: Iterable[str]) -> str:
        return ", ".join(
            f"{name}={write_setting(getattr(settings, name))}"
            for name in names
            if getattr(settings, name) != getattr(usual, name)
        )

    said = []
    if not settings.cycles:
        only_activations = not settings.augmented_epochs
        clauses = []
        if unused := changed((*(AUGMENTED if only_activations else ()), *UNFROZEN)):
            clauses.append(f"no effect: {unused}")
        if only_activations and (viewed := changed(VIEWS)):
            clauses.append(f"no effect except on views at test time: {viewed}")
        if clauses:
            what = "cycles=0 and augmented_epochs=0: the head learns from activations only"
            why = what if only_activations else "cycles=0: the head alone learns"
            said.append(f"{'; '.join(clauses)} ({why})")
    for why, names in _idle(settings, task):
        if unused := changed(names):
            said.append(f"no effect: {unused} ({why})")
    return "; ".join(said)


def _idle(settings: Settings, task: Task) -> Iterator[tuple[str, Sequence[str]]]:
    """Why settings have no effect besides those of layers that do not learn, and which they are."""
    if settings.cycles:
        if not settings.sam:
            yield "sam=0", ["sam_every"]
        if not settings.ema:
            yield "ema=0", ["ema_kept"]
        if settings.cycles == 1:
            yield "cycles=1: there is none to be longer", ["cycle_mult"]
        if not settings.can_stop_early:
            yield (
                "it counts cycles without a new best epoch, and the first always has one: give it "
                f"at least {settings.patience + 2} cycles at the last size, such as cycle_len=1",
                ["patience"],
            )
        if resolved_decay(settings.backbone, settings.layer_decay) != 1:
            yield "layer_decay is used instead", ["group_rates"]
    if settings.cycles or settings.augmented_epochs:
        if settings.augmentation == "none":
            yield "augmentation=none", ["max_rotate"]
        if settings.schedule == "cosine":
            yield "schedule=cosine", ["cycle_div", "cycle_rise", "cycle_tail", "cycle_momenta"]
        else:
            others = ["cycle_tail"] if settings.schedule == "cosine_cycle" else ["cycle_rise"]
            yield f"schedule={settings.schedule}", others
    if settings.optimizer == "adamw":
        yield "optimizer=adamw", ["momentum"]
    if not settings.needs_selection(task) and not settings.wants_selection:
        yield "no images are set apart to choose by", ["judge_share"]
    if not settings.compares_epochs and not settings.wants_selection:
        yield "neither epochs nor weights are compared", ["judge_by"]
    if not settings.calibrate:
        yield "calibrate=false", ["calibrate_share"]
    if task == "single":
        yield "each image has one label", ["thresholds", "beta"]
    else:
        yield "images have several labels", ["label_smoothing"]
