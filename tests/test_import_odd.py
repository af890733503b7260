"""Foreign classifiers as exporters really write them, and what is published of them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign_graphs as foreign
import numpy as np
import onnx
import pytest
import tiny
from conftest import ImportOnnx, RunningServer, settings
from foreign_graphs import LOGITS

from registry.files import sha256_file
from registry.golden import read_golden
from registry.images import prepare
from registry.store import Registry
from training.export.runtime import answering
from unfreeze.cli import main

PICTURES = [tiny.picture("red"), tiny.noise(3), tiny.picture("blue", format="PNG")]
LABELS = "\n".join(tiny.LABELS)
# What is odd and works: the graph, the flags, and the answer where it is another one

ODD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "opset 7 and an old IR": ({"opset": 7, "ir": 3}, LOGITS),
    "weights among the inputs": (
        {
            "ir": 3,
            "takes": f"{foreign.TAKES}, float[1] w",
            "weights": "float[1] w = {1.0}",
            "body": f"{foreign.POOLED} y = Mul(f, w)",
        },
        LOGITS,
    ),
    "opset 21": ({"opset": 21, "ir": 10}, LOGITS),
    "channels last": (
        {
            "takes": "float[n,8,8,3] x",
            "body": "y = ReduceMean<axes=[1,2], keepdims=0>(x)",
        },
        LOGITS,
    ),
    "nothing stated": (
        {"takes": "float[?,?,?,?] x", "gives": "float[?,?] y"},
        (*LOGITS, "--layout", "nchw", "--size", "8"),
    ),
    "half precision": ({"takes": "float16[n,3,8,8] x", "gives": "float16[n,3] y"}, LOGITS),
    "double precision": (
        {
            "takes": "double[n,3,8,8] x",
            "gives": "double[n,3] y",
            "body": "y = ReduceMean<axes=[2,3], keepdims=0>(x)",
        },
        LOGITS,
    ),
    "bytes": (
        {
            "takes": "uint8[n,8,8,3] x",
            "body": "f = Cast<to=1>(x) m = ReduceMean<axes=[1,2], keepdims=0>(f)"
            " k = Constant<value_float=0.015686275>() y = Mul(m, k)",
        },
        ("--logits",),
    ),
    "scores in a picture of one pixel": (
        {"gives": "float[n,3,1,1] y", "body": "y = GlobalAveragePool(x)"},
        LOGITS,
    ),
    "our own names": (
        {
            "takes": "float[n,3,8,8] image",
            "gives": "float[n,3] probabilities",
            "body": "means = GlobalAveragePool(image) probabilities = Flatten(means)",
        },
        LOGITS,
    ),
    "our own names in a branch": (
        {
            "takes": "float[n,3,8,8] image",
            "body": "yes = Constant<value = bool {1}>() means = If(yes) <"
            "then_branch = a () => (float[n,3,1,1] probabilities)"
            " { probabilities = GlobalAveragePool(image) },"
            "else_branch = b () => (float[n,3,1,1] c) { c = GlobalMaxPool(image) } >"
            " y = Flatten(means)",
        },
        LOGITS,
    ),
    "softmax inside": (
        {"body": f"{foreign.BODY.replace('y =', 'z =')} y = Softmax<axis=1>(z)"},
        ("--probabilities", *foreign.FLAGS),
    ),
    "a function of its own": (
        {
            "body": "m = own.pool(x) y = Flatten(m)",
            "domains": ', "own" : 1',
            "functions": '<opset_import: ["" : 13], domain: "own">'
            " pool (a) => (b) { b = GlobalAveragePool(a) }",
        },
        LOGITS,
    ),
    "two outputs": (
        {"gives": "float[n,3,1,1] m, float[n,3] y"},
        (*LOGITS, "--output", "y"),
    ),
    "blue first": (
        {
            "body": "m = GlobalAveragePool(x) f = Flatten(m)"
            " order = Constant<value_ints=[2,1,0]>() y = Gather<axis=1>(f, order)"
        },
        (*LOGITS, "--bgr"),
    ),
    "means from 0 to 255": ({}, ("--logits", "--scale", "1", "--mean", "0", "--std", "63.75")),
    "four at a time": ({"takes": "float[4,3,8,8] x", "gives": "float[4,3] y"}, LOGITS),
    "one at a time, though it says otherwise": (
        {"body": "m = GlobalAveragePool(x) one = Constant<value_ints=[1,3]>() y = Reshape(m, one)"},
        LOGITS,
    ),
}
FIXED = {"four at a time": 4, "one at a time, though it says otherwise": 1}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with all of `ODD`, by the name of their number."""
    root = tmp_path_factory.mktemp("zoo")
    (root / "labels.txt").write_text(LABELS)
    known = ("--labels", f"{root}/labels.txt", "--registry", f"{root}/models")
    for number, (graph, flags) in enumerate(ODD.values()):
        path = foreign.write(root / f"{number}.onnx", **graph)
        assert main(["import", str(path), "--name", str(number), *known, *flags]) == 0
    server = RunningServer(settings(root / "models"))
    yield server
    server.stop()


