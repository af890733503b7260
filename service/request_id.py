"""The caller's own name for a request, which comes back with the answer and is in the log."""

import re
from typing import Any

REQUEST_ID = "x-request-id"
ACCEPTED = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def request_id_of(context: Any) -> str | None:
    """The caller's own, when it is harmless to repeat in a log."""
    for key, value in context.invocation_metadata():
        if key == REQUEST_ID and isinstance(value, str) and ACCEPTED.fullmatch(value):
            return str(value)
    return None


def give_back_id(context: Any) -> None:
    """The answer will carry it."""
    if request_id := request_id_of(context):
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
