"""What is around every call, where a real caller cannot be made to behave as needed."""

import asyncio
from typing import Any

import grpc
import pytest

from registry.errors import Overloaded
from service.calls import Calls
from service.observability.metrics import Metrics
from service.status import PROTOCOL_CODES


class Gone:
    """The context of a caller who has gone: nothing can be sent any more."""

    def __init__(self, left_s: float | None = None) -> None:
        self._left_s = left_s

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> float | None:
        return self._left_s

    async def read(self) -> bytes:
        return b""

    async def abort(self, *status: object) -> None:
        raise RuntimeError("Failed grpc_call_start_batch")


async def refuse(request: bytes, context: Any) -> None:
    raise Overloaded("later")


async def counted(context: Gone) -> list[str]:
    """The status that a call which is refused has in the metrics."""
    metrics = Metrics()
    calls = Calls(metrics, max_calls=9)
    handler = grpc.unary_unary_rpc_method_handler(refuse, bytes, bytes)
    service = "inference.GRPCInferenceService"
    wrapped = calls.wrapped(service, "ModelInfer", handler, PROTOCOL_CODES).stream_unary
    with pytest.raises(asyncio.CancelledError):
        await wrapped(b"", context)
    (handled,) = metrics.rpcs_handled.collect()
    return [one.labels["grpc_code"] for one in handled.samples if one.value]


async def test_a_status_that_cannot_be_sent_is_no_error_of_the_server() -> None:
    """gRPC would log it in full, once for each impatient caller of a busy server."""
    assert await counted(Gone()) == ["UNAVAILABLE"]


async def test_a_call_whose_deadline_is_over_gets_no_hint_to_try_again() -> None:
    assert await counted(Gone(left_s=2)) == ["UNAVAILABLE"]
    assert await counted(Gone(left_s=0)) == ["DEADLINE_EXCEEDED"]
