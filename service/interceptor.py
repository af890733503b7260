"""Around every RPC of ours: a request id, the conventional metrics, and errors made into statuses.

Health and reflection pass by: probes would drown the numbers.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc.aio import AbortError, ServerInterceptor

from registry.errors import Overloaded, UnfreezeError
from service.metrics import Metrics
from service.status import CANCELLED, DEADLINE_EXCEEDED, INTERNAL, OK, code_of, message_of

log = logging.getLogger(__name__)

OURS = "/unfreeze."
REQUEST_ID = "x-request-id"
ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")

Context = Any  # grpc.aio's is generic in messages that nothing here looks at


class Interceptor(ServerInterceptor):
    """One for each listener."""

    def __init__(self, metrics: Metrics, max_rpcs: int) -> None:
        self._metrics = metrics
        self._max_rpcs = max_rpcs
        self._n_rpcs = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(OURS):
            return handler
        return self._wrapped(handler, method, _request_id(handler_call_details))

    def _wrapped(self, handler: Any, method: str, request_id: str) -> Any:
        kind, make, inner = _shape(handler)
        service, _, name = method.removeprefix("/").partition("/")
        labels = kind, service, name

        async def unary(request: Any, context: Context) -> Any:
            async with self._call(labels, request_id, context):
                return await inner(request, context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._call(labels, request_id, context):
                async for response in inner(request, context):
                    yield response

        behaviour: Any = stream if handler.response_streaming else unary
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    @asynccontextmanager
    async def _call(
        self, labels: tuple[str, str, str], request_id: str, context: Context
    ) -> AsyncIterator[None]:
        """One RPC, from its first line to its status."""
        started = time.perf_counter()
        code = OK
        self._metrics.rpcs_started.labels(*labels).inc()
        self._metrics.rpcs_in_flight.inc()
        self._n_rpcs += 1
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        try:
            self._make_room()
            yield
        except UnfreezeError as error:
            code = code_of(error)
            await context.abort(code, message_of(error))
        except AbortError:
            code = context.code()
            raise
        except (asyncio.CancelledError, GeneratorExit):
            left_s = context.time_remaining()
            code = DEADLINE_EXCEEDED if left_s is not None and left_s <= 0 else CANCELLED
            raise
        except Exception:
            code = INTERNAL
            log.exception("internal_error", extra={"request_id": request_id, "method": labels[2]})
            await context.abort(code, f"internal error (request id {request_id})")
        finally:
            self._n_rpcs -= 1
            self._metrics.rpcs_in_flight.dec()
            self._metrics.rpcs_handled.labels(*labels, code.name).inc()
            self._metrics.rpc_seconds.labels(*labels).observe(time.perf_counter() - started)

    def _make_room(self) -> None:
        if self._n_rpcs > self._max_rpcs:
            self._metrics.rejected.labels("rpcs").inc()
            raise Overloaded(
                f"{self._max_rpcs} calls are under way, which is the limit; try again in a moment"
            )


def _shape(handler: Any) -> tuple[str, Callable[..., Any], Callable[..., Any]]:
    """How Prometheus calls this kind of RPC, what builds its handler, and its behaviour."""
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return "unary", grpc.unary_unary_rpc_method_handler, handler.unary_unary
        case True, False:
            return "client_stream", grpc.stream_unary_rpc_method_handler, handler.stream_unary
        case False, True:
            return "server_stream", grpc.unary_stream_rpc_method_handler, handler.unary_stream
        case _:
            return "bidi_stream", grpc.stream_stream_rpc_method_handler, handler.stream_stream


def _request_id(details: grpc.HandlerCallDetails) -> str:
    """The caller's own, when it is harmless to repeat in a log."""
    for key, value in details.invocation_metadata or ():
        if key == REQUEST_ID and isinstance(value, str) and ACCEPTED_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex
