"""gRPC method handlers: their kinds, how they parse messages, and how they are registered."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from registry.errors import BadRequest, Overloaded, UnfreezeError
from service.message_limits import SMALL_BYTES, check_fields, inner_of
from service.open_streams import OpenStreams
from service.status import code_of, message_of, retry_trailer
from service.streams import Incoming
from service.tracebacks import drop_tracebacks

Handlers = Mapping[str, Any]


@dataclass(frozen=True)
class Registrar:
    """Stands in for the server in the generated `add_…Servicer_to_server` functions.

    It registers only generic handlers, by service: for every method registered individually,
    grpc.aio has one more task to look after with each call.
    """

    server: grpc.aio.Server
    wrap: Callable[[str, str, Any], Any]  # service, method and handler -> the handler to be called

    def add_registered_method_handlers(self, service: str, handlers: Handlers) -> None:
        wrapped = {name: self.wrap(service, name, handler) for name, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, wrapped)
        self.server.add_generic_rpc_handlers((generic,))

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Does nothing: these are the same handlers as `add_registered_method_handlers` got."""


def kind_and_function(handler: Any) -> tuple[str, Callable[..., Any]]:
    """The kind of RPC, as `grpc_type` in Prometheus names it, and the function that handles it."""
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return "unary", handler.unary_unary
        case True, False:
            return "client_stream", handler.stream_unary
        case False, True:
            return "server_stream", handler.unary_stream
        case _:
            return "bidi_stream", handler.stream_stream


def parser(parse: Callable[[bytes], Any], service: str, name: str) -> Callable[[Any], Any]:
    """Parses a method's messages; one that is malformed, or would take far more memory than its
    bytes suggest, is a bad request."""
    method = descriptor_pool.Default().FindMethodByName(f"{service}.{name}")
    inner = inner_of(method.input_type)

    def read(message: Any) -> Any:
        if message is grpc.aio.EOF:
            raise BadRequest("the call ended without a message")
        if len(message) > SMALL_BYTES:
            check_fields(message, inner)
        try:
            return parse(message)
        except DecodeError as error:
            wrong = f"this is not a valid request for {service}/{name}: {error}"
            raise BadRequest(wrong) from error

    return read


def plain(
    service: str,
    name: str,
    handler: Any,
    incoming: Incoming,
    streams: OpenStreams,
    count_rejected: Callable[[Overloaded], None],
) -> Any:
    """The handler, with errors in messages reported to the caller, and with its streams limited."""
    _, inner = kind_and_function(handler)
    parse = parser(handler.request_deserializer, service, name)

    async def request(context: Any) -> Any:
        if handler.request_streaming:
            return incoming.requests(parse, context.read)
        return parse(await incoming.only(context.read))

    async def refuse(error: UnfreezeError, context: Any) -> None:
        if isinstance(error, Overloaded):
            count_rejected(error)
        drop_tracebacks(error)  # gRPC keeps the abort, whose context it is
        await context.abort(code_of(error), message_of(error), retry_trailer(error))

    async def unary(_: object, context: Any) -> Any:
        try:
            return await inner(await request(context), context)
        except UnfreezeError as error:
            await refuse(error, context)

    async def stream(_: object, context: Any) -> AsyncIterator[Any]:
        try:
            with streams.another(context.peer()):
                async for response in inner(await request(context), context):
                    yield response
        except UnfreezeError as error:
            await refuse(error, context)

    return reading_itself(stream if handler.response_streaming else unary, handler)


def reading_itself(function: Callable[..., Any], handler: Any) -> Any:
    """A handler of the same kind by `function`, which reads its own messages.

    Otherwise gRPC would log a malformed message in full and report it as UNKNOWN, and would never
    answer a call that ends without a message. Declared as streaming, it reads only on request.
    """
    make = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    return make(function, None, handler.response_serializer)
