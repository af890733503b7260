"""Loading and unloading by the Open Inference Protocol, on the administrative listener.

Both names of a model are one model: whichever is given, both come and go.
"""

from typing import Any, NoReturn

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from registry.errors import BadRequest, NotOffered
from registry.store import Registry, check_name
from service.models.live import Live
from service.oip.index import index_message
from service.oip.names import split_name

UNLOAD_PARAMETERS = {"unload_dependents": "bool_param"}  # there are none; every client sends it

# The stubs of tritonclient come without types.
Message = Any
Context = Any


class ModelControl(pb_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """What changes which models this server has; everything else is asked on the public port."""

    def __init__(self, live: Live, registry: Registry) -> None:
        self._live = live
        self._registry = registry

    async def RepositoryIndex(self, request: Message, context: Context) -> Message:
        return await index_message(self._live, self._registry, request)

    async def RepositoryModelLoad(self, request: Message, context: Context) -> Message:
        """The version that is promoted now answers. A model that answers goes on until then."""
        model = _model(request)
        if request.parameters:
            given = ", ".join(sorted(request.parameters)[:5])
            raise BadRequest(
                f"load parameters are not taken ({given!r:.200}): versions come from the registry "
                "as they were published; publish one, promote it, and load without parameters"
            )
        await self._live.changes.load(model)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Message, context: Context) -> Message:
        """The model does not answer on this server until it is loaded; so does an unknown one."""
        model = _model(request)
        for name, parameter in request.parameters.items():
            if parameter.WhichOneof("parameter_choice") != UNLOAD_PARAMETERS.get(name):
                raise BadRequest(f"unexpected unload parameter {name!r:.80}, or of a wrong type")
        self._live.changes.unload(model)
        return pb.RepositoryModelUnloadResponse()

    async def _public(self, request: Message, context: Context) -> NoReturn:
        raise NotOffered(
            "this listener loads, unloads and lists models; ask for all else on the public port"
        )

    ServerLive = ServerReady = ServerMetadata = _public
    ModelReady = ModelMetadata = ModelConfig = ModelStatistics = ModelInfer = _public
    SystemSharedMemoryStatus = SystemSharedMemoryRegister = SystemSharedMemoryUnregister = _public
    CudaSharedMemoryStatus = CudaSharedMemoryRegister = CudaSharedMemoryUnregister = _public
    TraceSetting = LogSettings = _public

    async def ModelStreamInfer(self, request_iterator: Message, context: Context) -> Any:
        await self._public(None, context)
        yield  # so that it is a stream


def _model(request: Message) -> str:
    if request.repository_name:
        raise NotOffered("there is one repository; leave repository_name empty")
    return check_name(split_name(request.model_name)[0])
