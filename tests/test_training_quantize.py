"""Copies of a model in fewer bits: how they are made, and when they are refused."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import photos
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from registry.bundle import Reduced, verify_bundle
from registry.images import UInt8Array
from service.execution.kind import Kind
from service.execution.providers import Placement
from service.execution.session import Session
from service.models.golden_check import check_golden
from training.data.dataset import read_dataset
from training.data.decoded import decode
from training.export import quantize as quantizing
from training.export import variants
from training.export.onnx_graphs import float_nodes
from training.export.quantize import quantize, shift
from training.export.runtime import answer_all, open_session
from training.export.variants import (
    GPU,
    Made,
    Proof,
    has_gpu,
    make_variant,
    measure_speedup,
    tolerances,
)
from training.reading_settings import read_settings
from training.recipe import train

SIZE = 24
CHANNELS = 32
METADATA = {"unfreeze.task": "single"}


def weights(*shape: int, seed: int) -> np.ndarray:
    scale = np.sqrt(2 / np.prod(shape[1:]))
    return (np.random.default_rng(seed).normal(0, scale, shape)).astype(np.float32)


def convolutions(path: Path, n_layers: int = 5, spread: float = 1.0) -> Path:
    """A network of real convolutions at `path`; with a `spread`, channels are of very unequal
    size, which one scale for a whole tensor cannot hold.
    """
    constants = {"scale": np.float32(1 / 255), "flat": np.array([0, -1]), "axes": np.array([2, 3])}
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Transpose", ["floats"], ["nchw"], perm=[0, 3, 1, 2], name="turn"),
        helper.make_node("Mul", ["nchw", "scale"], ["x0"], name="normalise"),
    ]
    sizes = spread ** np.linspace(-1, 1, CHANNELS).astype(np.float32)[:, None, None, None]
    for i in range(n_layers):
        constants[f"w{i}"] = weights(CHANNELS, CHANNELS if i else 3, 3, 3, seed=i) * sizes
        made = [f"x{i}", f"w{i}"], [f"c{i}"]
        nodes.append(helper.make_node("Conv", *made, pads=[1, 1, 1, 1], name=f"conv{i}"))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"], name=f"relu{i}"))
    constants["head"] = weights(CHANNELS, 3, seed=99)
    pooled = [f"x{n_layers}", "axes"]
    nodes += [
        helper.make_node("ReduceMean", pooled, ["mean"], keepdims=0, name="pool"),
        helper.make_node("MatMul", ["mean", "head"], ["logits"], name="head"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, METADATA)
    onnx.save(model, path)
    return path


def pictures(n_images: int, seed: int = 0) -> UInt8Array:
    """Not noise, whose means are all alike: each has a colour of its own."""
    draw = np.random.default_rng(seed)
    colours = draw.integers(0, 200, (n_images, 1, 1, 3))
    return (colours + draw.integers(0, 56, (n_images, SIZE, SIZE, 3))).astype(np.uint8)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one, networks as small as these gain nothing by 16 bits."""
    monkeypatch.setattr(variants, "has_gpu", lambda model: False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return convolutions(tmp_path / "model.onnx")


def proof_of(model: Path, n_images: int = 40) -> Proof:
    """Images on which the model is always right."""
    pixels = pictures(n_images, seed=7)
    answers = answer_all(model, pixels)
    return Proof(pixels, np.eye(3, dtype=np.float32)[answers.argmax(axis=1)], answers, "single")


def kinds(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_a_quantised_model_answers_nearly_the_same_and_takes_the_same_pixels(
    model: Path, tmp_path: Path
):
    path = tmp_path / "model.int8.onnx"
    how = quantize(model, pictures(48), path)
    pixels = pictures(20, seed=3)
    assert {"QuantizeLinear", "DequantizeLinear", "Cast"} <= kinds(path)
    assert shift(answer_all(path, pixels), answer_all(model, pixels)) < quantizing.CLOSE
    assert "ranges by minmax" in how
    assert {prop.key: prop.value for prop in onnx.load(path).metadata_props} == METADATA


def test_weights_have_a_scale_for_each_channel_and_pixels_stay_exact(model: Path, tmp_path: Path):
    path = tmp_path / "model.int8.onnx"
    quantize(model, pictures(16), path)
    graph = onnx.load(path).graph
    scales = {one.name: one for one in graph.initializer if one.name.startswith("w1_")}
    assert numpy_helper.to_array(scales["w1_scale"]).shape == (CHANNELS,)
    taken = {node.name: list(node.input) for node in graph.node}
    assert taken["conv0"] == ["x0", "w0"]
    assert taken["head"][1] == "head"


def test_normalisation_first_and_last_layer_stay_in_float(model: Path):
    names = ("cast", "turn", "normalise", "conv0", "head", "softmax")
    assert float_nodes(onnx.load(model)) == names


def test_sizes_are_reckoned_with_in_float(model: Path, tmp_path: Path):
    """Exported padding does this: in 8 bits it was another padding, and the answers were wrong."""
    proto = onnx.load(model)
    sizes = [
        helper.make_node("Shape", ["x2"], ["shape"], name="shape"),
        helper.make_node("Cast", ["shape"], ["sizes"], to=TensorProto.FLOAT, name="sizes"),
        helper.make_node("Add", ["sizes", "none"], ["same"], name="same"),
        helper.make_node("Cast", ["same"], ["whole"], to=TensorProto.INT64, name="whole"),
        helper.make_node("Reshape", ["x2", "whole"], ["reshaped"], name="reshape"),
    ]
    at = next(i for i, node in enumerate(proto.graph.node) if node.name == "conv2")
    proto.graph.node[at].input[0] = "reshaped"
    for number, node in enumerate(sizes):
        proto.graph.node.insert(at + number, node)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.25), "none"))
    onnx.save(proto, model)
    path = tmp_path / "model.int8.onnx"
    quantize(model, pictures(16), path)
    taken = {node.name: list(node.input) for node in onnx.load(path).graph.node}
    assert taken["same"] == ["sizes", "none"]
    assert {"shape", "sizes", "same", "whole"} < set(float_nodes(onnx.load(model)))
    assert "reshape" not in float_nodes(onnx.load(model))


