"""Handlers of RPCs as gRPC has them: their kinds, how messages are read, how they register."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from registry.errors import BadRequest

Handlers = Mapping[str, Any]


@dataclass(frozen=True)
class Registrar:
    """What the generated `add_…Servicer_to_server` functions take for a server.

    It registers names of services alone: for every method that grpc.aio knows by itself, it has one
    more task to look after with each call.
    """

    server: grpc.aio.Server
    wrap: Callable[[str, str, Any], Any]  # service, method and handler -> the handler to be called

    def add_registered_method_handlers(self, service: str, handlers: Handlers) -> None:
        wrapped = {name: self.wrap(service, name, handler) for name, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, wrapped)
        self.server.add_generic_rpc_handlers((generic,))

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same handlers once more; they came with their names."""


def as_it_is(server: grpc.aio.Server) -> Any:
    """Registers handlers that nothing is put around."""
    return Registrar(server, lambda service, method, handler: handler)


def shape(handler: Any) -> tuple[str, Callable[..., Any], Callable[..., Any]]:
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


def reader(parse: Callable[[bytes], Any], method: str) -> Callable[[Any], Any]:
    """Reads a message of `method`; what is none is a bad request."""

    def read(message: Any) -> Any:
        if message is grpc.aio.EOF:
            raise BadRequest("the call has ended without a message")
        try:
            return parse(message)
        except DecodeError as error:
            raise BadRequest(f"this is not a request that {method} takes: {error}") from error

    return read
