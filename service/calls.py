"""Wraps every RPC: request id, the conventional metrics, and errors mapped to gRPC statuses.

    add_ClassifierServicer_to_server(classifier, calls.counted(server, status.CODES))

Handlers are wrapped once, when they are registered: an interceptor would run for every call, which
takes longer than a small network.
"""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn

import grpc
from grpc.aio import AbortError

from registry.errors import InternalError, Overloaded, Unavailable, UnfreezeError
from service.handlers import Registrar, kind_and_function, parser, plain, reading_itself
from service.observability.metrics import Metrics
from service.observability.rpc_counts import RpcCounts
from service.observability.tracing import CURRENT, Span, Tracer, trace_id_of
from service.open_streams import OpenStreams
from service.request_id import REQUEST_ID, request_id_of, return_id
from service.status import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    OK,
    Codes,
    code_of,
    message_of,
    retry_trailer,
)
from service.streams import Incoming
from service.tracebacks import drop_tracebacks

log = logging.getLogger(__name__)

# Health checks: they must not take a full server for a dead one.
NEVER_FULL = frozenset({"ServerLive", "ServerReady", "ModelReady"})
DEADLINE_STEP_S = 0.001  # gRPC's resolution of deadlines

Checks = Mapping[str, Callable[[float], Overloaded | None]]
NO_CHECKS: Checks = {}

Context = Any  # grpc.aio's is generic in the message types, which do not matter here


class Calls:
    """The calls in flight on one listener, and the limit on their number."""

    def __init__(self, metrics: Metrics, max_calls: int, tracer: Tracer | None = None) -> None:
        self._metrics = metrics
        self._tracer = tracer
        self._max_calls = max_calls
        self._under_way = 0
        self._incoming = Incoming()
        self._open_streams = OpenStreams(max_calls)

    def end_waiting(self) -> None:
        """Ends calls that are still waiting for a message from their client."""
        self._incoming.end()

    def log_cut_off(self) -> None:
        """Logs how many calls are in flight; to be called when they are about to be cancelled."""
        if self._under_way:
            log.warning("calls_cut_off", extra={"calls": self._under_way})

    def counted(self, server: grpc.aio.Server, codes: Codes, checks: Checks = NO_CHECKS) -> Any:
        """A stand-in for `server` to register servicers with.

        Args:
            codes: maps their errors to statuses.
            checks: by method; called with the seconds to a call's deadline before its message is
                read, and may refuse it whatever it contains, which costs little.
        """
        return Registrar(server, partial(self.wrapped, codes=codes, checks=checks))

    def uncounted(self, server: grpc.aio.Server) -> Any:
        """The same for health and reflection, which are not counted, and whose streams have a limit
        of their own."""
        wrap = partial(
            plain,
            incoming=self._incoming,
            streams=self._open_streams,
            count_rejected=self._count_rejected,
        )
        return Registrar(server, wrap)

    def wrapped(
        self, service: str, name: str, handler: Any, codes: Codes, checks: Checks = NO_CHECKS
    ) -> Any:
        """The handler, with its calls counted and its errors translated."""
        kind, inner = kind_and_function(handler)
        counts = RpcCounts(self._metrics, kind, service, name)
        parse = parser(handler.request_deserializer, service, name)
        check = checks.get(name)
        incoming = self._incoming
        limited = name not in NEVER_FULL

        async def unary(_: object, context: Context) -> Any:
            if check and (full := check(time_left_s(context))):
                code = code_of(full, codes)
                self._leave(self._enter(counts, context), code)
                await _abort(context, code, full, request_id_of(context))
            try:
                message = await self._only(context)
            except BaseException as error:  # no message came, but the call counts
                await self._failed(error, self._enter(counts, context), context, codes)
                raise
            call = self._enter(counts, context)
            try:
                if limited:
                    self._check_limit()
                response = await inner(parse(message), context)
                return_id(context)
            except BaseException as error:
                message = None  # gRPC keeps the error that ends the call, and with it this frame
                await self._failed(error, call, context, codes)
                raise
            self._leave(call, OK)
            return response

        async def stream(_: object, context: Context) -> AsyncIterator[Any]:
            call = self._enter(counts, context)
            request: Any = None
            try:
                self._check_limit()
                return_id(context)
                if handler.request_streaming:
                    request = incoming.requests(parse, context.read)
                else:
                    request = parse(await self._only(context))
                async for response in inner(request, context):
                    yield response
            except BaseException as error:
                request = response = None  # as in `unary`
                await self._failed(error, call, context, codes)
                raise
            self._leave(call, OK)

        return reading_itself(stream if handler.response_streaming else unary, handler)

    def _enter(self, counts: RpcCounts, context: Context) -> "Call":
        counts.begin()
        self._under_way += 1
        if not self._tracer:
            return Call(counts, time.perf_counter())
        metadata = context.invocation_metadata()
        span = self._tracer.begin(counts.service, counts.method, metadata)
        CURRENT.set(span)
        return Call(counts, time.perf_counter(), span)

    def _leave(self, call: "Call", code: grpc.StatusCode) -> None:
        self._under_way -= 1
        seconds, span = time.perf_counter() - call.began, call.span
        call.counts.end(code.name, seconds, span.trace_id if span and span.sampled else "")
        if span:
            span.end(code.name)

    async def _only(self, context: Context) -> Any:
        try:
            return await self._incoming.only(context.read)
        except Overloaded as error:
            self._count_rejected(error)
            raise

    def _check_limit(self) -> None:
        if self._under_way > self._max_calls:
            problem = f"{self._max_calls} calls are in flight, which is the limit"
            error = Overloaded(f"{problem}; try again in a moment", reason="rpcs")
            self._count_rejected(error)
            raise error

    def _count_rejected(self, error: Overloaded) -> None:
        self._metrics.rejected.labels(error.reason).inc()

    async def _failed(
        self, error: BaseException, call: "Call", context: Context, codes: Codes
    ) -> None:
        """Counts the call, then sends its status, so that a client that has it finds it counted.

        Returns only if there is no status to send; then the error is to be raised again. Not here:
        this frame has it as an argument, and its traceback would have this frame.
        """
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._leave(call, DEADLINE_EXCEEDED if is_over(context) else CANCELLED)
            return
        request_id = request_id_of(context)
        if isinstance(error, UnfreezeError):
            public = error
        else:
            trace_id = (
                call.span.trace_id if call.span else trace_id_of(context.invocation_metadata())
            )
            request_id = request_id or uuid.uuid4().hex
            public = unexpected(error, call.counts.method, request_id, trace_id)
        code = code_of(public, codes)
        if isinstance(error, Overloaded | Unavailable) and is_over(context):
            code = DEADLINE_EXCEEDED  # the other codes would invite a retry
        self._leave(call, code)
        drop_tracebacks(error)  # the abort keeps it as its context
        await _abort(context, code, public, request_id)


