"""Server reflection, by which clients list the services and their message types.

`grpcio-reflection` (1.81) has `v1alpha` only, and newer clients ask for `v1` first. Both have the
same messages, so one servicer answers by both names.
"""

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from service.calls import Calls

ALPHA = reflection.SERVICE_NAME
V1 = ALPHA.replace("v1alpha", "v1")


def describe(server: grpc.aio.Server, calls: Calls, services: Iterable[str]) -> None:
    """Adds reflection of `services`, and of itself."""
    _declare_v1()
    servicer = reflection.aio.ReflectionServicer([*services, ALPHA, V1])
    registrar = calls.uncounted(server)
    add_reflection = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    add_reflection(servicer, registrar)  # type: ignore[no-untyped-call]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    registrar.add_registered_method_handlers(V1, {"ServerReflectionInfo": handler})


def _declare_v1() -> None:
    """Adds the descriptors of v1, by which it describes itself; a second time changes nothing."""
    alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    v1 = text_format.Parse(text, FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(v1.SerializeToString())
