"""The Open Inference Protocol's messages on a model: metadata, configuration and statistics.

Each model has two names: `NAME` takes encoded images, `NAME-tensor` takes pixels.
"""

from collections.abc import Sequence
from typing import Any

from tritonclient.grpc import model_config_pb2 as config_pb
from tritonclient.grpc import service_pb2 as pb

from registry.bundle import FILES
from service.execution.providers import GPUS
from service.execution.work import LOW, NORMAL
from service.models.loaded_version import LoadedVersion
from service.oip.statistics import Statistics, Total
from service.oip.tensors import INPUT, OUTPUT

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"
LABELS = "labels.txt"  # clients only check that there is a name; the labels are in the answers

Message = Any  # the stubs of tritonclient come without types


def metadata_message(
    name: str, pixels: bool, loaded: LoadedVersion, versions: Sequence[int]
) -> Message:
    """Names, types and shapes; -1 is the batch dimension."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    datatype, dims = ("UINT8", _pixel_dims(loaded)) if pixels else ("BYTES", [1])
    n_classes = len(loaded.bundle.labels)
    return pb.ModelMetadataResponse(
        name=name,
        versions=map(str, versions),
        platform=PLATFORM,
        inputs=[tensor(name=INPUT, datatype=datatype, shape=[-1, *dims])],
        outputs=[tensor(name=OUTPUT, datatype="FP32", shape=[-1, n_classes])],
    )


def config_message(
    name: str,
    pixels: bool,
    loaded: LoadedVersion,
    max_images: int,
    max_wait_us: int,
    max_queue: int,
) -> Message:
    """The configuration in Triton's format, where dims exclude the batch dimension.

    Features that change how a load generator behaves and do not exist here (sequences, decoupled
    responses) are left unset.
    """
    return config_pb.ModelConfig(
        name=name,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=config_pb.ModelVersionPolicy(all={}),
        max_batch_size=max_images,
        input=[_pixel_input(loaded) if pixels else _image_input()],
        output=[
            config_pb.ModelOutput(
                name=OUTPUT,
                data_type=config_pb.TYPE_FP32,
                dims=[len(loaded.bundle.labels)],
                label_filename=LABELS,
            )
        ],
        instance_group=[_instances(loaded)],
        dynamic_batching=_batching(loaded, max_wait_us, max_queue),
        default_model_filename=FILES[loaded.kind.precision],
        parameters={
            key: config_pb.ModelParameter(string_value=value)
            for key, value in _parameters(loaded).items()
        },
    )


def statistics_message(name: str, loaded: LoadedVersion) -> Message:
    """What the version has done under either of its names."""
    statistics = loaded.counts.statistics
    return pb.ModelStatistics(
        name=name,
        version=str(loaded.version),
        last_inference=int(1000 * statistics.last_request_s),
        inference_count=statistics.n_images,
        execution_count=statistics.n_runs,
        inference_stats=_inference_stats(statistics),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=n_images,
                compute_input=_duration(Total(total.count)),  # batching is part of the run
                compute_infer=_duration(total),
                compute_output=_duration(Total(total.count)),
            )
            for n_images, total in statistics.runs_by_size().items()
        ],
    )


def _pixel_dims(loaded: LoadedVersion) -> list[int]:
    return [loaded.bundle.image.size, loaded.bundle.image.size, 3]


def _pixel_input(loaded: LoadedVersion) -> Message:
    return config_pb.ModelInput(
        name=INPUT,
        data_type=config_pb.TYPE_UINT8,
        format=config_pb.ModelInput.FORMAT_NHWC,
        dims=_pixel_dims(loaded),
    )


def _image_input() -> Message:
    return config_pb.ModelInput(name=INPUT, data_type=config_pb.TYPE_STRING, dims=[1])


def _instances(loaded: LoadedVersion) -> Message:
    group = config_pb.ModelInstanceGroup
    kind = group.KIND_GPU if loaded.kind.provider in GPUS else group.KIND_CPU
    return group(name=loaded.model, kind=kind, count=loaded.plan.runs)


def _batching(loaded: LoadedVersion, max_wait_us: int, max_queue: int) -> Message:
    queue = config_pb.ModelQueuePolicy(  # on timeout: reject
        allow_timeout_override=True, max_queue_size=max_queue
    )
    return config_pb.ModelDynamicBatching(
        preferred_batch_size=[loaded.plan.batch],
        max_queue_delay_microseconds=max_wait_us,
        priority_levels=LOW,
        default_priority_level=NORMAL,
        default_queue_policy=queue,
    )


def _parameters(loaded: LoadedVersion) -> dict[str, str]:
    return {
        "version": str(loaded.version),
        "execution_plan": str(loaded.plan),
        "execution_provider": loaded.kind.provider,
        "precision": loaded.kind.precision,
        "task": loaded.bundle.task,
        "tta_views": str(loaded.bundle.tta.default_views),
    }


def _inference_stats(statistics: Statistics) -> Message:
    return pb.InferStatistics(
        success=_duration(statistics.success),
        fail=_duration(statistics.fail),
        queue=_duration(statistics.queue),
        compute_input=_duration(statistics.compute_input),
        compute_infer=_duration(statistics.compute_infer),
        compute_output=_duration(statistics.compute_output),
        cache_hit=_duration(statistics.cache_hit),
    )


def _duration(total: Total) -> Message:
    return pb.StatisticDuration(count=total.count, ns=total.ns)
