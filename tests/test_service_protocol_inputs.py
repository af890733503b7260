"""Requests of the Open Inference Protocol that no well-made client sends: each gets its status."""

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
import tiny
from conftest import RunningServer, Start, held, settings, wait_until
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from registry.errors import BadRequest
from registry.store import check_name
from registry.tta import TtaSpec
from service.oip.names import read_version
from service.oip.parameters import read_wanted

S = tiny.SIZE
INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
FEW = 4  # images in a request, at most

Change = Callable[[Any], object]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("registry")
    tiny.publish(root, promote=True)
    tiny.publish(root, bias=(0.0, 0.0, 5.0))
    server = RunningServer(settings(root, max_images=FEW, max_message_mb=1))
    yield server
    server.stop()


def infer(server: RunningServer, request: Any, timeout: float = 20) -> Any:
    return pb_grpc.GRPCInferenceServiceStub(server.channel).ModelInfer(request, timeout=timeout)


def tensor(shape: list[int], datatype: str = "UINT8", name: str = "image", **fields: Any) -> Any:
    message = pb.ModelInferRequest.InferInputTensor
    return message(name=name, datatype=datatype, shape=shape, **fields)


def pixels(n_images: int = 1, **fields: Any) -> Any:
    """A request that is right: red images."""
    array = np.full((n_images, S, S, 3), (255, 0, 0), np.uint8)
    return pb.ModelInferRequest(
        model_name="colours-tensor",
        inputs=[tensor([n_images, S, S, 3])],
        raw_input_contents=[array.tobytes()],
        **fields,
    )


def images(*encoded: bytes, raw: bytes | None = None, n_images: int | None = None) -> Any:
    content = b"".join(struct.pack("<I", len(one)) + one for one in encoded) if raw is None else raw
    n_images = len(encoded) if n_images is None else n_images
    return pb.ModelInferRequest(
        model_name="colours",
        inputs=[tensor([n_images, 1], "BYTES")],
        raw_input_contents=[content],
    )


def probabilities(response: Any) -> Any:
    (raw,) = response.raw_output_contents
    return np.frombuffer(raw, np.float32).reshape(response.outputs[0].shape)


def with_input(*inputs: Any) -> Change:
    def change(request: Any) -> None:
        del request.inputs[:]
        request.inputs.extend(inputs)

    return change


def with_raw(*raw: bytes) -> Change:
    def change(request: Any) -> None:
        del request.raw_input_contents[:]
        request.raw_input_contents.extend(raw)

    return change


def with_outputs(*names: str) -> Change:
    return lambda request: [request.outputs.add(name=name) for name in names]


def with_parameter(name: str, **value: Any) -> Change:
    return lambda request: request.parameters[name].CopyFrom(pb.InferParameter(**value))


def with_classes(**value: Any) -> Change:
    def change(request: Any) -> None:
        output = request.outputs.add(name="probabilities")
        output.parameters["classification"].CopyFrom(pb.InferParameter(**value))

    return change


RIGHT = [1, S, S, 3]
N_BYTES = S * S * 3
TYPED = pb.InferTensorContents(uint_contents=[0] * N_BYTES)