async def _abort(
    context: Context, code: grpc.StatusCode, error: UnfreezeError, request_id: str | None
) -> NoReturn:
    """Sends the status that ends a call, and raises what gRPC expects of a handler then."""
    trailers = retry_trailer(error)
    if request_id:
        trailers = (*trailers, (REQUEST_ID, request_id))
    try:
        await context.abort(code, message_of(error), trailers)
    except AbortError:
        raise
    except Exception as unsent:  # the client has gone
        raise asyncio.CancelledError from unsent
    raise AssertionError("abort raises")


class Call(NamedTuple):
    """One call in flight; `began` is a reading of `time.perf_counter`."""

    counts: RpcCounts
    began: float
    span: Span | None = None


def public_error(error: Exception, method: str) -> UnfreezeError:
    """The error of one request in a stream, as its caller sees it; the stream goes on. It gets an
    id of its own, since all requests of the stream share the call's."""
    if isinstance(error, UnfreezeError):
        return error
    span = CURRENT.get()
    return unexpected(error, method, uuid.uuid4().hex, span.trace_id if span else "")


def unexpected(error: BaseException, method: str, request_id: str, trace_id: str) -> InternalError:
    """What callers see of an unexpected error; the log has it in full."""
    facts = {"request_id": request_id, "method": method, "trace_id": trace_id}
    log.error("internal_error", extra=facts, exc_info=error)
    return InternalError(f"internal error (request id {request_id})")


def time_left_s(context: Context) -> float:
    """Seconds to the caller's deadline."""
    left: float | None = context.time_remaining()
    return math.inf if left is None else left


def is_over(context: Context) -> bool:
    """Whether the caller's deadline has passed."""
    return time_left_s(context) < DEADLINE_STEP_S
