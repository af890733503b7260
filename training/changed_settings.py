"""Settings that differ from the promoted version's. A training takes only those that it is given,
so one that was left out is back at the recipe's value, which should not go unnoticed."""

import json
from pathlib import Path
from typing import Any

from registry.bundle import read_bundle
from registry.errors import BundleError
from registry.jobs import Assignment
from training.bench import Bench
from training.reading_settings import write_setting
from training.settings import Settings

FACT = "changed_settings"  # in the provenance


def note_changed(bench: Bench, assignment: Assignment) -> None:
    """Reports them and keeps them in the provenance, in place of what was there: an interrupted
    training may be resumed after another version was promoted."""
    bench.results.facts.pop(FACT, None)
    settings, version = bench.settings, assignment.champion_version
    if changed := describe_changed(settings, assignment.champion, version):
        bench.note(FACT, changed)


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