def test_layers_that_lose_most_are_left_in_float_until_answers_are_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = convolutions(tmp_path / "model.onnx", n_layers=8, spread=3.0)
    pixels = pictures(20, seed=3)
    truth, shifts, kept = answer_all(model, pixels), [], []
    for close in (1.0, 0.0):
        monkeypatch.setattr(quantizing, "CLOSE", close)
        path = tmp_path / f"{close}.onnx"
        how = quantize(model, pictures(48), path)
        kept.append(int(how.split()[-4]))
        shifts.append(shift(answer_all(path, pixels), truth))
    assert kept[0] < kept[1]
    assert shifts[1] < shifts[0]


def test_nothing_is_printed_where_events_are_reported(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = sys.stdout
    quantize(model, pictures(16), tmp_path / "model.int8.onnx")
    assert capsys.readouterr() == ("", "")
    assert sys.stdout is before


def test_a_variant_states_what_it_costs(model: Path, tmp_path: Path):
    proof = proof_of(model)
    path = tmp_path / "model.fp16.onnx"
    made = make_variant("fp16", model, pictures(8), proof, path)
    assert made.variant is not None
    assert (made.variant.metric, made.variant.metric_change) == ("accuracy", 0)
    assert (made.variant.images, made.variant.speedup) == (40, None)
    assert made.outcome.startswith("fp16: accuracy +0.00 points on 40 images, outputs shift 0.00")
    assert "speed not measured: no GPU here" in made.outcome
    graph = onnx.load(path).graph
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert TensorProto.FLOAT16 in {one.data_type for one in graph.initializer}


def test_tolerances_are_wide_enough_for_the_variant_and_for_nothing_else(
    model: Path, tmp_path: Path
):
    path, golden = tmp_path / "model.int8.onnx", pictures(8, seed=5)
    quantize(model, pictures(48), path)
    allowed = tolerances(model, path, golden)["model.int8.onnx/cpu"]
    truth = answer_all(model, golden)
    assert np.abs(answer_all(path, golden) - truth).max() < allowed < 0.1


def test_a_variant_that_answers_worse_is_refused_and_not_left_behind(model: Path, tmp_path: Path):
    proof = proof_of(model)
    targets = proof.targets.copy()
    targets[:20] = np.roll(targets[:20], 1, axis=1)
    always_right = replace(proof, targets=targets, answers=targets * np.float32(0.9) + 0.05)
    path = tmp_path / "model.fp16.onnx"
    made = make_variant("fp16", model, pictures(8), always_right, path)
    assert made.variant is None
    assert made.outcome.startswith("fp16 was refused: accuracy -50.00 points on 40 images")
    assert not path.exists()


def test_a_variant_is_judged_by_the_thresholds_that_are_served(model: Path, tmp_path: Path):
    """Its labels are right from 0.5 on, and wrong from those that were fitted on."""
    proof = replace(proof_of(model), task="multi")
    plain = make_variant("fp16", model, pictures(8), proof, tmp_path / "model.fp16.onnx")
    least = tuple(proof.answers.max(axis=0) + 0.01)  # no label is ever likely enough
    strict = replace(proof, answers=proof.targets * np.float32(2), thresholds=least)
    made = make_variant("fp16", model, pictures(8), strict, tmp_path / "model.fp16.onnx")
    assert plain.variant is not None
    assert made.outcome.startswith("fp16 was refused: f2 -100.00 points")


@pytest.mark.parametrize(("n_images", "accepted"), [(200, True), (199, False)])
def test_half_a_point_is_the_most_that_a_variant_may_cost(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_images: int, accepted: bool
):
    """One image of 200 is half a point."""

    def copied(source: Path, images: UInt8Array, path: Path) -> str:
        shutil.copy(source, path)
        return "copied"

    monkeypatch.setitem(variants.MAKERS, "int8", copied)
    monkeypatch.setattr(variants, "measure_speedup", lambda *models: 2.0)
    proof = proof_of(model, n_images)
    targets = proof.targets.copy()
    targets[0] = np.roll(targets[0], 1)
    always_right = replace(proof, targets=targets, answers=targets)
    made = make_variant("int8", model, pictures(1), always_right, tmp_path / "model.int8.onnx")
    assert (made.variant is not None) is accepted, made.outcome


@pytest.mark.parametrize(("speedup", "accepted"), [(1.0, False), (1.6, True)])
def test_a_variant_that_is_no_faster_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speedup: float, accepted: bool
):
    monkeypatch.setattr(variants, "measure_speedup", lambda *models: speedup)
    path = tmp_path / "model.int8.onnx"
    made = make_variant("int8", model, pictures(32), proof_of(model), path)
    assert (made.variant is not None, path.exists()) == (accepted, accepted)
    assert f"{speedup:.2f} times as fast on one thread" in made.outcome