WRONG: dict[str, tuple[Change, str]] = {
    "no input": (with_input(), "missing 'image'"),
    "another input": (with_input(tensor(RIGHT, name="IMAGE")), "unexpected inference input"),
    "an input too many": (
        with_input(tensor(RIGHT), tensor(RIGHT, name="mask")),
        "unexpected inference input 'mask'",
    ),
    "an input twice": (with_input(tensor(RIGHT), tensor(RIGHT)), "more than once"),
    "floats": (with_input(tensor(RIGHT, "FP32")), "expects 'UINT8' (RGB pixels from 0 to 255"),
    "no such type": (with_input(tensor(RIGHT, "\0\n")), "expects 'UINT8'"),
    "fewer bytes than the shape": (with_raw(b"\0" * (N_BYTES - 1)), "byte size mismatch"),
    "more bytes than the shape": (with_raw(b"\0" * (N_BYTES + 1)), "byte size mismatch"),
    "no bytes": (with_raw(b""), "byte size mismatch"),
    "no contents at all": (with_raw(), "neither"),
    "a negative dimension": (with_input(tensor([-1, S, S, 3])), "batch-size"),
    "negative dimensions that cancel": (with_input(tensor([1, -S, -S, 3])), "unexpected shape"),
    "an overflowing dimension": (with_input(tensor([2**62, S, S, 3])), "batch-size"),
    "no dimensions": (with_input(tensor([])), "unexpected shape"),
    "another size": (with_input(tensor([1, S + 1, S, 3])), "unexpected shape"),
    "a thousand dimensions": (with_input(tensor([1] * 1000)), f"got ({', '.join('1' * 10)})"),
    "channels first": (with_input(tensor([1, 3, S, S])), "unexpected shape"),
    "no images": (with_input(tensor([0, S, S, 3])), "batch-size"),
    "more images than the limit": (with_input(tensor([FEW + 1, S, S, 3])), f"<= {FEW}"),
    "more raw contents than inputs": (with_raw(b"", b""), "expected 1 raw_input_contents"),
    "raw and typed contents": (with_input(tensor(RIGHT, contents=TYPED)), "must not be specified"),
    "another output": (with_outputs("logits"), "unexpected inference output 'logits'"),
    "an output twice": (with_outputs("probabilities", "probabilities"), "more than once"),
    "no classes": (with_classes(int64_param=0), "classification"),
    "fewer than no classes": (with_classes(int64_param=-1), "classification"),
    "classes in words": (with_classes(string_param="5"), "classification"),
    "a reserved parameter": (with_parameter("triton_x", int64_param=1), "reserved"),
    "views in words": (with_parameter("tta_views", string_param="5"), "int64_param"),
    "views as a flag": (with_parameter("tta_views", bool_param=True), "int64_param"),
    "fewer than no views": (with_parameter("tta_views", int64_param=-1), "from 0 to"),
    "views beyond the limit": (with_parameter("tta_views", uint64_param=2**63), "from 0 to"),
    "a fractional priority": (with_parameter("priority", double_param=1.5), "priority"),
    "a negative priority": (with_parameter("priority", int64_param=-1), "priority"),
    "a negative timeout": (with_parameter("timeout", int64_param=-1), "timeout"),
    "a parameter without a value": (with_parameter("timeout"), "timeout"),
    "shared memory": (
        lambda request: request.inputs[0].parameters.get_or_create("shared_memory_region"),
        "shared memory is not supported",
    ),
}


