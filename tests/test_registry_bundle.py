"""Bundles, golden answers and files: what is damaged is refused, and says why."""

import codecs
import errno
import io
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import tiny
from pydantic import ValidationError

from registry import golden
from registry.bundle import MAX_MANIFEST, Bundle, files_of, read_bundle, seal, verify_bundle
from registry.errors import BundleError
from registry.files import create_exclusively, sha256_file, write_durably
from registry.golden import read_golden, write_golden


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle, as colours/7."""
    path = tmp_path / "colours" / "7"
    tiny.stage(path)
    return path


def test_a_sealed_bundle_is_read_back_whole(folder: Path) -> None:
    bundle = verify_bundle(folder)
    assert bundle.labels == tiny.LABELS
    assert set(bundle.files) == {"model.onnx", "golden.npz"} == files_of(folder)


def flip_byte(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[100] ^= 1
    (folder / "model.onnx").write_bytes(content)


def edit(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "bundle.json").read_text())
        (folder / "bundle.json").write_text(json.dumps(content | changes))

    return edit


def hide_behind_link(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte": (flip_byte, "colours/7: model.onnx differs from bundle.json; publish again"),
    "missing file": (
        lambda folder: (folder / "golden.npz").unlink(),
        "colours/7: golden.npz is missing; publish again",
    ),
    "extra file": (
        lambda folder: (folder / "evil.so").write_bytes(b""),
        "colours/7: evil.so is not listed in bundle.json; remove it",
    ),
    "extra file below": (
        lambda folder: ((folder / "a").mkdir(), (folder / "a" / "b").write_bytes(b"")),
        "colours/7: a/b is not listed",
    ),
    "link": (hide_behind_link, "colours/7: model.onnx is not a plain file; remove it"),
    "pipe": (
        lambda folder: os.mkfifo(folder / "pipe"),
        "colours/7: pipe is not a plain file; remove it",
    ),
    "newer schema": (
        edit(schema_version=3),
        "colours/7: bundle.json has schema 3, and this program reads up to 2; upgrade unfreeze",
    ),
    "a fixed batch in an old schema": (edit(fixed_batch=4), "schema 1 has no field fixed_batch"),
    "a fixed batch of none": (edit(schema_version=2, fixed_batch=0), "fixed_batch: Input should"),
    "no manifest": (
        lambda folder: (folder / "bundle.json").unlink(),
        "colours/7: no bundle.json; this version was never published",
    ),
    "half a manifest": (
        lambda folder: (folder / "bundle.json").write_text('{"schema_version": 1,'),
        "colours/7: bundle.json cannot be read",
    ),
    "an endless manifest": (
        lambda folder: os.truncate(folder / "bundle.json", 1 << 40),
        "colours/7: bundle.json cannot be read: 1099511627776 bytes, and at most",
    ),
    "a manifest that nests deeper than Python does": (
        lambda folder: (folder / "bundle.json").write_text("[" * 100_000),
        "colours/7: bundle.json cannot be read: recursion limit exceeded",
    ),
    "a label that is not Unicode": (
        edit(labels=["\ud800", "green", "blue"]),
        "colours/7: bundle.json cannot be read: unexpected end of hex escape",
    ),
    "a manifest of another kind": (
        lambda folder: (folder / "bundle.json").write_text("[1]"),
        "colours/7: bundle.json is not valid",
    ),
    "unknown field": (edit(surprise=1), "surprise: Extra inputs are not permitted"),
    "repeated labels": (edit(labels=["a", "a", "b"]), "duplicate labels"),
    "one label": (edit(labels=["a"]), "labels"),
    "thresholds missing": (edit(task="multi"), "0 thresholds, expected 3"),
    "no model": (edit(files={"golden.npz": "0" * 64}), "no model.onnx among the files"),
    "no digest": (edit(files={"golden.npz": "x", "model.onnx": "0" * 64}), "files.golden.npz"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_bundle_is_refused_and_says_why(folder: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(BundleError) as caught:
        verify_bundle(folder)
    assert message in str(caught.value)


def test_a_manifest_cannot_point_outside_its_folder(folder: Path) -> None:
    (folder.parent / "outside").write_bytes(b"secret")
    files = dict(read_bundle(folder).files)
    files["../outside"] = sha256_file(folder.parent / "outside")
    edit(files=files)(folder)
    with pytest.raises(BundleError, match="outside is missing"):
        verify_bundle(folder)


def test_a_manifest_that_an_editor_saved_with_a_byte_order_mark_is_read(folder: Path) -> None:
    manifest = folder / "bundle.json"
    manifest.write_bytes(codecs.BOM_UTF8 + manifest.read_bytes())
    assert verify_bundle(folder).labels == tiny.LABELS


def test_a_manifest_that_no_reader_would_take_is_not_written(folder: Path) -> None:
    bundle = read_bundle(folder)
    large = bundle.model_copy(update={"labels": ("a", "b" * MAX_MANIFEST)})
    with pytest.raises(BundleError, match=r"colours/7: bundle.json would have 167\d{5} bytes"):
        seal(folder, large)
    assert read_bundle(folder) == bundle


def test_bundles_do_not_change(folder: Path) -> None:
    with pytest.raises(ValidationError):
        read_bundle(folder).labels = ("a", "b")  # type: ignore[misc]


@pytest.mark.parametrize(("fixed_batch", "schema"), [(None, 1), (4, 2)])
def test_a_manifest_states_the_lowest_schema_that_can_hold_it(
    folder: Path, fixed_batch: int | None, schema: int
) -> None:
    known = read_bundle(folder).model_dump(exclude={"schema_version"})
    seal(folder, Bundle.model_validate(known | {"fixed_batch": fixed_batch}))
    assert read_bundle(folder).fixed_batch == fixed_batch
    written = json.loads((folder / "bundle.json").read_text())
    assert written["schema_version"] == schema
    # a program of schema 1 forbids fields that it does not know
    assert ("fixed_batch" in written) == (schema == 2)


def test_the_graph_states_what_the_manifest_states(folder: Path) -> None:
    bundle = read_bundle(folder)
    metadata = bundle.onnx_metadata()
    assert json.loads(metadata["unfreeze.labels"]) == list(tiny.LABELS)
    other = Bundle.model_validate(bundle.model_dump() | {"labels": ("a", "b", "c")})
    assert other.onnx_metadata() != metadata


# Golden answers


def test_golden_answers_are_read_back(tmp_path: Path) -> None:
    images = [b"one", b"", b"three" * 1000]
    answers = np.random.default_rng(0).random((3, 4), dtype=np.float32)
    write_golden(tmp_path / "golden.npz", images, answers)
    golden = read_golden(tmp_path / "golden.npz")
    assert golden.images == tuple(images)
    np.testing.assert_array_equal(golden.probabilities, answers)


def test_golden_answers_of_models_that_are_loaded_side_by_side_are_parsed_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one in a thousand fails in Python 3.11: "AST constructor recursion depth mismatch"."""
    under_way: list[int] = []
    load = np.load

    def watched(content: io.BytesIO, *, allow_pickle: bool) -> object:
        under_way.append(1)
        time.sleep(0.01)
        assert len(under_way) == 1
        under_way.pop()
        return load(content, allow_pickle=allow_pickle)

    write_golden(tmp_path / "golden.npz", [b"one"], np.eye(1, 4, dtype=np.float32))
    monkeypatch.setattr(np, "load", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_golden, [tmp_path / "golden.npz"] * 8))


