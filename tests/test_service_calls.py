"""What is around every call, where a real caller cannot be made to behave as needed."""

import asyncio
from typing import Any

import grpc
import pytest

from registry.errors import Overloaded
from service.calls import Calls
from service.metrics import Metrics
from service.status import CODES


class Gone:
    """The context of a caller who has gone: nothing can be sent any more."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def read(self) -> bytes:
        return b""

    async def abort(self, *status: object) -> None:
        raise RuntimeError("Failed grpc_call_start_batch")


async def refuse(request: bytes, context: Any) -> None:
    raise Overloaded("later")


async def test_a_status_that_cannot_be_sent_is_no_error_of_the_server() -> None:
    """gRPC would log it in full, once for each impatient caller of a busy server."""
    metrics = Metrics()
    calls = Calls(metrics, max_calls=9)
    handler = grpc.unary_unary_rpc_method_handler(refuse, bytes, bytes)
    wrapped = calls.wrapped("unfreeze.v1.Classifier", "Classify", handler, CODES).stream_unary
    with pytest.raises(asyncio.CancelledError):
        await wrapped(b"", Gone())
    metrics.notes.settle()
    counted = {
        sample.labels["grpc_code"]: sample.value
        for sample in metrics.rpcs_handled.collect()[0].samples
        if sample.name.endswith("_total")
    }
    assert counted["RESOURCE_EXHAUSTED"] == 1
