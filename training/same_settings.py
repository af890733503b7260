"""The settings that a version was trained with, to train another one with them."""

import json
from pathlib import Path
from typing import Any

from registry.bundle import read_bundle
from registry.errors import BadRequest, BundleError
from training.reading_settings import read_settings, write_setting
from training.settings import Settings

# How a run is saved and watched where it happens: what it learns is the same.
OF_ONE_RUN = ("checkpoint_seconds", "tensorboard")
# In the provenance of what a notebook trained: see training/overrides.py.
STEP_BY_STEP = {"steps", "by_hand"}


def with_settings_of(version: Path, given: dict[str, str]) -> dict[str, str]:
    """The settings that the bundle in `version` was trained with, as text, overridden by those
    given: its recipe, and what differed from that. Settings of one run only are left out; initial
    weights, seed and fold are taken over, because they decide what is learnt.

    Raises:
        BadRequest: it does not record all of them, or this release does not have all of them, or
            those given do not go with them.
        BundleError: there is no bundle, or it is damaged.
    """
    name, recorded = f"version {version.name}", settings_of(version)
    facts = read_bundle(version).provenance
    if not recorded:
        raise BadRequest(
            f"{name} does not say which settings it was trained with, as no imported version does; "
            "give the settings by name, without same_settings"
        )
    if facts.keys() & STEP_BY_STEP:
        raise BadRequest(
            f"{name} was trained step by step from Python, and its settings do not say all "
            "of that; give the settings by name, without same_settings"
        )
    recipe = str(recorded.get("recipe", "modern"))
    if given.get("recipe", recipe).strip() != recipe:
        raise BadRequest(
            f"recipe={given['recipe']} is another set of settings than {name} was trained with "
            f"(recipe={recipe}); leave out either recipe or same_settings"
        )
    known = {key: value for key, value in recorded.items() if key in Settings.model_fields}
    try:
        same = {"recipe": recipe} | _differing(recipe, known)
        wanted = same | given
        read_settings(wanted)
    except BadRequest as error:
        raise BadRequest(f"{error} (together with the settings of {name})") from error
    if gone := [f"{key}={write_setting(recorded[key])}" for key in recorded if key not in known]:
        others = " ".join(f"{key}={text}" for key, text in same.items())
        raise BadRequest(
            f"{name} was trained with settings that this release does not have: {', '.join(gone)}; "
            f"give its others by name, without same_settings: {others}"
        )
    return wanted


def settings_of(version: Path | None) -> dict[str, Any]:
    """The settings that a bundle was trained with; none if it does not record them, as one that was
    imported."""
    if version is None:
        return {}
    try:
        found = json.loads(read_bundle(version).provenance["settings"])
    except (BundleError, ValueError, KeyError):
        return {}
    return found if isinstance(found, dict) else {}


def _differing(recipe: str, values: dict[str, Any]) -> dict[str, str]:
    """Those that differ from the recipe's."""
    usual = _recorded({"recipe": recipe})
    texts = {
        name: write_setting(value)
        for name, value in values.items()
        if value != usual[name] and name not in OF_ONE_RUN
    }
    # recorded once for each layer of the head; where that is as in the recipe, it is left to the
    # recipe, so that a request may give other layers
    if "hidden" in texts:
        layers = _recorded({"recipe": recipe, "hidden": texts["hidden"]})
        if values.get("dropout") == layers["dropout"]:
            texts.pop("dropout", None)
    return texts


def _recorded(given: dict[str, str]) -> dict[str, Any]:
    """All settings as a bundle records them."""
    found: dict[str, Any] = json.loads(read_settings(given).model_dump_json())
    return found
