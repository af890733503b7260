"""The parameters and requested outputs of an inference request."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from registry.errors import BadRequest
from registry.quoted import quoted
from registry.tta import MAX_VIEWS
from service.execution.work import DEFAULT_PRIORITY, LOW, Terms
from service.oip.tensors import OUTPUT, SHARED_MEMORY

MICROSECONDS = 1_000_000
RESERVED = "triton_"
FINAL = "triton_enable_empty_final_response"  # the C++ clients send it with every request
INTEGER = ("int64_param", "uint64_param")

# The types of known parameters; others are the caller's own and may be of any type.
TYPES: dict[str, tuple[str, ...]] = {
    "tta_views": INTEGER,
    "priority": INTEGER,
    "timeout": INTEGER,
    FINAL: ("bool_param",),
    "sequence_id": (*INTEGER, "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
}


class Wanted(NamedTuple):
    """How a request wants to be answered."""

    terms: Terms
    classes: int = 0  # the top classes as text instead of all probabilities; 0: probabilities


def read_wanted(request: Any, default_views: int, answer_s: float = math.inf) -> Wanted:
    """Reads the request's parameters and requested outputs; `answer_s` is its deadline.

    Raises:
        BadRequest: one of them is unknown, repeated, of the wrong type, or out of range.
    """
    classes = _read_outputs(request.outputs) if request.outputs else 0
    if not request.parameters:
        return Wanted(Terms(default_views, answer_s=answer_s), classes)
    values = {name: _value(name, request.parameters[name]) for name in request.parameters}
    terms = Terms(
        n_views=_integer(values, "tta_views", default_views, MAX_VIEWS),
        priority=_priority(_integer(values, "priority", DEFAULT_PRIORITY)),
        queue_s=_integer(values, "timeout", 0) / MICROSECONDS or math.inf,
        answer_s=answer_s,
    )
    return Wanted(terms, classes)


def _value(name: str, parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    if name.startswith(RESERVED) and name != FINAL:
        raise BadRequest(f"parameter {quoted(name)} is reserved: names must not begin with triton_")
    if kind not in TYPES.get(name, (kind,)):
        expected = " or ".join(TYPES[name])
        raise BadRequest(f"parameter {name!r} must be given as {expected}, not as {kind}")
    return kind and getattr(parameter, kind)


def _integer(values: Mapping[str, Any], name: str, default: int, most: int | None = None) -> int:
    value: int = values.get(name, default)
    if value < 0 or (most is not None and value > most):
        limit = f"from 0 to {most}" if most else "0 or more"
        raise BadRequest(f"parameter {name!r} is {value}; it must be {limit}")
    return value


def _priority(level: int) -> int:
    """Levels that the model does not have mean the default, as in Triton."""
    return level if level <= LOW else DEFAULT_PRIORITY


def _read_outputs(outputs: Any) -> int:
    """The number of top classes wanted as text; 0 for the probabilities."""
    for output in outputs:
        if output.name != OUTPUT:
            raise BadRequest(
                f"unexpected inference output {quoted(output.name)}; the only output is {OUTPUT!r}"
            )
    if len(outputs) > 1:
        raise BadRequest(f"output {OUTPUT!r} is requested more than once")
    parameters = outputs[0].parameters
    if SHARED_MEMORY in parameters:
        raise BadRequest(
            "shared memory is not supported; leave the output's shared-memory region out"
        )
    if "classification" not in parameters:
        return 0
    kind = parameters["classification"].WhichOneof("parameter_choice")
    classes: int = getattr(parameters["classification"], kind) if kind in INTEGER else 0
    if classes < 1:
        raise BadRequest("classification must be the number of classes, an int64 of 1 or more")
    return classes
