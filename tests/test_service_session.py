"""Networks as ONNX Runtime opens them: where, in which precision, and against which manifest."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from conftest import Start, best

from registry.bundle import read_bundle
from registry.errors import BundleError, Unavailable
from service.execution.providers import (
    ARENAS,
    EXECUTION_PROVIDERS,
    Placement,
    provider_options,
)
from service.execution.session import Bound, Session, _nodes, choose_provider
from service.settings import Settings

CPU = Placement("cpu")
GREEN, BLUE = (0.0, 9.0, 0.0), (0.0, 0.0, 9.0)


def test_a_session_answers_as_the_model_does(tmp_path: Path) -> None:
    bundle = tiny.stage(tmp_path, bias=(1, 2, 3))
    session = Session(tmp_path / "model.onnx", bundle, placement=CPU, threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(session.run(pixels), tiny.answer(pixels, (1, 2, 3)), atol=1e-6)


def test_a_session_has_the_threads_of_its_plan_which_sleep_when_idle(tmp_path: Path) -> None:
    bundle = tiny.stage(tmp_path)
    session = Session(tmp_path / "model.onnx", bundle, placement=CPU, threads=3)
    told = session._session.get_session_options()
    assert (told.intra_op_num_threads, told.inter_op_num_threads) == (3, 1)
    assert told.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert told.get_session_config_entry("session.use_env_allocators") == "1"  # memory is shared


def test_memory_that_large_batches_took_is_given_back(tmp_path: Path) -> None:
    tiny.stage(tmp_path, size=256)
    # in a process of its own, for all networks of a process share the pool
    script = [sys.executable, str(Path(__file__).with_name("shrink.py")), str(tmp_path)]
    freed = subprocess.run(script, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert int(freed) > 40_000_000


def test_memory_that_large_batches_took_on_a_gpu_is_given_back_too() -> None:
    assert ARENAS["cuda"].split(";") == ["cpu:0", "gpu:0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a", "b", "c")}, "model.onnx says unfreeze.labels is"),
        ({"labels": ("a", "b")}, r"not probabilities float32 \[n,2\]"),
        ({"image": {"size": 9}}, r"not image uint8 \[n,9,9,3\]"),
        ({"image": {"size": 8, "crop": "squash"}}, "model.onnx says unfreeze.image_spec is"),
    ],
)
def test_a_graph_with_another_manifest_is_refused(tmp_path: Path, change, message: str) -> None:
    tiny.stage(tmp_path)
    content = read_bundle(tmp_path).model_dump() | change
    other = type(read_bundle(tmp_path)).model_validate(content)
    with pytest.raises(BundleError, match=message):
        Session(tmp_path / "model.onnx", other, placement=CPU, threads=1)


def test_bytes_that_are_no_graph_are_refused(tmp_path: Path) -> None:
    bundle = tiny.stage(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07nonsense")
    with pytest.raises(BundleError, match=r"ONNX Runtime cannot open model\.onnx"):
        Session(tmp_path / "model.onnx", bundle, placement=CPU, threads=1)


@pytest.mark.parametrize("where", ["outside", "absolute", "link"])
def test_weights_outside_of_the_bundle_are_not_read(tmp_path: Path, where: str) -> None:
    folder, secret = tmp_path / "colours" / "1", tmp_path / "secret"
    bundle = tiny.stage(folder)
    secret.write_bytes(bytes(4096))
    (folder / "weights").symlink_to(secret)
    location = {"outside": "../../secret", "absolute": str(secret), "link": "weights"}[where]
    graph = onnx.load(folder / "model.onnx")
    (bias,) = (one for one in graph.graph.initializer if one.name == "bias")
    bias.ClearField("raw_data")
    bias.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", "12")):
        bias.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(BundleError, match="External data path validation failed"):
        Session(folder / "model.onnx", bundle, placement=CPU, threads=1)


RUN_BUNDLE = """
import sys, pathlib, numpy
from registry.bundle import read_bundle
from service.execution.providers import Placement
from service.execution.session import Session

folder = pathlib.Path(sys.argv[1])
network = folder / "model.onnx"
session = Session(network, read_bundle(folder), placement=Placement("cpu"), threads=1)
try:
    session.run(numpy.zeros((1, 8, 8, 3), numpy.uint8))
except Exception as error:
    print(error)
