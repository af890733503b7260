"""Checks settings, as far as possible without opening data or networks."""

import sys
from pathlib import Path

from pydantic import TypeAdapter

from registry.errors import BadRequest, UnfreezeError
from registry.jobs import Failed, Resolved
from registry.niceness import TRAINING, give_way
from training.reading_settings import read_settings
from training.same_settings import with_settings_of
from training.settings import Settings

GIVEN = TypeAdapter(dict[str, str])


def check_settings(given: dict[str, str]) -> Settings:
    """The settings as a training reads them.

    Raises:
        BadRequest: a name or a value is wrong, or no network has the backbone's name.
    """
    settings = read_settings(given)
    if given.keys() & {"backbone", "weights"}:
        # here, because it imports torch and timm, which takes seconds
        from training.network.backbone import check_backbone

        check_backbone(settings.backbone, settings.weights)
    return settings


def check_for_service() -> int:
    """Checks the settings on standard input, a JSON object. If they are unusable, prints the event
    with which a training would fail."""
    give_way(TRAINING)
    try:
        check_settings(_given())
    except BadRequest as error:
        print(Failed(reason=str(error)).model_dump_json(), flush=True)
        return 2
    return 0


def resolve_for_service(version: Path) -> int:
    """Prints, as an event, the settings that the bundle in `version` was trained with, overridden
    by those on standard input; or why there are none. Quick, because callers wait for it: what
    takes long, `check_for_service` checks."""
    give_way(TRAINING)
    try:
        resolved = with_settings_of(version, _given())
    except UnfreezeError as error:
        print(Failed(reason=str(error)).model_dump_json(), flush=True)
        return 2
    print(Resolved(settings=resolved).model_dump_json(), flush=True)
    return 0


def _given() -> dict[str, str]:
    return GIVEN.validate_json(sys.stdin.buffer.read())