def check(server: RunningServer, request: Any, code: grpc.StatusCode, text: str) -> None:
    """It is refused so, and the server goes on."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(server, request)
    assert caught.value.code() is code
    assert text in caught.value.details()
    assert probabilities(infer(server, pixels())).argmax() == 0


@pytest.mark.parametrize("what", WRONG)
def test_a_request_is_refused_that_has(served: RunningServer, what: str) -> None:
    change, text = WRONG[what]
    request = pixels()
    change(request)
    check(served, request, INVALID, text)


TYPED_WRONG = {
    "the wrong field": ({"fp32_contents": [0.0] * N_BYTES}, "unexpected fp32_contents"),
    "too few values": ({"uint_contents": [0] * (N_BYTES - 1)}, "byte size mismatch"),
    "too many values, however large": ({"uint_contents": [256] * (N_BYTES + 1)}, "byte size"),
    "a value over 255": ({"uint_contents": [256] + [0] * (N_BYTES - 1)}, "above 255"),
    "two fields": ({"uint_contents": [0] * N_BYTES, "int_contents": [1]}, "int_contents"),
    "nothing": ({}, "byte size mismatch"),
}


@pytest.mark.parametrize("what", TYPED_WRONG)
def test_typed_pixels_are_refused_that_have(served: RunningServer, what: str) -> None:
    fields, text = TYPED_WRONG[what]
    request = pixels()
    with_raw()(request)
    with_input(tensor(RIGHT, contents=pb.InferTensorContents(**fields)))(request)
    check(served, request, INVALID, text)


def test_typed_contents_are_read_like_raw_ones(served: RunningServer) -> None:
    request = pixels()
    expected = probabilities(infer(served, request))
    contents = pb.InferTensorContents(uint_contents=request.raw_input_contents[0])
    with_raw()(request)
    with_input(tensor(RIGHT, contents=contents))(request)
    assert (probabilities(infer(served, request)) == expected).all()

    encoded = pb.InferTensorContents(bytes_contents=[tiny.picture("blue"), tiny.picture("red")])
    request = images()
    with_raw()(request)
    with_input(tensor([2, 1], "BYTES", contents=encoded))(request)
    assert probabilities(infer(served, request)).argmax(axis=1).tolist() == [2, 0]


ONE = struct.pack("<I", 1) + b"x"
BYTES_WRONG = {
    "a length past the end": (struct.pack("<I", 2**32 - 1) + b"abc", 1, "are left"),
    "half a length": (b"\1\0", 1, "ends after 0 elements"),
    "fewer elements than the shape": (ONE, 2, "ends after 1 elements"),
    "more elements than the shape": (ONE + ONE, 1, "unexpected bytes after"),
    "100,000 empty elements": (bytes(400_000), 1, "unexpected bytes after"),
    "100,000 elements by its shape": (bytes(400_000), 100_000, "batch-size"),
    "an empty image": (struct.pack("<I", 0), 1, "image 0: "),
    "no image": (ONE, 1, "image 0: "),
}


@pytest.mark.parametrize("what", BYTES_WRONG)
def test_encoded_images_are_refused_that_have(served: RunningServer, what: str) -> None:
    raw, n_images, text = BYTES_WRONG[what]
    check(served, images(raw=raw, n_images=n_images), INVALID, text)


def test_pixels_for_the_name_that_takes_images_are_refused_with_the_other_name(
    served: RunningServer,
) -> None:
    request = pixels()
    request.model_name = "colours"
    check(served, request, INVALID, "send pixels to the name that ends in -tensor")


def test_one_poisonous_image_fails_its_own_request_alone(served: RunningServer) -> None:
    stub = pb_grpc.GRPCInferenceServiceStub(served.channel)
    good = [stub.ModelInfer.future(images(tiny.picture("red"))) for _ in range(8)]
    truncated = tiny.picture("blue", size=(200, 200))[:-50]
    check(served, images(tiny.picture("red"), truncated), INVALID, "image 1: ")
    assert all(probabilities(one.result(20)).argmax() == 0 for one in good)


NAMES = {
    "unknown": MISSING,
    "unknown-tensor": MISSING,
    "colours\0": INVALID,
    "": INVALID,
    " ": INVALID,
    "-tensor": INVALID,
    "../colours": INVALID,
    "/etc/passwd": INVALID,
    "colours/1": INVALID,
    "ä" * 5_000: INVALID,
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_model_that_is_not_there_has_a_status(served: RunningServer, name: str) -> None:
    request = pixels()
    request.model_name = name
    check(served, request, NAMES[name], "")


def test_names_that_are_not_unicode_are_refused(served: RunningServer) -> None:
    request = pixels().SerializeToString().replace(b"colours", b"col\xff\xferr")
    send = served.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        send(request, timeout=20)
    assert caught.value.code() is INVALID
    assert probabilities(infer(served, pixels())).argmax() == 0


@pytest.mark.parametrize("version", ["x", "-1", "1.0", "\u0661", "9" * 30, "1 "])
def test_a_version_is_an_integer(served: RunningServer, version: str) -> None:
    check(served, pixels(model_version=version), INVALID, "model_version")


def test_several_versions_answer_at_once(served: RunningServer) -> None:
    answers = {version: infer(served, pixels(model_version=version)) for version in ("", "1", "2")}
    assert [one.model_version for one in answers.values()] == ["1", "1", "2"]
    assert probabilities(answers["2"]).argmax() == 2
    stub = pb_grpc.GRPCInferenceServiceStub(served.channel)
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="colours"))
    assert metadata.versions == ["1", "2"]
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
    rows = [(row.name, row.version, row.state) for row in index]
    names = ("colours", "colours-tensor")
    assert sorted(rows) == [(name, version, "READY") for name in names for version in ("1", "2")]


def test_a_message_over_the_limit_is_refused(served: RunningServer) -> None:
    request = images(bytes(2 << 20))
    check(served, request, grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max")


@pytest.mark.parametrize(
    ("method", "empty"),
    [
        ("unfreeze.v1.Classifier/Classify", b"\x1a\0"),
        ("inference.GRPCInferenceService/ModelInfer", b"\x2a\0"),
    ],
)
def test_a_message_of_hundreds_of_thousands_of_fields_is_refused_before_it_is_parsed(
    served: RunningServer, method: str, empty: bytes
) -> None:
    """Parsed they take forty times as much memory, and seconds of everybody's time."""
    send = served.channel.unary_unary(f"/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        send(empty * 300_000, timeout=20)
    assert caught.value.code() is INVALID
    assert "more than 16384 fields" in caught.value.details()
    assert probabilities(infer(served, pixels())).argmax() == 0


def test_requested_outputs_and_tolerated_parameters_are_honoured(served: RunningServer) -> None:
    request = pixels(2)
    with_outputs("probabilities")(request)
    with_parameter("triton_enable_empty_final_response", bool_param=False)(request)
    with_parameter("priority", int64_param=1)(request)
    with_parameter("timeout", uint64_param=20_000_000)(request)
    with_parameter("mine", string_param="\0")(request)
    response = infer(served, request)
    assert [output.name for output in response.outputs] == ["probabilities"]
    assert len(response.raw_output_contents) == 1
    assert not response.outputs[0].HasField("contents")


def test_a_repository_has_no_other_name(served: RunningServer) -> None:
    stub = pb_grpc.GRPCInferenceServiceStub(served.channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryIndex(pb.RepositoryIndexRequest(repository_name="other"))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_full_queue_is_unavailable_and_recovers(start: Start, root: Any) -> None:
    tiny.publish(root, promote=True, work=5_000)  # a quick one would be held in the event loop
    server = start(max_queue=2, plan="1x1x1")
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    with held(server):
        burst = [stub.ModelInfer.future(pixels(), timeout=60) for _ in range(12)]
        wait_until(lambda: any(one.done() for one in burst))
    codes = [one.code() for one in burst]
    refused = [one for one in burst if one.code() is grpc.StatusCode.UNAVAILABLE]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert all("Exceeds maximum queue size" in one.details() for one in refused)
    assert probabilities(infer(server, pixels())).argmax() == 0


def test_a_request_whose_time_in_the_queue_is_over_is_unavailable(start: Start, root: Any) -> None:
    tiny.publish(root, promote=True, work=5_000)
    server = start(plan="1x1x1")
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    first = stub.ModelInfer.future(pixels(), timeout=60)
    hurried = pixels()
    with_parameter("timeout", int64_param=1)(hurried)
    with pytest.raises(grpc.RpcError) as caught:
        infer(server, hurried)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "Request timeout expired" in caught.value.details()
    assert probabilities(first.result(60)).argmax() == 0


def test_a_deadline_in_the_queue_is_kept_and_counted_as_a_failure(start: Start, root: Any) -> None:
    tiny.publish(root, promote=True, work=40_000)
    server = start(plan="1x1x1")
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    first = stub.ModelInfer.future(pixels(), timeout=60)
    with pytest.raises(grpc.RpcError) as caught:
        infer(server, pixels(), timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert probabilities(first.result(60)).argmax() == 0
    statistics = server.service.models.in_memory(tiny.MODEL_NAME)[0].counts.statistics
    wait_until(lambda: (statistics.success.count, statistics.fail.count) == (1, 1))


def test_a_cancelled_request_is_counted_as_a_failure_and_harms_no_other(
    start: Start, root: Any
) -> None:
    tiny.publish(root, promote=True, work=5_000)
    server = start(plan="1x1x1")
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    calls = [stub.ModelInfer.future(pixels(), timeout=60) for _ in range(4)]
    calls[0].result(60)
    calls[2].cancel()
    assert [probabilities(calls[i].result(60)).argmax() for i in (1, 3)] == [0, 0]
    statistics = server.service.models.in_memory(tiny.MODEL_NAME)[0].counts.statistics
    wait_until(lambda: statistics.success.count + statistics.fail.count == 4)


def test_an_error_in_a_stream_has_the_id_of_its_request(served: RunningServer) -> None:
    request = images(b"no image")
    request.id = "mine"
    stub = pb_grpc.GRPCInferenceServiceStub(served.channel)
    (response,) = stub.ModelStreamInfer(iter([request]))
    assert "image 0" in response.error_message
    assert response.infer_response.id == "mine"


def test_a_stream_says_when_to_send_again_what_a_full_queue_refuses(
    start: Start, root: Any
) -> None:
    tiny.publish(root, promote=True)
    server = start(plan="1x1x1", max_queue=1)
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    unknown = pb.ModelInferRequest(model_name="unknown")
    red = images(tiny.picture("red"))
    with held(server) as executor:
        first = stub.ModelInfer.future(red, timeout=60)
        wait_until(lambda: executor._admission._n_views)
        refused, wrong = stub.ModelStreamInfer(iter([red, unknown]), timeout=20)
    assert refused.error_message.startswith("Exceeds maximum queue size")
    assert refused.infer_response.parameters["retry_after_ms"].int64_param >= 1
    assert "retry_after_ms" not in wrong.infer_response.parameters
    assert probabilities(first.result()).argmax() == 0


def test_an_error_of_our_own_in_a_stream_is_not_shown_to_callers_and_the_stream_goes_on(
    start: Start, root: Any
) -> None:
    tiny.publish(root, promote=True)
    server = start()
    executor = server.service.models.in_memory(tiny.MODEL_NAME)[0].executor
    run = executor._run
    executor._run = lambda pixels: 1 / 0 if 1 in pixels[:, 4, 4].argmax(axis=1) else run(pixels)
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    asked = [images(tiny.picture(colour)) for colour in ("red", "green", "blue")]
    first, failed, last = stub.ModelStreamInfer(iter(asked), timeout=20)
    assert failed.error_message.startswith("internal error (request id ")
    assert probabilities(first.infer_response).argmax() == 0
    assert probabilities(last.infer_response).argmax() == 2


def test_a_client_that_leaves_its_stream_leaves_nothing_behind(start: Start, root: Any) -> None:
    tiny.publish(root, promote=True, work=2_000)
    server = start(plan="1x1x1")
    stub = pb_grpc.GRPCInferenceServiceStub(server.channel)
    stream = stub.ModelStreamInfer(iter([pixels() for _ in range(50)]))
    assert not next(stream).error_message
    stream.cancel()
    loaded = server.service.models.in_memory(tiny.MODEL_NAME)[0]
    wait_until(lambda: not loaded.executor.depth and not loaded._readers)
    assert loaded.counts.statistics.success.count < 50
    assert probabilities(infer(server, pixels())).argmax() == 0


def test_a_candidate_answers_its_share_of_what_it_takes(start: Start, root: Any) -> None:
    tiny.publish(root, promote=True)
    alike, wider = tiny.publish(root), tiny.publish(root, size=2 * S)
    server = start()

    def versions(candidate: int) -> list[str]:
        change = server.service.models.operations.set_candidate(
            tiny.MODEL_NAME, candidate, "split", 100, by="test", reason="a test"
        )
        server.call(change)
        requests = (pixels(), images(tiny.picture()))
        return [infer(server, request).model_version for request in requests]

    assert versions(alike) == ["2", "2"]
    assert versions(wider) == ["1", "3"]  # pixels have the live version's size


@pytest.mark.parametrize("make", [lambda: images(tiny.noise(9)), pixels], ids=["images", "pixels"])
def test_the_bundles_own_views_are_the_default(
    start: Start, root: Any, make: Callable[[], Any]
) -> None:
    spec = TtaSpec(default_views=4, symmetries="dihedral", max_zoom=2, lighting=0.5)
    tiny.publish(root, promote=True, tta=spec)
    server = start()
    answers = []
    for n_views in (None, 4, 1):
        request = make()
        if n_views:
            with_parameter("tta_views", int64_param=n_views)(request)
        answers.append(probabilities(infer(server, request)).tolist())
    default, four, plain = answers
    assert default == four
    assert default != plain


def test_labels_may_change_their_number_across_a_swap(start: Start, root: Any) -> None:
    tiny.publish(root, promote=True)
    server = start()
    assert infer(server, pixels()).outputs[0].shape == [1, 3]
    labels = ("red", "green", "blue", "grey")
    tiny.publish(root, labels=labels, bias=(0.0, 0.0, 0.0, 9.0), promote=True)
    server.refresh()
    response = infer(server, pixels())
    assert (response.model_version, list(response.outputs[0].shape)) == ("2", [1, 4])


def test_metrics_name_the_protocol(served: RunningServer) -> None:
    infer(served, pixels())
    page = served.metrics()
    rpc = 'grpc_method="ModelInfer",grpc_service="inference.GRPCInferenceService"'
    assert f'grpc_server_handled_total{{grpc_code="OK",{rpc},grpc_type="unary"}}' in page


LONG = "\x01" * 4_000_000


@pytest.mark.parametrize(
    "name",
    [
        partial(check_name, LONG),
        partial(read_version, LONG),
        partial(read_wanted, pb.ModelInferRequest(outputs=[{"name": LONG}]), 0),
        partial(read_wanted, pb.ModelInferRequest(parameters={f"triton_{LONG}": {}}), 0),
    ],
    ids=["model", "version", "output", "parameter"],
)
def test_of_a_long_name_no_more_is_escaped_than_is_shown(name: Callable[[], object]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match=r"\\x01"):
            name()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(LONG)  # escaped, it would be four times as long