def test_golden_answers_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "golden.npz"
    evil = np.array([Evil()], dtype=object)
    np.savez(path, images=evil, offsets=evil, probabilities=evil)
    with pytest.raises(BundleError, match="golden answers cannot be read"):
        read_golden(path)
    assert not (tmp_path / "ran").exists()


NPY = io.BytesIO()
np.save(NPY, np.zeros(3))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nonsense", b"text", NPY.getvalue()])
def test_damaged_golden_answers_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "golden.npz").write_bytes(content)
    with pytest.raises(BundleError, match="golden answers cannot be read"):
        read_golden(tmp_path / "golden.npz")


def test_golden_answers_are_not_unpacked_beyond_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "MAX_BYTES", 50_000)
    path, answers = tmp_path / "golden.npz", np.zeros((1, 3), np.float32)
    for n_bytes, larger in ((40_000, False), (60_000, True)):
        images, offsets = np.zeros(n_bytes, np.uint8), np.array([0, n_bytes])
        np.savez_compressed(path, images=images, offsets=offsets, probabilities=answers)
        with pytest.raises(BundleError, match="unpacks to more than") if larger else nullcontext():
            assert len(read_golden(path).images[0]) == n_bytes


def test_as_many_answers_as_images(tmp_path: Path) -> None:
    write_golden(tmp_path / "golden.npz", [b"one"], np.zeros((2, 3), np.float32))
    with pytest.raises(BundleError, match="1 image for 2 answers"):
        read_golden(tmp_path / "golden.npz")


# Files


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_only_the_first_creates_a_file(tmp_path: Path, monkeypatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    create_exclusively(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        create_exclusively(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_that_is_asked_for_twice_is_made(tmp_path: Path, monkeypatch) -> None:
    """NFS does it when the first answer is lost, and then says that the file was there."""
    link = os.link

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    create_exclusively(tmp_path / "file", b"first")
    assert (tmp_path / "file").read_bytes() == b"first"
    with pytest.raises(FileExistsError):
        create_exclusively(tmp_path / "file", b"second")
    assert os.listdir(tmp_path) == ["file"]


def no_links(source: Path, target: Path) -> None:
    raise OSError(errno.EPERM, "no links on this file system")


def test_a_variant_needs_its_file_and_a_schema_that_knows_it(folder: Path) -> None:
    tiny.add_variant(folder, "int8", bias=tiny.NO_BIAS, tolerance=0.1)
    bundle = verify_bundle(folder)
    assert (bundle.schema_version, set(bundle.variants)) == (2, {"int8"})
    content = bundle.model_dump(exclude={"schema_version"})
    del content["files"]["model.int8.onnx"]
    with pytest.raises(ValidationError, match=r"no model\.int8\.onnx among the files"):
        Bundle.model_validate(content)
    with pytest.raises(ValidationError, match="schema 1 has no field variants"):
        Bundle.model_validate(bundle.model_dump() | {"schema_version": 1})
