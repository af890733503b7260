"""Settings that have no effect on a training, which says so instead of ignoring them silently."""

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


def describe_unused(settings: Settings) -> str:
    """Names the settings that differ from the recipe's and have no effect, because what they are
    about is not trained; empty if all have."""
    if settings.cycles:
        return ""
    only_activations = not settings.augmented_epochs
    usual = read_settings({"recipe": settings.recipe})

    def changed(names: tuple[str, ...]) -> str:
        return ", ".join(
            f"{name}={write_setting(getattr(settings, name))}"
            for name in names
            if getattr(settings, name) != getattr(usual, name)
        )

    said = []
    if unused := changed((*(AUGMENTED if only_activations else ()), *UNFROZEN)):
        said.append(f"no effect: {unused}")
    if only_activations and (viewed := changed(VIEWS)):
        said.append(f"no effect except on views at test time: {viewed}")
    if not said:
        return ""
    what = "cycles=0 and augmented_epochs=0: the head learns from activations only"
    return f"{'; '.join(said)} ({what if only_activations else 'cycles=0: the head alone learns'})"
