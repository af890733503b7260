"""Triton's own tools can drive a server: the performance analyzer and the image client."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import TESTS, RunningServer, Start, settings
from tritonclient.grpc import model_config_pb2 as config_pb
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from service.execution.work import Answer
from service.oip.statistics import NS, Statistics


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("registry")
    tiny.publish(root, promote=True)
    server = RunningServer(settings(root))
    yield server
    server.stop()


def red_pixels() -> Any:
    shape = [1, tiny.SIZE, tiny.SIZE, 3]
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=shape)
    content = bytes((255, 0, 0)) * tiny.SIZE**2
    return pb.ModelInferRequest(
        model_name="colours-tensor", inputs=[tensor], raw_input_contents=[content]
    )


def analyze(server: RunningServer, name: str, batch: int, *element: Path) -> Any:
    script = str(TESTS / "performance_analyzer.py")
    command = [sys.executable, script, server.address, name, str(batch), *map(str, element)]
    return json.loads(subprocess.check_output(command))


@pytest.mark.parametrize("batch", [1, 8])
def test_the_performance_analyzer_measures_pixels(served: RunningServer, batch: int) -> None:
    summary = analyze(served, "colours-tensor", batch)
    assert summary["dynamic_batching"]
    assert [window["inference_count"] for window in summary["windows"]] == [24 * batch] * 3


def test_the_performance_analyzer_measures_images(served: RunningServer, tmp_path: Path) -> None:
    image = tiny.picture()
    element = tmp_path / "element"
    element.write_bytes(struct.pack("<I", len(image)) + image)
    summary = analyze(served, "colours", 2, element)
    assert [window["success"] for window in summary["windows"]] == [24] * 3


def test_requests_of_the_other_api_count_as_well(served: RunningServer) -> None:
    statistics = served.service.models.in_memory(tiny.MODEL_NAME)[0].counts.statistics
    before = statistics.success.count, statistics.n_images
    served.classify(tiny.picture(), tiny.picture())
    assert (statistics.success.count, statistics.n_images) == (before[0] + 1, before[1] + 2)
    assert statistics.compute_infer.count == statistics.compute_output.count


def test_statistics_and_metrics_agree(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    server = start()
    server.classify(tiny.picture(), tiny.picture())
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    for _ in range(3):
        stub.ModelInfer(red_pixels())
    (counted,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="colours")).model_stats
    page = server.metrics()
    assert counted.inference_count == 5
    assert 'unfreeze_images_total{model="colours",outcome="ok",version="1"} 5.0' in page
    runs = f'unfreeze_batch_size_count{{model="colours"}} {counted.execution_count}.0'
    assert runs in page
    assert 'unfreeze_encode_seconds_count{model="colours"} 4.0' in page


def test_the_slowest_image_of_a_request_stands_for_all() -> None:
    statistics = Statistics()
    some = np.zeros(3, np.float32)
    quick, slow = (
        Answer(some, queue_s=1, decode_s=1, compute_s=1),
        Answer(some, queue_s=4, compute_s=5),
    )
    statistics.answered([quick, slow, quick], began=10, read_at=12, answered_at=19, ended=20)
    durations = (
        statistics.success,
        statistics.queue,
        statistics.compute_input,
        statistics.compute_infer,
        statistics.compute_output,
    )
    assert [total.ns / NS for total in durations] == [10, 4, 2, 5, 1]
    assert (statistics.n_images, {total.count for total in durations}) == (3, {1})


def test_answers_from_the_cache_count_as_success_and_queue_alone(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    stub = pb_grpc.GRPCInferenceServiceStub(start(cache_entries=10).channel)
    first, second = (stub.ModelInfer(red_pixels()) for _ in range(2))
    assert first == second
    (counted,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="colours")).model_stats
    stats = counted.inference_stats
    assert (stats.success.count, stats.queue.count, stats.cache_hit.count) == (2, 2, 1)
    assert {stats.compute_input.count, stats.compute_infer.count, stats.compute_output.count} == {1}


def test_only_images_that_the_network_ran_count_as_inferences(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    server = start(cache_entries=10)
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    red, blue = tiny.picture("red"), tiny.picture("blue")
    for images in ([red], [red, blue], [blue, b"not an image"], [b"not an image"]):
        server.classify(*images)
    (counted,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="colours")).model_stats
    assert counted.inference_count == 2


def test_a_server_that_is_about_to_stop_is_live_and_not_ready(start: Start) -> None:
    server = start()
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    server.call(server.service.drain())
    assert not stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ServerLive(pb.ServerLiveRequest()).live


def test_the_image_client_knows_what_to_send(served: RunningServer) -> None:
    """The checks of image_client.py's `parse_model_grpc`."""
    stub = pb_grpc.GRPCInferenceServiceStub(served.channel)
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="colours-tensor"))
    config = stub.ModelConfig(pb.ModelConfigRequest(name="colours-tensor")).config
    assert len(metadata.inputs) == len(config.input) == len(metadata.outputs) == 1
    (input,), (output,) = metadata.inputs, metadata.outputs
    assert output.datatype == "FP32"
    assert sum(dim > 1 for dim in output.shape[1:]) == 1
    assert config.max_batch_size > 0
    assert len(input.shape) == 4
    assert config.input[0].format == config_pb.ModelInput.FORMAT_NHWC
    assert list(input.shape[1:]) == [tiny.SIZE, tiny.SIZE, 3]