@pytest.mark.parametrize("name", ODD)
def test_odd_models_are_served(zoo: RunningServer, name: str):
    model = str(list(ODD).index(name))
    results = zoo.classify(*PICTURES, model=model, top_k=3).results
    labels = [sorted(each.prediction.labels, key=lambda one: one.index) for each in results]
    answers = [[one.probability for one in each] for each in labels]
    bundle = zoo.registry.bundle(model, 1)
    expected = tiny.answer(np.stack([prepare(one, bundle.image) for one in PICTURES]))
    np.testing.assert_allclose(answers, expected, atol=5e-3 if "half" in name else 1e-5)
    assert bundle.fixed_batch == FIXED.get(name)


def test_a_graph_as_it_is_is_otherwise_the_original(
    tmp_path: Path, root: Path, import_onnx: ImportOnnx
):
    path = foreign.write(tmp_path / "net.onnx", gives="float[n,3,1,1] m, float[n,3] y")
    assert import_onnx(path, *LOGITS, "--output", "y", "--as-is")[0] == 0
    original, wrapped = onnx.load(path), onnx.load(root / "net" / "1" / "model.onnx")
    kept = [node for node in wrapped.graph.node if not node.name.startswith("unfreeze/")]
    assert kept == list(original.graph.node)
    assert wrapped.opset_import == original.opset_import
    onnx.checker.check_model(wrapped, full_check=True)


# What is published


def test_the_first_version_is_promoted_and_later_ones_when_asked(
    tmp_path: Path, root: Path, import_onnx: ImportOnnx
):
    path = foreign.write(tmp_path / "net.onnx")
    flags: list[tuple[str, ...]] = [(), (), ("--promote",)]
    documents = [json.loads(import_onnx(path, *LOGITS, "--json", *more)[1]) for more in flags]
    assert [(one["version"], one["promoted"]) for one in documents] == [
        (1, True),
        (2, False),
        (3, True),
    ]
    promoted = Registry(root).promoted("net")
    assert promoted is not None
    assert (promoted.pointer.version, promoted.pointer.by) == (3, "import")


def test_it_says_how_the_labels_of_a_promoted_version_differ(
    tmp_path: Path, root: Path, import_onnx: ImportOnnx
):
    path, labels = foreign.write(tmp_path / "net.onnx"), tmp_path / "labels.txt"
    labels.write_text("\n".join(["violet", *tiny.LABELS[1:]]))
    assert import_onnx(path, *LOGITS)[0] == 0
    code, _, err = import_onnx(path, *LOGITS, "--promote", labels=labels)
    assert code == 0
    differ = f"(new 'violet'; gone {tiny.LABELS[0]!r})"
    assert f"note: its labels differ from those of version 1 {differ}; whoever reads" in err


def test_it_says_what_was_published_and_how_to_serve_it(
    tmp_path: Path, root: Path, import_onnx: ImportOnnx
):
    code, out, err = import_onnx(foreign.write(tmp_path / "net.onnx"), *LOGITS)
    assert (code, err) == (0, "")
    assert out.startswith("net version 1: 3 labels, 8 pixels; differs from the original by ")
    assert f"serve it:  unfreeze serve --registry {root}\n" in out
    assert out.endswith("ask it:    unfreeze predict PHOTO.JPG --model net\n")


def test_a_version_that_is_not_live_is_promoted_and_asked_by_its_number(
    tmp_path: Path, import_onnx: ImportOnnx
):
    path = foreign.write(tmp_path / "net.onnx")
    registry = tmp_path / "my models"
    _, out, _ = [import_onnx(path, *LOGITS, "--registry", registry) for _ in range(2)][1]
    assert "\npublished, not promoted: unfreeze promote net 2 makes it live\n" in out
    assert f"serve it:  unfreeze serve --registry '{registry}'\n" in out
    assert out.endswith("ask it:    unfreeze predict PHOTO.JPG --model net --model-version 2\n")


