"""Settings that differ from the promoted version's. A training takes only those that it is given,
so one that was left out is back at the recipe's value, unless the promoted version's were asked
for; that should not go unnoticed."""

import json
from pathlib import Path

from registry.jobs import Assignment
from training.bench import Bench
from training.reading_settings import write_setting
from training.same_settings import OF_ONE_RUN, settings_of
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
        if name in now and now[name] != value and name not in OF_ONE_RUN
    ]
    if not changed:
        return ""
    return (
        f"settings that differ from those of version {version}, the promoted one: "
        f"{', '.join(changed)}; a training takes only the settings that it is given, "
        "unless --same-settings asks for the promoted version's"
    )


def _written(value: object) -> str:
    return write_setting(value) or "empty"
