"""The caller's request id, which is returned with the answer and logged."""

import re
from typing import Any

REQUEST_ID = "x-request-id"
ACCEPTED = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def request_id_of(context: Any) -> str | None:
    """The caller's request id, if it is safe to log."""
    for key, value in context.invocation_metadata():
        if key == REQUEST_ID and isinstance(value, str) and ACCEPTED.fullmatch(value):
            return str(value)
    return None


def return_id(context: Any) -> None:
    """Returns it with the answer, as trailing metadata."""
    if request_id := request_id_of(context):
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