def test_the_manifest_says_where_the_model_comes_from(
    tmp_path: Path, root: Path, import_onnx: ImportOnnx
):
    path = foreign.write(tmp_path / "net.onnx")
    import_onnx(path, *LOGITS, "--crop", "squash", "--crop-fraction", "0.875")
    bundle = Registry(root).bundle("net", 1)
    facts = bundle.provenance
    assert (facts["source"], facts["source_sha256"]) == ("net.onnx", sha256_file(path))
    assert (facts["opset"], facts["ir_version"]) == ("ai.onnx 13", "8")
    assert "--crop squash --crop-fraction 0.875" in facts["flags"]
    assert (bundle.image.crop, bundle.image.crop_fraction) == ("squash", 0.875)


def test_networks_that_differ_in_their_weights_alone_are_of_one_kind(
    tmp_path: Path, root: Path, import_onnx: ImportOnnx
):
    backbones = []
    for version, (weight, op) in enumerate([("1.0", "Mul"), ("1.5", "Mul"), ("1.0", "Add")], 1):
        body = f"{foreign.POOLED} y = {op}(f, w)"
        path = foreign.write(tmp_path / "net.onnx", body, weights=f"float[1] w = {{{weight}}}")
        assert import_onnx(path, *LOGITS)[0] == 0
        backbones.append(Registry(root).bundle("net", version).provenance["backbone"])
    assert backbones[0] == backbones[1] != backbones[2]


def test_golden_images_of_ones_own_travel_with_the_model(
    tmp_path: Path, root: Path, import_onnx: ImportOnnx
):
    (tmp_path / "red.jpg").write_bytes(PICTURES[0])
    path = foreign.write(tmp_path / "net.onnx")
    assert import_onnx(path, *LOGITS, "--golden", str(tmp_path / "red.jpg"))[0] == 0
    golden = read_golden(root / "net" / "1" / "golden.npz")
    assert golden.images == (PICTURES[0],)
    assert golden.probabilities.argmax() == 0


def test_several_labels_can_be_right(tmp_path: Path, root: Path, import_onnx: ImportOnnx):
    assert import_onnx(foreign.write(tmp_path / "net.onnx"), *LOGITS, "--multi")[0] == 0
    bundle = Registry(root).bundle("net", 1)
    assert (bundle.task, bundle.thresholds) == ("multi", (0.5, 0.5, 0.5))
    pixels = np.stack([prepare(one, bundle.image) for one in PICTURES])
    answers = answering(root / "net" / "1" / "model.onnx")(pixels)
    np.testing.assert_allclose(answers, tiny.answer(pixels, task="multi"), atol=1e-5)


def test_a_fixed_batch_is_split_and_filled_up(tmp_path: Path, root: Path, import_onnx: ImportOnnx):
    path = foreign.write(tmp_path / "net.onnx", takes="float[4,3,8,8] x", gives="float[4,3] y")
    import_onnx(path, *LOGITS)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    answer = answering(root / "net" / "1" / "model.onnx")
    for n in (1, 4, 9):
        np.testing.assert_allclose(answer(pixels[:n]), tiny.answer(pixels[:n]), atol=1e-5)


@pytest.mark.parametrize(
    ("body", "flags", "remark"),
    [
        (ODD["one at a time, though it says otherwise"][0]["body"], LOGITS, "takes one image at"),
        (f"{foreign.POOLED} y = Sub(f, f)", LOGITS, "every image got the"),
        (
            f"{foreign.POOLED} y = Sigmoid(f)",
            (*LOGITS, "--multi"),
            "if these",
        ),
    ],
)
def test_what_is_strange_is_remarked(
    tmp_path: Path, import_onnx: ImportOnnx, body: str, flags: tuple[str, ...], remark: str
):
    code, _, err = import_onnx(foreign.write(tmp_path / "net.onnx", body), *flags)
    assert code == 0
    assert err.startswith("note: ")
    assert remark in err


def test_its_help_shows_examples(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    assert "examples:\n" in capsys.readouterr().out


def test_importing_leaves_torch_alone():
    code = (
        "import sys, training.foreign.__main__, training.foreign.adopt, training.foreign.flags;"
        "import training.foreign.labels, training.export.publishing;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'timm')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
