"""The Open Inference Protocol as Triton's own client sees it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import TESTS, RunningServer, settings

RED = np.full((1, tiny.SIZE, tiny.SIZE, 3), (255, 0, 0), np.uint8)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("registry")
    tiny.publish(root, promote=True)
    tiny.publish(root, model="wide", size=128, promote=True)
    tiny.publish(root, model="counted", promote=True)
    server = RunningServer(settings(root))
    yield server
    server.stop()


Told = dict[str, Any]


@pytest.fixture(scope="module")
def told(served: RunningServer) -> Told:
    """What each case of `protocol_cases.py` told, which is a process of its own."""
    script = str(TESTS / "protocol_cases.py")
    command = [sys.executable, script, served.address, served.admin_address]
    found: Told = json.loads(subprocess.check_output(command))
    return found


def test_a_server_is_live_and_ready(told: Told) -> None:
    assert told["server_is_live"] is told["server_is_ready"] is True


def test_only_extensions_that_work_are_listed(told: Told) -> None:
    metadata = told["server_metadata"]
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


def test_an_unknown_model_is_not_ready_which_is_no_error(told: Told) -> None:
    ready = {"colours": True, "colours-tensor": True, "1": True}
    not_ready = {"unknown": False, "": False, "../etc": False, "9": False}
    assert told["models_ready"] == ready | not_ready


def test_images_and_pixels_are_two_names_of_a_model(told: Told) -> None:
    output = [{"name": "probabilities", "datatype": "FP32", "shape": ["-1", "3"]}]
    facts = {"versions": ["1"], "platform": "onnxruntime_onnx", "outputs": output}
    images = {"name": "image", "datatype": "BYTES", "shape": ["-1", "1"]}
    assert told["metadata"] == facts | {"name": "colours", "inputs": [images]}
    pixels = {"name": "image", "datatype": "UINT8", "shape": ["-1", "8", "8", "3"]}
    assert told["metadata_of_tensors"] == facts | {"name": "colours-tensor", "inputs": [pixels]}


def test_the_configuration_leaves_the_batch_out_of_the_dimensions(told: Told) -> None:
    config = told["config_of_tensors"]
    (input,), (output,) = config["input"], config["output"]
    assert (input["data_type"], input["format"]) == ("TYPE_UINT8", "FORMAT_NHWC")
    assert (input["dims"], output["dims"]) == (["8", "8", "3"], ["3"])
    assert config["max_batch_size"] == 128
    assert (config["platform"], config["backend"]) == ("onnxruntime_onnx", "onnxruntime")
    assert output["label_filename"]
    assert "dynamic_batching" in config
    (image,) = told["config"]["input"]
    assert (image["data_type"], image["dims"]) == ("TYPE_STRING", ["1"])


def test_the_configuration_shows_the_execution_plan(told: Told) -> None:
    parameters = told["config"]["parameters"]
    assert parameters["execution_plan"] == {"string_value": "1x2x4"}
    assert parameters["execution_provider"] == {"string_value": "cpu"}
    assert told["config"]["instance_group"][0]["count"] == 2


def test_what_would_change_a_load_generator_is_left_unset(told: Told) -> None:
    unset = {"model_transaction_policy", "response_cache", "sequence_batching"}
    assert not unset & (set(told["config"]) | set(told["config_of_tensors"]))


def test_an_image_is_answered_with_its_id_and_raw_output(told: Told) -> None:
    answer = told["one_image"]
    assert (answer["id"], answer["model"], answer["version"]) == ("mine", "colours", "1")
    assert (answer["shape"], answer["raw"]) == ([1, 3], 1)
    assert answer["values"][0] == pytest.approx(tiny.answer(RED)[0].tolist(), abs=1e-6)


def test_images_of_all_formats_are_answered_in_order(told: Told) -> None:
    assert np.argmax(told["several_images"]["values"], axis=1).tolist() == [0, 1, 2]


def test_pixels_are_answered_like_the_image_that_they_are_of(told: Told) -> None:
    answer = told["some_pixels"]
    assert (answer["model"], answer["shape"]) == ("colours-tensor", [2, 3])
    assert answer["values"][0] == pytest.approx(told["one_image"]["values"][0], abs=1e-6)


def test_classification_names_the_likeliest_classes(told: Told) -> None:
    answer = told["two_classes"]
    assert answer["shape"] == [2, 2]
    value, index, label = answer["values"][0][0].split(":")
    assert float(value) == pytest.approx(told["several_images"]["values"][1][1], abs=0.01)
    assert (index, label) == ("1", "green")
    assert answer["values"][1][0].endswith(":2:blue")


def test_more_classes_than_there_are_means_all(told: Told) -> None:
    assert told["more_classes_than_there_are"]["shape"] == [1, 3]


def test_fewer_classes_than_one_are_refused(told: Told) -> None:
    assert told["no_classes"]["status"] == "StatusCode.INVALID_ARGUMENT"
    assert "classification" in told["no_classes"]["message"]


def test_views_are_drawn_when_the_request_says_so(told: Told) -> None:
    plain = told["one_image"]["values"][0]
    for case in ("views", "views_of_pixels"):
        assert told[case]["values"][0] != plain
        assert told[case]["values"][0] == pytest.approx(plain, abs=0.05)
    assert told["too_many_views"]["status"] == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "case",
    ["priority_and_timeout", "a_priority_beyond_the_levels", "a_sequence", "custom_parameters"],
)
def test_parameters_are_taken(told: Told, case: str) -> None:
    assert told[case]["values"] == told["one_image"]["values"]


def test_compressed_requests_are_answered(told: Told) -> None:
    assert np.argmax(told["compressed"]["values"]) == 0


def test_requests_may_be_larger_than_the_default_of_grpc(told: Told) -> None:
    assert told["large_pixels"]["shape"] == [100, 3]


@pytest.mark.parametrize(
    ("case", "status", "message"),
    [
        ("unknown_model", "NOT_FOUND", "Request for unknown model"),
        ("unknown_version", "NOT_FOUND", "version 9"),
        ("version_in_words", "INVALID_ARGUMENT", "latest"),
    ],
)
def test_a_model_or_version_that_is_not_there_is_named(
    told: Told, case: str, status: str, message: str
) -> None:
    assert told[case]["status"] == f"StatusCode.{status}"
    assert message in told[case]["message"]


def test_a_bad_image_fails_its_whole_request_and_is_named(told: Told) -> None:
    error = told["bad_image"]
    assert error["status"] == "StatusCode.INVALID_ARGUMENT"
    assert "image 1: " in error["message"]
    assert "image 3: " in error["message"]


def test_asynchronous_calls_are_answered_with_their_ids(told: Told) -> None:
    assert told["asynchronous"] == ["0", "1", "2", "3"]
    live, ids = told["asyncio_client"]
    assert live
    assert ids == [str(i) for i in range(8)]
