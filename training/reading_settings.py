"""Reads settings from text, as on a command line or in a request, and writes them as such."""

from textwrap import wrap
from typing import Literal, get_args, get_origin

from pydantic import ValidationError

from registry.counted import counted
from registry.did_you_mean import did_you_mean
from registry.errors import BadRequest
from registry.quoted import quoted
from registry.record import explain
from training.presets import PRESETS
from training.settings import MOST_EPOCHS, Settings

WIDTH = 88  # characters per line of help

# Names that fastai and others have for a setting, and ours.
ELSEWHERE = {
    "arch": "backbone",
    "aug_tfms": "augmentation",
    "bn_freeze": "freeze_batchnorm",
    "batch_tfms": "augmentation",
    "bs": "batch_size",
    "cat_separator": "label_separator",
    "cv_idx": "fold",
    "targ_sz": "cache_size",
    "div": "cycle_div",
    "epochs": "head_epochs, augmented_epochs or cycle_len",
    "flip_vert": "augmentation",
    "item_tfms": "size or crop",
    "label_col": "label_columns",
    "label_delim": "label_separator",
    "lr": "learning_rate",
    "lr_max": "learning_rate",
    "max_lr": "learning_rate",
    "lin_ftrs": "hidden",
    "moms": "cycle_momenta",
    "n_epochs": "head_epochs, augmented_epochs or cycle_len",
    "opt_func": "optimizer",
    "pct_start": "cycle_rise",
    "ps": "dropout",
    "skip_header": "header",
    "sz": "size",
    "test_name": "test",
    "train_bn": "freeze_batchnorm",
    "use_wd_sched": "decay",
    "val_pct": "valid_fraction",
    "valid_pct": "valid_fraction",
    "wd": "weight_decay",
    "wds": "weight_decay",
    "xtra_fc": "hidden",
}


def read_settings(given: dict[str, str]) -> Settings:
    """Settings from text, as a command line or a request gives it; lists are comma-separated.

    `recipe` names a preset, which the other settings given override.

    Raises:
        BadRequest: an unknown name or a bad value; names the field.
    """
    texts = PRESETS.get(given.get("recipe", "modern"), {}) | given
    values = {name: _value(name, text) for name, text in texts.items()}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise BadRequest(f"settings: {explain(error)}") from error
    n_epochs = sum(settings.unfrozen_cycles)
    if n_epochs > MOST_EPOCHS:
        raise BadRequest(
            f"settings: cycles, cycle_len and cycle_mult make {n_epochs:.1e} epochs; at most "
            f"{MOST_EPOCHS} are allowed, so lower one of them"
        )
    if settings.fold and not settings.has_folds:
        raise BadRequest(
            f"settings: fold={settings.fold} has no effect with split={settings.split}, which has "
            "no folds; set split=cv or split=blocks, or leave fold out"
        )
    settings.size_phases()  # raises if the sizes do not fit
    largest = max(settings.size, *settings.sizes, 0)
    if settings.cache_size is not None and settings.cache_size < largest:
        raise BadRequest(
            f"settings: cache_size={settings.cache_size} is smaller than the network's input, "
            f"{largest} pixels; set it to that or more"
        )
    return settings.model_copy(update={"dropout": _dropouts(settings)})


def write_setting(value: object) -> str:
    """A Python value as text for `read_settings`: `(0.1, 1)` is "0.1,1", and None is empty."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def list_settings() -> list[str]:
    """Every setting with its default, `name=text`, in the order of the recipe, and its choices if
    there are any; below it its help."""
    lines = []
    for name, field in Settings.model_fields.items():
        text = write_setting(field.default)
        words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        choices = f"  ({', '.join(filter(None, words))})" if words else ""
        lines.append(f"{name}={text!r}" if text == " " else f"{name}={text}{choices}")
        lines += [f"    {line}" for line in wrap(field.description or "", WIDTH)]
    return lines


def _value(name: str, text: str) -> object:
    if name != "label_separator":  # which may be a blank
        text = text.strip()
    field = Settings.model_fields.get(name)
    if field is None:
        raise BadRequest(f"no setting is called {quoted(name)}{_meant(name)}")
    if str(field.annotation).startswith("tuple"):
        return [part.strip() for part in text.split(",") if part.strip()]
    texts = field.annotation is str or name == "recipe"
    return None if text == "" and not texts else text


def _meant(name: str) -> str:
    """What may have been meant; all settings if no name is similar."""
    known = sorted(Settings.model_fields)
    elsewhere = f"; did you mean {ELSEWHERE[name]}?" if name in ELSEWHERE else ""
    return elsewhere or did_you_mean(name, known) or f"; there are: {', '.join(known)}"


def _dropouts(settings: Settings) -> tuple[float, ...]:
    """One for each linear layer, as fastai 0.7 fills up its `ps`."""
    n_hidden, given = len(settings.hidden), settings.dropout
    if not given:
        return (0.25,) * n_hidden + (0.5,)
    if len(given) == 1:
        return given * (n_hidden + 1)
    if len(given) != n_hidden + 1:
        raise BadRequest(
            f"settings: {len(given)} dropout values for {counted(n_hidden, 'hidden layer')}; give "
            f"one for all, or {n_hidden + 1}, one before each linear layer"
        )
    return given
