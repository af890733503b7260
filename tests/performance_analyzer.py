"""What Triton's performance analyzer (`perf_analyzer -i grpc`) does with a server, in Python.

Its start-up and measuring windows, with each of its checks as an assertion; by its sources,
perf_analyzer.cc, model_parser.cc, inference_profiler.cc and the C++ client's grpc_client.cc.
benchmarks/analyzer.py has the analyzer itself ask a server, which takes 160 MB to install.

Arguments: address, model, images in a request (-b), file with one element of input for BYTES
(what `--input-data` gives as b64: an image with its length before it). Prints a summary as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

CONCURRENCY = 4
REQUESTS = 24  # in a window
WINDOWS = 3
BYTES_OF = {"UINT8": 1, "FP32": 4}
DURATIONS = ("success", "queue", "compute_input", "compute_infer", "compute_output")


def read_model(stub: Any, name: str, batch: int) -> tuple[Any, dict[str, Any]]:
    """The metadata and the configuration, which must agree."""
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=name))
    response = stub.ModelConfig(pb.ModelConfigRequest(name=name))
    config = MessageToDict(response.config, preserving_proto_field_name=True)
    assert metadata.inputs
    assert metadata.outputs
    max_batch_size = config.get("max_batch_size", 0)
    assert batch == 1 or max_batch_size >= batch, "can not specify batch size > 1"
    assert "sequence_batching" not in config
    assert "model_transaction_policy" not in config
    assert "response_cache" not in config
    inputs = {one.name: one for one in metadata.inputs}
    for one in config["input"]:
        assert one["name"] in inputs, f"no metadata found for input tensor {one['name']}"
        shape = list(inputs[one["name"]].shape)
        dims = [int(dim) for dim in one["dims"]]
        assert shape == ([-1, *dims] if max_batch_size else dims)
        assert all(dim > 0 for dim in dims), "input has a dynamic shape: --shape is needed"
    return metadata, config


def uses_server_statistics(stub: Any) -> bool:
    server = stub.ServerMetadata(pb.ServerMetadataRequest())
    return "statistics" in server.extensions


def requests(metadata: Any, batch: int, element: bytes) -> Any:
    """Endless requests, each with its own id, as the C++ client makes them."""
    number = 0
    while True:
        request = pb.ModelInferRequest(model_name=metadata.name, id=str(number))
        request.parameters["triton_enable_empty_final_response"].bool_param = False
        for one in metadata.inputs:
            shape = [batch, *one.shape[1:]]
            request.inputs.add(name=one.name, datatype=one.datatype, shape=shape)
            request.raw_input_contents.append(content(one.datatype, shape, element))
        for one in metadata.outputs:
            request.outputs.add(name=one.name)
        yield request
        number += 1


def content(datatype: str, shape: list[int], element: bytes) -> bytes:
    if datatype == "BYTES":
        return element * shape[0]
    n_bytes = BYTES_OF[datatype]
    for dim in shape:
        n_bytes *= dim
    return bytes(n_bytes)


def measure(stub: Any, name: str, made: Any) -> dict[str, int]:
    """One window: the statistics grew by exactly what was sent."""
    before = statistics(stub, name)
    in_flight: list[tuple[str, Any]] = []
    for _ in range(REQUESTS):
        if len(in_flight) == CONCURRENCY:
            finish(*in_flight.pop(0))
        request = next(made)
        in_flight.append((request.id, stub.ModelInfer.future(request, timeout=60)))
    for one in in_flight:
        finish(*one)
    after = statistics(stub, name)
    assert before.keys() == after.keys(), "multiple versions: a new one came in between"
    grown = [grow(before[version], after[version]) for version in after]
    moved = [one for one in grown if one["queue"]]
    assert len(moved) == 1, "failed to find the requested model version"
    (only,) = moved
    assert only["compute_input"] == only["compute_infer"] == only["compute_output"], (
        "Server side statistics compute counts must be the same"
    )
    assert only["success"] == only["queue"] == REQUESTS
    assert only["fail"] == 0
    assert 0 < only["execution_count"] <= only["inference_count"]
    return only


def finish(id: str, call: Any) -> None:
    response = call.result()  # raises for any failed inference
    assert response.id == id, "it would never count as finished"
    assert int(response.model_version) > 0
    for i, output in enumerate(response.outputs):
        assert output.name
        assert response.raw_output_contents[i]  # the C++ client takes it without looking
    assert len(response.outputs) == len(response.raw_output_contents)


def statistics(stub: Any, name: str) -> dict[int, Any]:
    found = stub.ModelStatistics(pb.ModelStatisticsRequest(name=name, version=""))
    assert all(one.name == name for one in found.model_stats)
    return {int(one.version): one for one in found.model_stats}  # std::stoll


def grow(before: Any, after: Any) -> dict[str, int]:
    grown = {}
    for name in (*DURATIONS, "fail"):
        old, new = getattr(before.inference_stats, name), getattr(after.inference_stats, name)
        assert new.ns >= old.ns
        grown[name] = new.count - old.count
    for name in ("inference_count", "execution_count"):
        grown[name] = getattr(after, name) - getattr(before, name)
    return grown


def main() -> None:
    address, name, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    element = Path(sys.argv[4]).read_bytes() if len(sys.argv) > 4 else b""
    with grpc.insecure_channel(address) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        metadata, config = read_model(stub, name, batch)
        assert uses_server_statistics(stub)
        made = requests(metadata, batch, element)
        windows = [measure(stub, name, made) for _ in range(WINDOWS)]
    print(json.dumps({"dynamic_batching": "dynamic_batching" in config, "windows": windows}))


if __name__ == "__main__":
    main()
