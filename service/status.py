"""Maps errors to gRPC status codes."""

from collections.abc import Mapping
from typing import TypeAlias

import grpc

from registry.errors import (
    BadRequest,
    BundleError,
    Conflict,
    InternalError,
    NotAllowed,
    NotFound,
    NotOffered,
    Overloaded,
    TrainingError,
    Unavailable,
    UnfreezeError,
)

Codes: TypeAlias = Mapping[type[UnfreezeError], grpc.StatusCode]

CODES: Codes = {
    BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    NotOffered: grpc.StatusCode.UNIMPLEMENTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    BundleError: grpc.StatusCode.FAILED_PRECONDITION,
    TrainingError: grpc.StatusCode.ABORTED,
    InternalError: grpc.StatusCode.INTERNAL,
}
# The Open Inference Protocol's clients recognise a full queue, and a model that does not load, by
# Triton's status codes.
PROTOCOL_CODES: Codes = {
    **CODES,
    Overloaded: grpc.StatusCode.UNAVAILABLE,
    BundleError: grpc.StatusCode.INTERNAL,
}

OK = grpc.StatusCode.OK
CANCELLED = grpc.StatusCode.CANCELLED
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED

# A status message travels as a header, and clients accept 8 KB of headers by default.
MAX_MESSAGE = 1_000
PUSHBACK = "grpc-retry-pushback-ms"  # gRPC proposal A6: when a client may try again


def code_of(error: UnfreezeError, codes: Codes = CODES) -> grpc.StatusCode:
    """The code of an error's class, or of its nearest base class."""
    return next(codes[kind] for kind in type(error).__mro__ if kind in codes)


def number_of(error: UnfreezeError) -> int:
    """The code as a number of google.rpc.Code."""
    number: int = code_of(error).value[0]
    return number


def message_of(error: UnfreezeError) -> str:
    return str(error)[:MAX_MESSAGE]


def retry_after_ms(error: Overloaded) -> int:
    """When a client should try again, in milliseconds; at least 1, since 0 means no hint."""
    return max(1, round(1000 * error.retry_after_s))


def retry_trailer(error: BaseException) -> tuple[tuple[str, str], ...]:
    """The same as a trailer; empty for an error that a retry would not change."""
    if isinstance(error, Overloaded):
        return ((PUSHBACK, str(retry_after_ms(error))),)
    return ()
