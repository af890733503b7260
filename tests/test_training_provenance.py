"""What a bundle says of where it comes from."""

import hashlib
import re
import subprocess
from pathlib import Path

import photos
import pytest
import torch

from training.recipe import train
from training.run.provenance import commit_of, hardware, installed, locked, seconds_each, versions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_a_bundle_and_its_report_say_where_they_come_from(tmp_path: Path):
    assignment = photos.assignment(
        tmp_path, photos.folder(tmp_path / "data"), cycles="0", augmented_epochs="0", seed="7"
    )
    bundle, _ = train(assignment, lambda event: None)
    facts = bundle.provenance
    assert facts["seed"] == "7"
    assert '"seed":7' in facts["settings"]
    assert f"torch {torch.__version__.split('+')[0]}" in facts["versions"]
    assert re.fullmatch(r"[0-9a-f]{64}", facts["data_sha256"])
    assert f"{torch.get_num_threads()} intra-op" in facts["threads"]
    assert re.search(r"\d of \d+ cores, [\d.]+ GiB", facts["hardware"])
    assert re.search(
        r"decode the images [\d.]+ s, .*export and verify [\d.]+ s", facts["durations"]
    )
    page = (assignment.stage / "report" / "index.html").read_text()
    told = ("seed", "code", "lock", "packages", "command", "determinism", "platform", "device")
    assert [name for name in told if not facts[name] or f">{name}</th>" not in page] == []


def test_versions_are_those_that_are_imported():
    assert re.match(r"python 3\.\d+\.\d+, ", versions())
    for name in ("torch", "torchvision", "timm", "numpy", "pillow", "onnx", "onnxruntime"):
        assert f" {name} " in versions()


def test_the_longest_lock_that_is_fulfilled_is_named(tmp_path: Path):
    packages = {"torch": "2.0", "typing-extensions": "4.1", "numpy": "2.1"}
    (tmp_path / "base.txt").write_text("numpy==2.1 \\\n    --hash=sha256:00\n")
    fulfilled = "torch==2.0\nTyping_Extensions==4.1 ; python_version < '4'\n    # via torch\n"
    (tmp_path / "train.txt").write_text(fulfilled)
    (tmp_path / "gpu.txt").write_text(fulfilled + "numpy==2.2\n")
    digest = hashlib.sha256(fulfilled.encode()).hexdigest()
    assert locked(packages, tmp_path) == f"train.txt, sha256 {digest}"
    assert locked({}, tmp_path) == "none that matches"


def test_installed_packages_have_normal_names():
    assert installed()["typing-extensions"]


def test_the_commit_is_named_and_whether_files_have_changed_since(tmp_path: Path):
    file = tmp_path / "recipe.py"
    file.write_text("one")
    assert commit_of(file) == "not committed"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert commit_of(file) == "not committed"
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    clean = commit_of(file)
    file.write_text("two")
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    assert commit_of(file) == f"{clean}-dirty"


def test_the_hardware_names_a_processor():
    assert re.match(r".+, \d+ of \d+ cores, ", hardware(torch.device("cpu")))


def test_durations_are_reported_stage_by_stage():
    assert (
        seconds_each({"decode the images": 1.23, "head": 0.0})
        == "decode the images 1.2 s, head 0.0 s"
    )
