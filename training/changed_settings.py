"""Settings that differ from the promoted version's. A training takes only those that it is given,
so one that was left out is back at the recipe's value, which should not go unnoticed."""

import json
from pathlib import Path
from typing import Any

from registry.bundle import read_bundle
from registry.errors import BundleError
from training.reading_settings import write_setting
from training.settings import Settings


def describe_changed(settings: Settings, promoted: Path | None, version: int | None) -> str:
    """Names them with both values; empty if there are none, or no promoted version that says."""
    before = settings_of(promoted)
    now = json.loads(settings.model_dump_json())
    changed = [
        f"{name}={_written(now[name])} (there {_written(value)})"
        for name, value in before.items()
        if name in now and now[name] != value
    ]
    if not changed:
        return ""
    return (
        f"settings that differ from those of version {version}, the promoted one: "
        f"{', '.join(changed)}; a training takes only the settings that it is given"
    )


def settings_of(promoted: Path | None) -> dict[str, Any]:
    """The settings that a bundle was trained with; none if it does not record them, as one that was
    imported."""
    if promoted is None:
        return {}
    try:
        found = json.loads(read_bundle(promoted).provenance["settings"])
    except (BundleError, ValueError, KeyError):
        return {}
    return found if isinstance(found, dict) else {}


def _written(value: object) -> str:
    return write_setting(value) or "empty"
