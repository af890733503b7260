"""Loading and unloading models with the Open Inference Protocol, on the admin listener.

Both names of a model are one model: either name loads or unloads both.
"""

from typing import Any, NoReturn

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from registry.errors import BadRequest, NotOffered
from registry.quoted import quoted
from registry.store import Registry, check_name
from service.models.model_manager import ModelManager
from service.oip.index import index_message
from service.oip.names import check_repository, split_name

UNLOAD_PARAMETERS = {"unload_dependents": "bool_param"}  # no effect here, but every client sends it

# The stubs of tritonclient come without types.
Message = Any
Context = Any


class ModelControl(pb_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The model repository calls; everything else is on the public port."""

    def __init__(self, models: ModelManager, registry: Registry) -> None:
        self._models = models
        self._registry = registry

    async def RepositoryIndex(self, request: Message, context: Context) -> Message:
        return await index_message(self._models, self._registry, request)

    async def RepositoryModelLoad(self, request: Message, context: Context) -> Message:
        """Loads the version that is promoted now; what answered before does so until then."""
        model = _model(request)
        if request.parameters:
            given = ", ".join(sorted(request.parameters)[:5])
            raise BadRequest(
                f"load parameters are not supported ({quoted(given, 200)}): versions come from the "
                "registry as published; publish one, promote it, and load without parameters"
            )
        await self._models.operations.load(model)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Message, context: Context) -> Message:
        """Unloads the model until it is loaded again; does nothing for an unknown one."""
        model = _model(request)
        for name, parameter in request.parameters.items():
            if parameter.WhichOneof("parameter_choice") != UNLOAD_PARAMETERS.get(name):
                raise BadRequest(f"unload parameter {quoted(name)} is unknown or of the wrong type")
        self._models.operations.unload(model)
        return pb.RepositoryModelUnloadResponse()

    async def _public(self, request: Message, context: Context) -> NoReturn:
        raise NotOffered(
            "this listener only loads, unloads and lists models; use the public port for the rest"
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
    check_repository(request.repository_name)
    return check_name(split_name(request.model_name)[0])
