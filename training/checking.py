"""Checks settings, as far as possible without opening data or networks."""

import os
import sys

from pydantic import TypeAdapter

from registry.errors import BadRequest
from registry.jobs import Failed
from training.reading_settings import read_settings
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
    os.nice(10)  # requests go first
    try:
        check_settings(GIVEN.validate_json(sys.stdin.buffer.read()))
    except BadRequest as error:
        print(Failed(reason=str(error)).model_dump_json(), flush=True)
        return 2
    return 0
