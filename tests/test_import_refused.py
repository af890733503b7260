"""Foreign classifiers that cannot become bundles: each is refused, and told why."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import foreign_graphs as foreign
import numpy as np
import onnx
import pytest
from conftest import ImportOnnx
from foreign_graphs import LOGITS

from registry.store import Registry

# The graph, the flags, and what is said of it.
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "several outputs": (
        {"gives": "float[n,3,1,1] m, float[n,3] y"},
        LOGITS,
        "has 2 outputs; choose one with --output: m (float [n,3,1,1]), y (float [n,3])",
    ),
    "an output that is not there": (
        {},
        (*LOGITS, "--output", "z"),
        "has no output 'z'; it has y (float [n,3])",
    ),
    "several inputs": (
        {
            "takes": f"{foreign.TAKES}, float[n,3,8,8] x2",
            "body": "z = Add(x, x2) m = GlobalAveragePool(z) y = Flatten(m)",
        },
        LOGITS,
        "takes 2 inputs: x (float [n,3,8,8]), x2 (float [n,3,8,8])",
    ),
    "numbers of labels": (
        {
            "gives": "int64[n,1,1] y",
            "body": "m = GlobalAveragePool(x) y = ArgMax<axis=1, keepdims=0>(m)",
        },
        LOGITS,
        "output y (int64 [n,1,1]) does not hold scores",
    ),
    "integers in": (
        {
            "takes": "int32[n,3,8,8] x",
            "body": "f = Cast<to=1>(x) m = GlobalAveragePool(f) y = Flatten(m)",
        },
        LOGITS,
        "input x (int32 [n,3,8,8]) is not of a type that pixels can become",
    ),
    "no image": (
        {"takes": "float[n,192] x", "body": "y = Identity(x)"},
        LOGITS,
        "does not take images: it must have four dimensions",
    ),
    "grey": (
        {"takes": "float[n,1,8,8] x", "gives": "float[n,1] y"},
        LOGITS,
        "does not have three channels; images are RGB",
    ),
    "the other layout": (
        {},
        (*LOGITS, "--layout", "nhwc"),
        "not have three channels in the layout nhwc",
    ),
    "no layout": (
        {"takes": "float[n,?,8,8] x"},
        LOGITS,
        "does not tell where the channels are; say --layout nchw or nhwc",
    ),
    "no size": ({"takes": "float[n,3,?,?] x"}, LOGITS, "leaves the size open; say --size"),
    "another size": ({}, (*LOGITS, "--size", "9"), "takes 8 pixels a side, not the 9 of --size"),
    "not square": ({"takes": "float[n,3,8,6] x"}, LOGITS, "is not square"),
    "too large": (
        {"takes": "float[n,3,?,?] x"},
        (*LOGITS, "--size", "5000"),
        "size: Input should be less than or equal to 4096 (given: 5000)",
    ),
    "opset 6": ({"opset": 6}, LOGITS, "opset 6 is older than 7"),
    "a newer IR": ({"ir": 99}, LOGITS, "cannot run it: "),
    "operators of its own": (
        {"body": "y = acme.Magic(x)", "domains": ', "acme" : 1'},
        LOGITS,
        "uses operators of its own, which no server has: acme (Magic)",
    ),
    "operators of its own in a branch": (
        {
            "body": "yes = Constant<value = bool {1}>() y = If(yes) <"
            "then_branch = a () => (float[n,3] b) { b = acme.Magic(x) },"
            "else_branch = c () => (float[n,3] d) { d = acme.Magic(x) } >",
            "domains": ', "acme" : 1',
        },
        LOGITS,
        "which no server has: acme (Magic)",
    ),
    "a map instead of scores": (
        {"gives": "float[n,3,8,8] y", "body": "y = Relu(x)"},
        LOGITS,
        "has shape [1, 3, 8, 8] for 1 image, not [1,classes]; choose another with --output",
    ),
    "another number of classes": (
        {
            "gives": "float[n,6] y",
            "body": f"{foreign.POOLED} y = Concat<axis=1>(f, f)",
        },
        LOGITS,
        "gives 6 numbers for an image, and there are 3 labels",
    ),
    "a class for the background": (
        {
            "gives": "float[n,4] y",
            "body": "m = ReduceMean<axes=[2,3], keepdims=0>(x) z = ReduceMean<axes=[1]>(m)"
            " y = Concat<axis=1>(z, m)",
        },
        LOGITS,
        "there are 3 labels (some models begin with a class for the background",
    ),
    "one number": (
        {"gives": "float[n,1] y", "body": "m = ReduceMean<axes=[1,2,3]>(x) y = Flatten(m)"},
        LOGITS,
        "gives one number for an image; a bundle has at least two classes",
    ),
    "neither logits nor probabilities": (
        {},
        foreign.FLAGS,
        "say --logits or --probabilities, what the model gives; on 8 images its outputs lie",
    ),
    "logits for probabilities": (
        {},
        ("--probabilities", *foreign.FLAGS),
        "these are no probabilities: on 8 images its outputs lie between",
    ),
    "logits for probabilities of several labels": (
        {},
        ("--probabilities", "--multi", *foreign.FLAGS),
        "these are no probabilities: on 8 images its outputs lie between",
    ),
    "probabilities for logits": (
        {"body": f"{foreign.POOLED} y = Softmax<axis=1>(f)"},
        LOGITS,
        "these are probabilities already: ",
    ),
    "not finite": (
        {"body": "m = GlobalAveragePool(x) z = Sub(m, m) d = Div(z, z) y = Flatten(d)"},
        LOGITS,
        "gives numbers that are not finite",
    ),
    "an answer that hangs on its neighbours": (
        {"body": f"{foreign.POOLED} a = ReduceMean<axes=[0]>(f) y = Sub(f, a)"},
        LOGITS,
        "answers an image otherwise among 2 than alone",
    ),
    "an answer that hangs on those it is filled up with": (
        {
            "takes": "float[2,3,8,8] x",
            "gives": "float[2,3] y",
            "body": f"{foreign.POOLED} a = ReduceMean<axes=[0]>(f) y = Sub(f, a)",
        },
        LOGITS,
        "answers an image otherwise among 2 than alone",
    ),
    "chance": (
        {"body": f"{foreign.POOLED} r = RandomNormalLike(f) y = Add(f, r)"},
        LOGITS,
        "does not repeat its answers",
    ),
    "no mean": (
        {},
        ("--logits", "--std", "1"),
        "say --mean and --std, those the model was trained",
    ),
    "two means": ({}, ("--logits", "--mean", "0,1", "--std", "1"), "--mean 0,1: needs one number"),
    "words": ({}, ("--logits", "--mean", "half", "--std", "1"), "--mean half: write it as 0.5"),
    "no deviation": ({}, ("--logits", "--mean", "0", "--std", "0"), "--std 0: must be above 0"),
    "means from 0 to 255": (
        {},
        ("--logits", "--mean", "123.7,116.3,103.5", "--std", "58.4,57.1,57.4"),
        "are for pixels from 0 to 255, and --scale 255 makes them 0 to 1 first; say --scale 1",
    ),
    "means from 0 to 1": (
        {},
        ("--logits", "--scale", "1", "--mean", "0.5", "--std", "0.5"),
        "are for pixels from 0 to 1, and --scale 1 leaves them 0 to 255; say --scale 255",
    ),
    "a mean for bytes": (
        {
            "takes": "uint8[n,3,8,8] x",
            "body": "f = Cast<to=1>(x) m = GlobalAveragePool(f) y = Flatten(m)",
        },
        LOGITS,
        "takes bytes and scales them itself; leave out --mean and --std",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_models_are_refused_and_say_why(
    tmp_path: Path, root: Path, import_onnx: ImportOnnx, name: str
):
    graph, flags, message = REFUSED[name]
    code, _, err = import_onnx(foreign.write(tmp_path / "net.onnx", **graph), *flags)
    assert err.startswith("unfreeze import: ")
    assert message in err
    assert (code, Registry(root).versions("net")) == (2, [])


def test_a_registry_that_cannot_be_written_is_named(tmp_path: Path, import_onnx: ImportOnnx):
    file = foreign.write(tmp_path / "net.onnx")
    code, _, err = import_onnx(file, *LOGITS, "--registry", file)
    assert code == 1
    assert f"Not a directory: '{file}" in err


LABEL_FILES = {
    "blank": (b"red\n\nblue\n", "line 2 is blank"),
    "twice": (b"red\nblue\nred\n", "'red' is on lines 1 and 3; make the two differ"),
    "one": (b"red\n", "needs at least two labels"),
    "none": (b"", "line 1 is blank"),
    "latin": (b"r\xf6t\nblue\n", "not UTF-8 at byte 1"),
    "few": (b"red\nblue\n", "gives 3 numbers for an image, and there are 2 labels"),
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_bad_labels_are_refused_and_say_why(tmp_path: Path, import_onnx: ImportOnnx, name: str):
    content, message = LABEL_FILES[name]
    (tmp_path / "bad.txt").write_bytes(content)
    path = foreign.write(tmp_path / "net.onnx")
    code, _, err = import_onnx(path, *LOGITS, labels=tmp_path / "bad.txt")
    assert code == 2
    assert message in err


def test_labels_may_come_from_windows(tmp_path: Path, root: Path, import_onnx: ImportOnnx):
    labels = tmp_path / "bom.txt"
    labels.write_bytes("\ufeffred\r\ngrün \r\nblue\r\n\r\n".encode())
    code, *_ = import_onnx(foreign.write(tmp_path / "net.onnx"), *LOGITS, labels=labels)
    assert code == 0
    assert Registry(root).bundle("net", 1).labels == ("red", "grün", "blue")


def keep_apart(path: Path, location: str) -> Path:
    """A model whose answers are tripled by weights in another file, three numbers of four bytes."""
    body = f"{foreign.POOLED} y = Mul(f, w)"
    proto = foreign.model(body, weights="float[3] w = {1.0, 1.0, 1.0}")
    threes = onnx.numpy_helper.from_array(np.full(3, 3, np.float32), "w")
    proto.graph.initializer[0].CopyFrom(threes)  # as bytes, which alone can be kept elsewhere
    onnx.save(proto, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def move_weights(path: Path, **entries: str) -> None:
    """The model in `path` says something else of where its weights are."""
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    known = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in known.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


def test_weights_in_a_folder_are_refused_and_merged_as_it_says(
    tmp_path: Path, import_onnx: ImportOnnx
):
    (tmp_path / "apart").mkdir()
    path = keep_apart(tmp_path / "my 'net'.onnx", "apart/net.data")
    code, _, err = import_onnx(path, *LOGITS)
    assert code == 2
    assert "keeps its weights in 'apart/net.data', which is not the name of a file beside it" in err
    _, *command = shlex.split(err.partition("merge them: ")[2])
    subprocess.run([sys.executable, *command], check=True)
    assert import_onnx(tmp_path / "my 'net'-merged.onnx", *LOGITS)[0] == 0


NO_PLAIN_NAME = "which is not the name of a file beside it"
HOSTILE = {
    "up": ({"location": "../net.data"}, NO_PLAIN_NAME),
    "absolute": ({"location": "/etc/passwd"}, NO_PLAIN_NAME),
    "the folder": ({"location": "."}, NO_PLAIN_NAME),
    "backslash": ({"location": "..\\net.data"}, NO_PLAIN_NAME),
    "nul": ({"location": "net\0.data"}, NO_PLAIN_NAME),
    "empty": ({"location": ""}, NO_PLAIN_NAME),
    "link": ({"location": "link"}, "which cannot be read (a link)"),
    "pipe": ({"location": "pipe"}, "which is not a plain file"),
    "subfolder": ({"location": "folder"}, "which is not a plain file"),
    "missing": ({"location": "lost.data"}, "which cannot be read (No such file or directory)"),
    "too long": ({"length": "13"}, "does not lie within net.data, which has 12 bytes"),
    "too far": ({"offset": "4"}, "does not lie within net.data, which has 12 bytes"),
    "before": ({"offset": "-4"}, "does not lie within net.data, which has 12 bytes"),
    "less than nothing": ({"length": "-1"}, "does not lie within net.data, which has 12 bytes"),
    "no number": ({"offset": "all"}, "does not lie within net.data, which has 12 bytes"),
    "too few bytes": ({"length": "8"}, "cannot run it: "),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_weights_are_read_from_a_plain_file_beside_the_model_alone(
    tmp_path: Path, root: Path, import_onnx: ImportOnnx, what: str
):
    told, message = HOSTILE[what]
    folder = tmp_path / "models"
    folder.mkdir()
    path = keep_apart(folder / "net.onnx", "net.data")
    (tmp_path / "net.data").write_bytes((folder / "net.data").read_bytes())
    (folder / "link").symlink_to("net.data")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    move_weights(path, **told)
    code, _, err = import_onnx(path, *LOGITS)
    assert message in err
    assert (code, Registry(root).versions("net")) == (2, [])


def test_weights_beyond_protobuf_are_refused_unread(tmp_path: Path, import_onnx: ImportOnnx):
    path = keep_apart(tmp_path / "net.onnx", "net.data")
    os.truncate(tmp_path / "net.data", 2**31)  # takes no disk space
    move_weights(path, length=str(2**31))
    code, _, err = import_onnx(path, *LOGITS)
    assert code == 2
    assert "2.0 GiB with its weights, and an ONNX file ends at 2 GiB" in err


def test_weights_of_a_branch_in_a_function_are_found_in_another_file_too(
    tmp_path: Path, import_onnx: ImportOnnx
):
    proto = foreign.model(
        f"{foreign.POOLED} y = own.Choose(f)",
        domains=', "own" : 1',
        functions='<domain: "own", opset_import: ["" : 13]> Choose (a) => (b) {'
        " yes = Constant<value = bool {1}>() b = If(yes) <"
        "then_branch = t () => (float[n,3] c) { c = Mul(a, w) },"
        "else_branch = e () => (float[n,3] d) { d = Identity(a) } > }",
    )
    (branch,) = [
        attribute.g
        for node in proto.functions[0].node
        for attribute in node.attribute
        if attribute.name == "then_branch"
    ]
    weight = branch.initializer.add(name="w", dims=[3], data_type=onnx.TensorProto.FLOAT)
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../net.data")
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    assert NO_PLAIN_NAME in import_onnx(tmp_path / "net.onnx", *LOGITS)[2]


def test_a_file_beyond_protobuf_is_refused_unread(tmp_path: Path, import_onnx: ImportOnnx):
    path = tmp_path / "net.onnx"
    path.touch()
    os.truncate(path, 2**31)  # takes no disk space
    code, _, err = import_onnx(path, *LOGITS)
    assert code == 2
    assert "2.0 GiB, and an ONNX file ends at 2 GiB" in err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a checkpoint of torch", b"\x00" * 64])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, import_onnx: ImportOnnx, content: bytes):
    (tmp_path / "net.onnx").write_bytes(content)
    code, _, err = import_onnx(tmp_path / "net.onnx", *LOGITS)
    assert code == 2
    assert "not an ONNX model" in err


def test_damaged_files_are_refused_or_work(tmp_path: Path, import_onnx: ImportOnnx):
    whole = foreign.model().SerializeToString()
    draw = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[draw.integers(len(whole))] = draw.integers(256)
        (tmp_path / "net.onnx").write_bytes(damaged)
        code, _, err = import_onnx(tmp_path / "net.onnx", *LOGITS)
        assert code == 0 or (code == 2 and err.startswith("unfreeze import: "))


def test_a_type_that_does_not_exist_is_named(tmp_path: Path, import_onnx: ImportOnnx):
    proto = foreign.model()
    proto.graph.input[0].type.tensor_type.elem_type = 126
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    assert (
        "input x (type 126 [n,3,8,8]) is not of a type"
        in import_onnx(tmp_path / "net.onnx", *LOGITS)[2]
    )


def test_files_that_are_not_there_are_named(tmp_path: Path, import_onnx: ImportOnnx):
    path, nowhere = foreign.write(tmp_path / "net.onnx"), tmp_path / "nowhere"
    missing = f"{nowhere}: cannot be read: No such file"
    assert missing in import_onnx(nowhere, *LOGITS)[2]
    assert missing in import_onnx(path, *LOGITS, labels=nowhere)[2]
    assert (
        f"{nowhere}: cannot be a golden image: "
        in import_onnx(path, *LOGITS, "--golden", nowhere)[2]
    )
    assert (
        f"{path}: cannot be a golden image: not" in import_onnx(path, *LOGITS, "--golden", path)[2]
    )