def test_the_libraries_of_cuda_are_found_before_a_model_is_loaded_on_a_gpu(
    model: Path, monkeypatch: pytest.MonkeyPatch
):
    steps: list[str] = []

    def load(model: Path, provider: str) -> onnxruntime.InferenceSession:
        steps.append(f"loaded on {provider}")
        return open_session(str(model))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [GPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: steps.append("found"))
    monkeypatch.setattr(variants, "_one_thread", load)
    assert not has_gpu(model)
    assert steps == ["found", f"loaded on {GPU}"]


@pytest.mark.parametrize(("speedup", "accepted"), [(1.0, False), (1.6, True)])
def test_sixteen_bits_have_to_be_faster_where_a_gpu_can_tell(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speedup: float, accepted: bool
):
    monkeypatch.setattr(variants, "has_gpu", lambda model: True)
    monkeypatch.setattr(variants, "measure_speedup", lambda *models: speedup)
    path = tmp_path / "model.fp16.onnx"
    made = make_variant("fp16", model, pictures(8), proof_of(model), path)
    assert (made.variant is not None, path.exists()) == (accepted, accepted)
    assert f"{speedup:.2f} times as fast on the GPU" in made.outcome


def test_a_model_that_cannot_be_converted_is_served_as_it_is(tmp_path: Path, model: Path):
    proof = proof_of(model)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    made = make_variant("int8", tmp_path / "broken.onnx", pictures(8), proof, tmp_path / "x.onnx")
    assert (made.variant, made.outcome[:17]) == (None, "int8 was refused:")


def test_a_model_is_as_fast_as_itself(model: Path):
    assert 0.2 < measure_speedup(model, model, pictures(1)) < 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_training_publishes_variants_that_a_server_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quantizing, "CLOSE", 1)  # the first attempt will do
    heard = photos.Heard()
    data = photos.folder(tmp_path / "data")
    shown: list[tuple[UInt8Array, UInt8Array]] = []

    def looked_at(
        precision: Reduced, model: Path, images: UInt8Array, proof: Proof, path: Path
    ) -> Made:
        shown.append((images, proof.pixels))
        return make_variant(precision, model, images, proof, path)

    monkeypatch.setattr(variants, "make_variant", looked_at)
    assignment = photos.assignment(
        tmp_path, data, cycles="0", augmented_epochs="0", variants="fp16,int8"
    )
    bundle, _ = train(assignment, heard.append)
    assert verify_bundle(assignment.stage) == bundle
    dataset = read_dataset(data, rule=read_settings(assignment.settings).split_rule())
    pixels = decode(dataset.items, bundle.image, tmp_path, lambda n: None).pixels
    assert len(shown) == 2
    for ranges, judged in shown:  # ranges are those of images learnt from, others judge
        np.testing.assert_array_equal(ranges, pixels[dataset.rows("train")])
        np.testing.assert_array_equal(judged, pixels[dataset.rows("valid")])
    notes = {event.text.split()[0].strip(":") for event in heard.of("note")}
    assert {"fp16", "int8"} <= notes
    assert bundle.provenance["variant_fp16"].startswith("fp16: accuracy")
    assert (
        bundle.provenance["variant_int8"] in (assignment.stage / "report/report.json").read_text()
    )
    path = assignment.stage / "model.fp16.onnx"
    session = Session(path, bundle, placement=Placement("cpu"), threads=1, precision="fp16")
    kind = Kind("cpu", "fp16", None, photos.SIZE, 2, None, None, path.stat().st_size)
    check_golden(assignment.stage, bundle, kind, session.run)
