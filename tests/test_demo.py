"""The parts of `unfreeze demo`; the whole of it is `make demo`."""

import subprocess
import sys
from pathlib import Path

import photos
import pytest
import tiny
from conftest import RunningServer, Start, wait_until

import unfreeze
from training.__main__ import main as train
from unfreeze.demo.comparison import ask_and_compare
from unfreeze.demo.errors import DemoError
from unfreeze.demo.photographs import Photographs, lay_out
from unfreeze.demo.server import serving
from unfreeze.demo.traffic import SteadyCaller


def test_a_quarter_of_the_photographs_is_held_out_of_both_trainings(tmp_path: Path):
    laid = lay_out(tmp_path)
    files = {
        (root.name, part): {path.name for path in (root / part).rglob("*.png")}
        for root in (laid.first, laid.all)
        for part in ("train", "valid")
    }
    assert {name: len(found) for name, found in files.items()} == {
        ("first", "train"): 984,
        ("first", "valid"): 656,
        ("all", "train"): 1968,
        ("all", "valid"): 656,
    }
    assert files["first", "train"] < files["all", "train"]
    assert files["all", "valid"] == {path.name for path in laid.held_out}
    assert not files["all", "valid"] & files["all", "train"]
    assert list(laid.truth.values()).count("defective") == 205


def test_the_caller_sees_a_swap_and_counts_every_answer(server: RunningServer, tmp_path: Path):
    image = tmp_path / "red.jpg"
    image.write_bytes(tiny.picture("red"))
    second = tiny.publish(server.settings.registry, bias=(0.0, 0.0, 5.0))
    with SteadyCaller(server.address, tiny.MODEL_NAME, [image]) as caller:
        caller.wait_for_version(1)
        server.registry.promote(tiny.MODEL_NAME, second, by="test", reason="test")
        caller.wait_for_version(2)
    assert (caller.versions, caller.failures) == ({1, 2}, [])
    assert caller.served >= 2


def test_the_caller_hides_no_failure(server: RunningServer, tmp_path: Path):
    image = tmp_path / "text.jpg"
    image.write_bytes(b"hello, world")
    with SteadyCaller(server.address, tiny.MODEL_NAME, [image]) as caller:
        wait_until(lambda: caller.failures)
    assert caller.served == 0
    assert "not an image" in caller.failures[0]


def test_a_version_that_never_answers_ends_the_demonstration(server: RunningServer, tmp_path: Path):
    image = tmp_path / "red.jpg"
    image.write_bytes(tiny.picture("red"))
    with (
        SteadyCaller(server.address, tiny.MODEL_NAME, [image]) as caller,
        pytest.raises(DemoError, match="version 9 did not answer"),
    ):
        caller.wait_for_version(9, timeout_s=0.5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_served_answers_are_held_against_torch(start: Start, root: Path, tmp_path: Path):
    data, run = photos.folder(tmp_path / "data"), tmp_path / "run"
    quick = photos.QUICK | {"cycles": "0", "augmented_epochs": "0"}
    settings = [f"--set={key}={value}" for key, value in quick.items()]
    folders = ["--registry", str(root), "--cache", str(tmp_path / "cache"), "--run", str(run)]
    assert train(["--data", str(data), "--model", "photos", *settings, *folders]) == 0
    truth = {path: path.parent.name for path in data.rglob("*.*")}
    with unfreeze.Client(start().address) as client:
        compared = ask_and_compare(client, "photos", 3, Photographs(data, data, truth), run, root)
    assert (compared.version, compared.served, compared.failed) == (1, 48, 0)
    assert compared.max_abs_diff < 1e-4
    assert compared.accuracy > 0.5


def test_the_service_ends_with_the_demonstration(tmp_path: Path):
    (tmp_path / "data").mkdir()
    tiny.publish(tmp_path / "registry", promote=True)
    with (
        serving(tmp_path, tmp_path / "data") as addresses,
        unfreeze.Client(addresses.public) as client,
    ):
        answers = client.classify(tiny.picture("green"), model=tiny.MODEL_NAME)
    assert answers[0].label.name == "green"
    with (
        unfreeze.Client(addresses.public, attempts=1) as client,
        pytest.raises(unfreeze.Unavailable),
    ):
        client.classify(tiny.picture("green"), model=tiny.MODEL_NAME)


def test_the_demonstration_refuses_a_folder_with_something_in_it(tmp_path: Path):
    (tmp_path / "precious").write_text("kept")
    command = [sys.executable, "-m", "unfreeze", "demo", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not empty" in done.stderr
    assert (tmp_path / "precious").read_text() == "kept"
