"""The Open Inference Protocol as Triton's own client sees it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tiny
from conftest import TESTS, RunningServer, Start, held, in_flight, settings, wait_until
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

RED = np.full((1, tiny.SIZE, tiny.SIZE, 3), (255, 0, 0), np.uint8)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("registry")
    tiny.publish(root, promote=True)
    tiny.publish(root, model="wide", size=128, promote=True)
    for model in ("counted", "spare", "busy"):
        tiny.publish(root, model=model, promote=True)
    tiny.publish(root, model="broken", promote=True, golden_shift=1.0)
    tiny.publish(root, model="never-promoted")
    server = RunningServer(settings(root))
    yield server
    server.stop()


Replies = dict[str, Any]


@pytest.fixture(scope="module")
def replies(served: RunningServer) -> Replies:
    """What each case of `protocol_cases.py` got, which is a process of its own."""
    return ask(served)


def ask(server: RunningServer, *cases: str) -> Replies:
    """What these cases got, or all those of a server that answers."""
    script = str(TESTS / "protocol_cases.py")
    command = [sys.executable, script, server.address, server.admin_address, *cases]
    found: Replies = json.loads(subprocess.check_output(command))
    return found


def test_a_server_is_live_and_ready(replies: Replies) -> None:
    assert replies["server_is_live"] is replies["server_is_ready"] is True


def test_only_extensions_that_work_are_listed(replies: Replies) -> None:
    metadata = replies["server_metadata"]
    assert metadata["name"] == "unfreeze"
    assert sorted(metadata["extensions"]) == [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "parameters",
        "schedule_policy",
        "statistics",
    ]


def test_an_unknown_model_is_not_ready_which_is_no_error(replies: Replies) -> None:
    ready = {"colours": True, "colours-tensor": True, "1": True}
    not_ready = {"unknown": False, "": False, "../etc": False, "9": False}
    assert replies["models_ready"] == ready | not_ready


def test_images_and_pixels_are_two_names_of_a_model(replies: Replies) -> None:
    output = [{"name": "probabilities", "datatype": "FP32", "shape": ["-1", "3"]}]
    facts = {"versions": ["1"], "platform": "onnxruntime_onnx", "outputs": output}
    images = {"name": "image", "datatype": "BYTES", "shape": ["-1", "1"]}
    assert replies["metadata"] == facts | {"name": "colours", "inputs": [images]}
    pixels = {"name": "image", "datatype": "UINT8", "shape": ["-1", "8", "8", "3"]}
    assert replies["metadata_of_tensors"] == facts | {"name": "colours-tensor", "inputs": [pixels]}


def test_the_configuration_leaves_the_batch_out_of_the_dimensions(replies: Replies) -> None:
    config = replies["config_of_tensors"]
    (input,), (output,) = config["input"], config["output"]
    assert (input["data_type"], input["format"]) == ("TYPE_UINT8", "FORMAT_NHWC")
    assert (input["dims"], output["dims"]) == (["8", "8", "3"], ["3"])
    assert config["max_batch_size"] == 128
    assert (config["platform"], config["backend"]) == ("onnxruntime_onnx", "onnxruntime")
    assert output["label_filename"]
    assert "dynamic_batching" in config
    (image,) = replies["config"]["input"]
    assert (image["data_type"], image["dims"]) == ("TYPE_STRING", ["1"])


def test_the_configuration_shows_the_execution_plan(replies: Replies) -> None:
    parameters = replies["config"]["parameters"]
    assert parameters["execution_plan"] == {"string_value": "1x2x4"}
    assert parameters["execution_provider"] == {"string_value": "cpu"}
    (group,) = replies["config"]["instance_group"]
    assert (group["count"], group["kind"]) == (2, "KIND_CPU")


def test_the_configuration_has_the_levels_and_timeouts_of_the_schedule_policy(
    replies: Replies,
) -> None:
    batching = replies["config"]["dynamic_batching"]
    assert (batching["priority_levels"], batching["default_priority_level"]) == ("3", "2")
    queue = batching["default_queue_policy"]
    assert (queue["allow_timeout_override"], queue["max_queue_size"]) == (True, 1024)


def test_what_would_change_a_load_generator_is_left_unset(replies: Replies) -> None:
    unset = {"model_transaction_policy", "response_cache", "sequence_batching"}
    assert not unset & (set(replies["config"]) | set(replies["config_of_tensors"]))


def test_an_image_is_answered_with_its_id_and_raw_output(replies: Replies) -> None:
    answer = replies["one_image"]
    assert (answer["id"], answer["model"], answer["version"]) == ("mine", "colours", "1")
    assert (answer["shape"], answer["raw"]) == ([1, 3], 1)
    assert answer["values"][0] == pytest.approx(tiny.answer(RED)[0].tolist(), abs=1e-6)


def test_images_of_all_formats_are_answered_in_order(replies: Replies) -> None:
    assert np.argmax(replies["several_images"]["values"], axis=1).tolist() == [0, 1, 2]


def test_pixels_are_answered_like_the_image_that_they_are_of(replies: Replies) -> None:
    answer = replies["some_pixels"]
    assert (answer["model"], answer["shape"]) == ("colours-tensor", [2, 3])
    assert answer["values"][0] == pytest.approx(replies["one_image"]["values"][0], abs=1e-6)


def test_classification_names_the_likeliest_classes(replies: Replies) -> None:
    answer = replies["two_classes"]
    assert answer["shape"] == [2, 2]
    value, index, label = answer["values"][0][0].split(":")
    assert float(value) == pytest.approx(replies["several_images"]["values"][1][1], abs=0.01)
    assert (index, label) == ("1", "green")
    assert answer["values"][1][0].endswith(":2:blue")


def test_more_classes_than_there_are_means_all(replies: Replies) -> None:
    assert replies["more_classes_than_there_are"]["shape"] == [1, 3]


def test_fewer_classes_than_one_are_refused(replies: Replies) -> None:
    assert replies["no_classes"]["status"] == "StatusCode.INVALID_ARGUMENT"
    assert "classification" in replies["no_classes"]["message"]


def test_views_are_drawn_when_the_request_says_so(replies: Replies) -> None:
    plain = replies["one_image"]["values"][0]
    for case in ("views", "views_of_pixels"):
        assert replies[case]["values"][0] != plain
        assert replies[case]["values"][0] == pytest.approx(plain, abs=0.05)
    assert replies["too_many_views"]["status"] == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "case",
    ["priority_and_timeout", "a_priority_beyond_the_levels", "a_sequence", "custom_parameters"],
)
def test_known_parameters_are_no_error(replies: Replies, case: str) -> None:
    assert replies[case]["values"] == replies["one_image"]["values"]


def test_compressed_requests_are_answered(replies: Replies) -> None:
    assert np.argmax(replies["compressed"]["values"]) == 0


def test_requests_may_be_larger_than_the_default_of_grpc(replies: Replies) -> None:
    assert replies["large_pixels"]["shape"] == [100, 3]


@pytest.mark.parametrize(
    ("case", "status", "message"),
    [
        ("unknown_model", "NOT_FOUND", "Request for unknown model"),
        ("unknown_version", "NOT_FOUND", "version 9"),
        ("version_in_words", "INVALID_ARGUMENT", "latest"),
    ],
)
def test_a_model_or_version_that_is_not_there_is_named(
    replies: Replies, case: str, status: str, message: str
) -> None:
    assert replies[case]["status"] == f"StatusCode.{status}"
    assert message in replies[case]["message"]


def test_a_bad_image_fails_its_whole_request_and_is_named(replies: Replies) -> None:
    error = replies["bad_image"]
    assert error["status"] == "StatusCode.INVALID_ARGUMENT"
    assert "image 1: " in error["message"]
    assert "image 3: " in error["message"]


def test_asynchronous_calls_are_answered_with_their_ids(replies: Replies) -> None:
    assert replies["asynchronous"] == ["0", "1", "2", "3"]
    live, ids = replies["asyncio_client"]
    assert live
    assert ids == [str(i) for i in range(8)]


# Streams


def test_a_stream_answers_in_order_and_survives_errors(replies: Replies) -> None:
    first, bad_image, unknown, last = replies["a_stream"]
    assert (first["id"], last["id"]) == ("0", "3")
    assert "image 0" in bad_image["message"]
    assert "unknown model" in unknown["message"]
    assert last["outputs"][0]["shape"] == ["2", "3"]


def test_errors_end_a_stream_when_its_header_says_so(replies: Replies) -> None:
    first, error = replies["a_stream_with_errors_as_status"]
    assert first["id"] == "0"
    assert error["status"] == "StatusCode.INVALID_ARGUMENT"


def test_a_streamed_response_says_that_it_is_the_last(replies: Replies) -> None:
    for response in (replies["a_stream"][0], *replies["a_stream_that_asks_for_ends"]):
        assert response["parameters"] == {"triton_final_response": {"bool_param": True}}


def test_a_stream_takes_more_requests_than_it_works_on_at_a_time(replies: Replies) -> None:
    assert replies["a_long_stream"] == [str(i) for i in range(40)]


def test_a_stream_of_asyncio_is_the_same(replies: Replies) -> None:
    ids = replies["an_asyncio_stream"]
    assert [error for _, error in ids] == [False, False, True, False, False]
    assert [id for id, error in ids if not error] == ["0", "1", "3", "4"]


# Statistics


def test_statistics_count_requests_images_and_runs(replies: Replies) -> None:
    (before,), (after,) = replies["statistics"]
    assert "inference_count" not in before
    assert (after["version"], after["inference_count"]) == ("1", "4")
    stats = after["inference_stats"]
    equal = ("success", "queue", "compute_input", "compute_infer", "compute_output")
    assert [stats[name]["count"] for name in equal] == ["3"] * 5
    assert stats["fail"]["count"] == "1"
    assert int(stats["success"]["ns"]) >= int(stats["compute_infer"]["ns"]) > 0
    assert int(after["last_inference"]) > 1.7e12


def test_statistics_of_runs_add_up(replies: Replies) -> None:
    _, (after,) = replies["statistics"]
    runs = [(int(one.get("batch_size", 0)), one) for one in after["batch_stats"]]
    counts = [int(one["compute_infer"]["count"]) for _, one in runs]
    assert int(after["execution_count"]) == sum(counts)
    assert sum(size * n for (size, _), n in zip(runs, counts, strict=True)) == 4
    for _, one in runs:
        names = ("compute_input", "compute_infer", "compute_output")
        assert len({one[name]["count"] for name in names}) == 1


def test_statistics_of_no_name_are_those_of_all(replies: Replies) -> None:
    found = replies["statistics_of_all"]
    assert ["colours", "1"] in found
    assert ["colours-tensor", "1"] in found
    assert replies["statistics_of_an_unknown_model"]["status"] == "StatusCode.NOT_FOUND"


def test_statistics_of_no_name_have_what_the_index_shows_ready_without_a_promotion(
    start: Start, root: Path
) -> None:
    tiny.publish(root)
    server = start()
    server.classify(tiny.picture(), version=1)
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=20).models
    statistics = stub.ModelStatistics(pb.ModelStatisticsRequest(), timeout=20).model_stats
    names = ["colours", "colours-tensor"]
    assert [row.name for row in index] == [row.name for row in statistics] == names


# Loading and unloading


def test_the_public_port_neither_loads_nor_unloads(replies: Replies) -> None:
    errors = replies["loading_on_the_public_port"]
    assert {error["status"] for error in errors} == {"StatusCode.UNAVAILABLE"}
    assert all("admin" in error["message"] for error in errors)


def test_the_administrative_port_answers_nothing_but_control(replies: Replies) -> None:
    errors = replies["inference_on_the_administrative_port"]
    assert {error["status"] for error in errors} == {"StatusCode.UNIMPLEMENTED"}
    assert all("public port" in error["message"] for error in errors)


def test_an_unloaded_model_is_gone_until_it_is_loaded(replies: Replies) -> None:
    steps = replies["unloading"]
    gone = {"version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    both = [{"name": name} | gone for name in ("spare", "spare-tensor")]
    assert steps["unloaded"] == {"ready": False, "rows": both}
    assert steps["refused"]["status"] == steps["by_number"]["status"] == "StatusCode.NOT_FOUND"
    assert steps["loaded"]["ready"]
    assert {row["state"] for row in steps["loaded"]["rows"]} == {"READY"}
    assert steps["answer"]["shape"] == [1, 3]


def test_following_the_registry_does_not_bring_an_unloaded_model_back(
    start: Start, root: Path
) -> None:
    tiny.publish(root, promote=True)
    server = start()
    server.service.models.operations.unload(tiny.MODEL_NAME)
    tiny.publish(root, promote=True)
    server.refresh()
    assert server.service.models.in_memory(tiny.MODEL_NAME) == []
    page = server.metrics()
    assert "unfreeze_live_version{" not in page
    assert "unfreeze_model_info{" not in page
    server.call(server.service.models.operations.load(tiny.MODEL_NAME))
    assert [one.version for one in server.service.models.in_memory(tiny.MODEL_NAME)] == [2]


@pytest.mark.parametrize("case", ["loading_with_a_configuration", "loading_with_files"])
def test_versions_are_not_changed_while_they_are_loaded(replies: Replies, case: str) -> None:
    assert replies[case]["status"] == "StatusCode.INVALID_ARGUMENT"


def test_what_cannot_be_loaded_says_why(replies: Replies) -> None:
    found = {name: error["status"] for name, error in replies["loading_what_is_not_there"].items()}
    missing, wrong = "StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT"
    assert found == {
        "unknown": missing,
        "never-promoted": missing,
        "../colours": wrong,
        "": wrong,
        "/etc": wrong,
    }


def test_unloading_an_unknown_model_succeeds(replies: Replies) -> None:
    unknown, traversal = replies["unloading_what_is_not_there"]
    assert unknown is None
    assert traversal["status"] == "StatusCode.INVALID_ARGUMENT"


def test_a_version_that_does_not_load_is_unavailable_with_its_reason(replies: Replies) -> None:
    error, rows = replies["loading_what_is_broken"]
    assert error["status"] == "StatusCode.INTERNAL"
    assert "golden answers" in error["message"]
    (row,) = rows
    assert (row["version"], row["state"]) == ("1", "UNAVAILABLE")
    assert "golden answers" in row["reason"]


def test_a_load_that_fails_keeps_what_answers(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    server = start(poll_seconds=3600)
    tiny.publish(root, promote=True, golden_shift=1.0)
    control = pb_grpc.GRPCInferenceServiceStub(server.admin_channel)
    with pytest.raises(grpc.RpcError) as caught:
        control.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="colours"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert server.classify(tiny.picture()).version == 1
    asked = pb.ModelReadyRequest(name="colours-tensor")
    assert pb_grpc.GRPCInferenceServiceStub(server.channel).ModelReady(asked).ready
    for only_ready, states in ((False, {"READY", "UNAVAILABLE"}), (True, {"READY"})):
        index = control.RepositoryIndex(pb.RepositoryIndexRequest(ready=only_ready)).models
        assert {row.state for row in index} == states


def test_a_version_is_ready_once_its_metadata_were_asked_for(server: RunningServer) -> None:
    tiny.publish(server.registry.root)
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    asked = pb.ModelReadyRequest(name="colours", version="2")
    assert not stub.ModelReady(asked).ready
    stub.ModelMetadata(pb.ModelMetadataRequest(name="colours", version="2"), timeout=20)
    assert stub.ModelReady(asked).ready
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
    assert {row.version for row in index} == {"1", "2"}


def test_thirty_two_threads_may_load_and_unload_a_model_and_ask_it(replies: Replies) -> None:
    outcomes, answer = replies["loading_and_unloading_from_many_threads"]
    gone = {"StatusCode.NOT_FOUND", "StatusCode.UNAVAILABLE"}
    assert {one and one["status"] for one in outcomes} <= {None, *gone}
    assert answer["shape"] == [1, 3]


def test_the_index_has_a_row_for_each_version_of_each_name(replies: Replies) -> None:
    rows = {row["name"]: row for row in replies["index"]}
    assert rows["colours"] == {"name": "colours", "version": "1", "state": "READY"}
    assert rows["colours-tensor"]["state"] == "READY"
    assert rows["never-promoted"] == {"name": "never-promoted"}


def test_what_is_not_offered_says_so(replies: Replies) -> None:
    errors = replies["what_is_not_offered"]
    assert {error["status"] for error in errors} == {"StatusCode.UNIMPLEMENTED"}
    for error in errors:
        assert "is not supported" in error["message"] or "server starts" in error["message"]


# A server that holds back its answers


def test_what_a_client_gives_up_fails_and_the_server_goes_on(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    server = start(plan="1x1x1")
    with held(server):
        replies = ask(server, "a_timeout_that_passes", "a_request_that_is_cancelled")
        wait_until(lambda: in_flight(server, 0))
    assert replies["a_timeout_that_passes"]["status"] == "StatusCode.DEADLINE_EXCEEDED"
    assert replies["a_request_that_is_cancelled"] == [None, "StatusCode.CANCELLED"]
    statistics = server.service.models.in_memory(tiny.MODEL_NAME)[0].counts.statistics
    assert (statistics.success.count, statistics.fail.count) == (0, 2)
    assert ask(server, "one_image")["one_image"]["version"] == "1"


def test_a_full_queue_is_unavailable_and_says_when_to_try_again(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    server = start(plan="1x1x1", max_queue=1)
    with ThreadPoolExecutor() as aside, held(server):
        first = aside.submit(ask, server, "one_image")
        wait_until(lambda: in_flight(server, 1))
        status, message, trailers = ask(server, "a_full_queue")["a_full_queue"]
    assert (status, "Exceeds maximum queue size" in message) == ("StatusCode.UNAVAILABLE", True)
    assert int(trailers["grpc-retry-pushback-ms"]) >= 1
    assert first.result()["one_image"]["version"] == "1"


def test_a_model_that_is_unloaded_answers_what_is_under_way(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    server = start(plan="1x1x1")
    with ThreadPoolExecutor() as aside, held(server):
        first = aside.submit(ask, server, "one_image")
        wait_until(lambda: in_flight(server, 1))
        ready, refused = ask(server, "unloading_what_answers")["unloading_what_answers"]
    assert (ready, refused["status"]) == (False, "StatusCode.NOT_FOUND")
    assert first.result()["one_image"]["version"] == "1"