"""


def test_a_graph_whose_node_fails_writes_no_line_of_its_own_to_the_log(tmp_path: Path) -> None:
    tiny.stage(tmp_path)
    graph = onnx.load(tmp_path / "model.onnx")
    (gather,) = [node for node in graph.graph.node if node.op_type == "Gather"]
    gather.name = 'a node\n{"event": "forged"}'
    (channels,) = [one for one in graph.graph.initializer if one.name == "channels"]
    channels.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 1, 99]), "channels"))
    onnx.save(graph, tmp_path / "model.onnx")
    # in a process of its own, which flushes everything at its end
    ran = subprocess.run(
        [sys.executable, "-c", RUN_BUNDLE, str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert "forged" in ran.stdout
    assert "forged" not in ran.stderr


def test_a_provider_that_is_not_installed_is_no_silent_fall_back() -> None:
    assert choose_provider("cpu") == "cpu"
    with pytest.raises(Unavailable, match="tensorrt"):
        choose_provider("tensorrt")


@pytest.mark.parametrize("provider", sorted(set(EXECUTION_PROVIDERS) - {"cpu"}))
def test_a_server_whose_provider_is_not_there_does_not_start(
    start: Start, root: Path, provider: str
) -> None:
    if EXECUTION_PROVIDERS[provider] in onnxruntime.get_available_providers():
        pytest.skip(f"{provider} is here")
    with pytest.raises(Unavailable, match=f"provider {provider} is not in .*; install .*, or"):
        start(provider=provider)


def test_a_provider_that_is_installed_and_does_not_come_up_is_no_silent_fall_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offered = list(EXECUTION_PROVIDERS.values())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    with pytest.raises(Unavailable, match="provider cuda did not come up"):
        choose_provider("cuda")


@pytest.mark.parametrize(
    ("asked", "looked_for"), [("auto", 1), ("cuda", 1), ("tensorrt", 1), ("cpu", 0)]
)
def test_the_libraries_of_cuda_are_found_before_a_gpu_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str, looked_for: int
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: steps.append("found"))
    there = onnxruntime.get_available_providers()
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: steps.append("asked") or there
    )
    with suppress(Unavailable):  # which none is here
        choose_provider(asked)
    assert steps[: looked_for + 1] == ["found"] * looked_for + ["asked"]


def test_a_provider_that_comes_up_and_cannot_run_a_graph_is_an_error_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*_: object) -> None:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
    with pytest.raises(Unavailable, match="provider cpu did not come up: no kernel image"):
        choose_provider("cpu")


# Bound to places on a device; a CPU is a device too


def bound(folder: Path) -> Bound:
    tiny.stage(folder, bias=BLUE)
    return Bound(onnxruntime.InferenceSession(folder / "model.onnx"), "cpu", len(tiny.LABELS))


def some_pixels(n_images: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n_images, 8, 8, 3), dtype=np.uint8)


def test_bound_runs_give_each_caller_its_own_answers(tmp_path: Path) -> None:
    network = bound(tmp_path)
    asked = [some_pixels(1 + seed % 3, seed) for seed in range(60)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(network.run, asked))
    for pixels, answer in zip(asked, answers, strict=True):
        np.testing.assert_allclose(answer, tiny.answer(pixels, BLUE), atol=1e-6)


def test_bound_runs_take_the_places_that_earlier_ones_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = bound(tmp_path)
    made: list[tuple[int, ...]] = []
    bind = network._bind
    monkeypatch.setattr(network, "_bind", lambda shape: made.append(shape) or bind(shape))
    for n_images in (1, 4, 1, 4, 4):
        network.run(some_pixels(n_images, 0))
    assert made == [(1, 8, 8, 3), (4, 8, 8, 3)]


def test_a_gpu_gets_its_limit_and_an_engine_is_kept(tmp_path: Path) -> None:
    placement = Placement("tensorrt", gpu_memory_mb=512, engines=tmp_path / "engines")
    cuda = provider_options("cuda", placement, "fp32", threads=1)
    tensorrt = provider_options("tensorrt", placement, "fp16", threads=1)
    assert cuda["gpu_mem_limit"] == str(512 << 20)
    assert cuda["cudnn_conv_algo_search"] == "HEURISTIC"
    assert tensorrt["trt_engine_cache_path"] == str(tmp_path / "engines")
    assert tensorrt["trt_timing_cache_path"] == str(tmp_path)
    assert tensorrt["trt_fp16_enable"] == "1"
    assert (tmp_path / "engines").is_dir()


def test_what_was_compiled_for_another_network_or_gpu_is_not_taken(tmp_path: Path) -> None:
    placement = Placement("tensorrt", engines=tmp_path)
    asked = [("1", "A"), ("2", "A"), ("1", "B")]
    folders = [placement.of(digest * 64, gpu).engines for digest, gpu in asked]
    assert len(set(folders)) == 3
    assert placement.of("1" * 64, "A").engines == folders[0]
    measured = [Path(folder or "").parent for folder in folders]
    assert (measured[0] == measured[1], measured[0] == measured[2]) == (True, False)
    assert placement.of("1" * 64, "").engines is None  # a GPU without a name


def test_each_network_is_compiled_into_a_folder_of_its_own(
    start: Start, root: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path | None] = []

    class Watched(Session):
        def __init__(self, *args: Any, placement: Placement, **more: Any) -> None:
            opened.append(placement.engines)
            super().__init__(*args, placement=placement, **more)

    monkeypatch.setattr("service.models.loader.Session", Watched)
    for name, bias in (("a", GREEN), ("b", BLUE)):
        tiny.publish(root, model=name, bias=bias, promote=True)
    start(state=state)
    assert len(set(opened)) == 2
    assert all(folder and folder.is_relative_to(state / "engines") for folder in opened)


def test_every_node_of_a_graph_is_counted_where_it_runs(tmp_path: Path) -> None:
    bundle = tiny.stage(tmp_path)
    session = Session(tmp_path / "model.onnx", bundle, placement=CPU, threads=1)
    kinds = ("Cast", "ReduceMean", "Gather", "Mul", "Add", "Softmax")
    assert _nodes(session._session) == {"CPUExecutionProvider": dict.fromkeys(kinds, 1)}
    assert session.elsewhere == {}


def test_nodes_that_the_provider_does_not_take_are_logged(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.publish(root, promote=True)
    start()
    assert "nodes_elsewhere" not in caplog.text
    left = SimpleNamespace(ep_name="Other", get_nodes=lambda: [SimpleNamespace(op_type="Resize")])
    told = "get_provider_graph_assignment_info"
    monkeypatch.setattr(onnxruntime.InferenceSession, told, lambda session: [left, left])
    start()
    (record,) = (one for one in caplog.records if one.message == "nodes_elsewhere")
    assert vars(record)["nodes"] == {"Other": {"Resize": 2}}


# Variants: the tiny ones answer otherwise on purpose, so that they can be told apart


def publish(root: Path, *variants: str) -> None:
    """A version that says "red" of white images, with variants that say "blue"."""
    tiny.publish(root, promote=True, bias=(9.0, 0.0, 0.0))
    for precision in variants:
        tiny.add_variant(root / tiny.MODEL_NAME / "1", precision, bias=BLUE, tolerance=1.1)


@pytest.mark.parametrize(
    ("held", "asked", "answer", "used"),
    [
        (("int8", "fp16"), "auto", "blue", "int8"),
        (("fp16",), "auto", "red", "fp32"),
        ((), "auto", "red", "fp32"),
        (("int8",), "fp32", "red", "fp32"),
        (("int8", "fp16"), "fp16", "blue", "fp16"),
    ],
)
def test_the_policy_decides_which_variant_answers_on_a_cpu(
    start: Start, root: Path, held: tuple[str, ...], asked: str, answer: str, used: str
) -> None:
    publish(root, *held)
    server = start(precision=asked)
    assert best(server.classify(tiny.picture("white"))) == [answer]
    assert f'precision="{used}",provider="cpu",version="1"' in server.metrics()


def test_a_variant_that_is_asked_for_and_not_held_is_a_problem_of_the_model(
    start: Start, root: Path
) -> None:
    publish(root, "int8")
    server = start(precision="fp16")
    with pytest.raises(grpc.RpcError) as caught:
        server.classify(tiny.picture("white"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "colours/1: has no fp16 variant, only fp32, int8" in caught.value.details()


def test_golden_answers_are_held_to_the_tolerance_of_the_variant(start: Start, root: Path) -> None:
    publish(root)
    tiny.add_variant(root / tiny.MODEL_NAME / "1", "int8", bias=GREEN, tolerance=0.25)
    problem = start(precision="auto").service.models.problems()[tiny.MODEL_NAME]
    assert "golden answers differ by" in problem
    assert "the tolerance is 0.25 for model.int8.onnx" in problem
    assert "might with --precision fp32" in problem


def test_what_was_scored_is_what_is_served_unless_something_else_is_asked_for() -> None:
    assert Settings(registry=Path("x")).precision == "fp32"
