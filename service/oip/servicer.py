"""The Open Inference Protocol v2 with Triton's extensions, on the same queue as our own API.

Every model has two names: `NAME` takes encoded images, `NAME-tensor` takes pixels.
"""

from collections.abc import AsyncIterator, Callable
from importlib import metadata
from typing import Any, NoReturn

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from registry.errors import NotFound, NotOffered, Overloaded, Unavailable
from registry.quoted import quoted
from registry.store import Registry
from service.calls import public_error, time_left_s
from service.models.model_manager import ModelManager
from service.oip.index import index_message
from service.oip.inference import Inference
from service.oip.messages import config_message, metadata_message, statistics_message
from service.oip.names import both_names, find, read_version, split_name
from service.status import message_of, retry_after_ms
from service.streams import IN_FLIGHT, in_order
from service.tracebacks import drop_tracebacks

PROTOCOL = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
NAME = "unfreeze"
EXTENSIONS = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
ERRORS_AS_STATUS = ("triton_grpc_error", "true")  # a header: an error ends the stream
RETRY = "retry_after_ms"  # a parameter of responses to requests that are over a limit
LAST = "triton_final_response"  # streaming clients expect it, even with one response per request

# The stubs of tritonclient come without types.
Message = Any
Context = Any


class Protocol(pb_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The public calls. Loading and unloading belong to `ModelControl`."""

    def __init__(
        self,
        models: ModelManager,
        registry: Registry,
        inference: Inference,
        *,
        max_images: int,
        max_wait_us: int,
        max_queue: int,
        is_ready: Callable[[], bool],
    ) -> None:
        """
        Args:
            max_images: most images in a request.
            max_wait_us: how long an image may wait for others to fill a batch, microseconds.
            max_queue: most views queued or running per loaded version.
            is_ready: whether this server takes requests, rather than being about to stop.
        """
        self._models = models
        self._registry = registry
        self._inference = inference
        self._max_images = max_images
        self._max_wait_us = max_wait_us
        self._max_queue = max_queue
        self._is_ready = is_ready

    # The server

    async def ServerLive(self, request: Message, context: Context) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Message, context: Context) -> Message:
        return pb.ServerReadyResponse(ready=self._is_ready())

    async def ServerMetadata(self, request: Message, context: Context) -> Message:
        return pb.ServerMetadataResponse(name=NAME, version=_own_version(), extensions=EXTENSIONS)

    # The models

    async def ModelReady(self, request: Message, context: Context) -> Message:
        """Whether it can answer at once. A version that is not loaded is not ready, as in Triton;
        requesting its metadata loads it."""
        model, _ = split_name(request.name)
        version = read_version(request.version)
        if version is None:
            return pb.ModelReadyResponse(ready=model in self._models.ready())
        versions = [loaded.version for loaded in self._models.in_memory(model)]
        return pb.ModelReadyResponse(ready=version in versions)

    async def ModelMetadata(self, request: Message, context: Context) -> Message:
        loaded, takes_pixels = await find(self._models, request.name, request.version)
        versions = [other.version for other in self._models.in_memory(loaded.model)]
        return metadata_message(request.name, takes_pixels, loaded, versions)

    async def ModelConfig(self, request: Message, context: Context) -> Message:
        loaded, takes_pixels = await find(self._models, request.name, request.version)
        limits = self._max_images, self._max_wait_us, self._max_queue
        return pb.ModelConfigResponse(
            config=config_message(request.name, takes_pixels, loaded, *limits)
        )

    async def ModelStatistics(self, request: Message, context: Context) -> Message:
        version = read_version(request.version)
        models = [split_name(request.name)[0]] if request.name else self._models.models_in_memory()
        found = [
            statistics_message(name, loaded)
            for model in models
            for name in ([request.name] if request.name else both_names(model))
            for loaded in self._models.in_memory(model)
            if version in (None, loaded.version)
        ]
        if request.name and not found:
            wanted = f"{quoted(request.name, 128)} {request.version}".strip()
            raise NotFound(f"Request for unknown model: {wanted} is not in memory")
        return pb.ModelStatisticsResponse(model_stats=found)

    async def RepositoryIndex(self, request: Message, context: Context) -> Message:
        return await index_message(self._models, self._registry, request)

    # Inference

    async def ModelInfer(self, request: Message, context: Context) -> Message:
        return await self._inference.infer(request, time_left_s(context))

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[Message], context: Context
    ) -> AsyncIterator[Message]:
        as_status = ERRORS_AS_STATUS in [tuple(pair) for pair in context.invocation_metadata()]
        outcome = self._infer_in_stream if as_status else self._outcome
        async with in_order(request_iterator, outcome, self._window) as responses:
            async for response in responses:
                yield response

    def _window(self, request: Message) -> int:
        model, _ = split_name(request.model_name)
        return max(IN_FLIGHT, self._models.stream_window(model))

    async def _infer_in_stream(self, request: Message) -> Message:
        response = await self._inference.infer(request)
        response.parameters[LAST].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=response)

    async def _outcome(self, request: Message) -> Message:
        """The response, or the error that answers for it while the stream goes on."""
        try:
            return await self._infer_in_stream(request)
        except Exception as error:
            answer = pb.ModelInferResponse(id=request.id)
            if isinstance(error, Overloaded):
                answer.parameters[RETRY].int64_param = retry_after_ms(error)
            message = message_of(public_error(error, "ModelStreamInfer"))
            drop_tracebacks(error)
            return pb.ModelStreamInferResponse(error_message=message, infer_response=answer)

    # What is not supported

    async def RepositoryModelLoad(self, request: Message, context: Context) -> NoReturn:
        raise Unavailable("models are loaded and unloaded on the admin listener (--admin-port)")

    RepositoryModelUnload = RepositoryModelLoad

    async def _shared_memory(self, request: Message, context: Context) -> NoReturn:
        raise NotOffered("shared memory is not supported; send tensors in raw_input_contents")

    SystemSharedMemoryStatus = SystemSharedMemoryRegister = _shared_memory
    CudaSharedMemoryStatus = CudaSharedMemoryRegister = _shared_memory
    SystemSharedMemoryUnregister = CudaSharedMemoryUnregister = _shared_memory

    async def _settings(self, request: Message, context: Context) -> NoReturn:
        raise NotOffered("trace and log settings can only be set when the server starts")

    TraceSetting = LogSettings = _settings


def _own_version() -> str:
    try:
        return metadata.version("unfreeze")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
