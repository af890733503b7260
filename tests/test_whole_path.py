"""Train, publish, serve, compare with torch, retrain, swap: every package at its real work."""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import photos
import pytest
from conftest import Start, wait_until

import unfreeze
from registry.images import prepare
from registry.store import Registry
from registry.tta import tta_views
from training.__main__ import main as train
from training.evaluation.evaluate import predict
from training.network.saving import load_network
from unfreeze.admin import AdminClient

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TRAINER = (sys.executable, "-m", "training")
HEAD_ONLY = {"cycles": "0", "augmented_epochs": "0"}


def publish_first(root: Path, data: Path, tmp_path: Path) -> Path:
    """Version 1 is promoted; gives the folder with its torch weights."""
    settings = [f"--set={key}={value}" for key, value in (photos.QUICK | HEAD_ONLY).items()]
    folders = ["--registry", str(root), "--cache", str(tmp_path / "cache")]
    run = tmp_path / "first"
    command = ["--data", str(data), "--model", "photos", *settings, *folders, "--run", str(run)]
    assert train(command) == 0
    return run


def offline(run: Path, registry: Registry, version: int, file: Path, n_views: int) -> np.ndarray:
    """What torch says of a file, in float32."""
    network, task = load_network(run / "network.safetensors")
    bundle = registry.bundle("photos", version)
    encoded = file.read_bytes()
    views = tta_views(prepare(encoded, bundle.image), encoded, bundle.tta, n_views)
    return predict(network, views, task).mean(axis=0)


@pytest.mark.parametrize("n_views", [1, 4])
def test_what_was_trained_is_what_is_served(start: Start, root: Path, tmp_path: Path, n_views: int):
    data = photos.folder(tmp_path / "data")
    run = publish_first(root, data, tmp_path)
    server = start()
    files = sorted(data.rglob("*.*"))
    with unfreeze.Client(server.address) as client:
        answers = client.classify(files, model="photos", tta_views=n_views)
    for file, answer in zip(files, answers, strict=True):
        expected = offline(run, server.registry, 1, file, n_views)
        served = {label.index: label.probability for label in answer.labels}
        np.testing.assert_allclose([served[0], served[1]], expected, atol=1e-4)


def test_a_retraining_goes_live_while_requests_flow(start: Start, root: Path, tmp_path: Path):
    data = photos.folder(tmp_path / "data" / "photos", per_class=16)
    publish_first(root, data, tmp_path)
    server = start(state=tmp_path / "state", data_roots=(data.parent,), trainer_command=TRAINER)
    versions: list[int | None] = []
    done = threading.Event()
    image = next(data.rglob("*.png"))

    def ask() -> None:
        with unfreeze.Client(server.address, attempts=1) as client:
            while not done.wait(0.02):
                versions.extend(p.version for p in client.classify(image, model="photos"))

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        wait_until(lambda: versions)
        with AdminClient(server.admin_address) as admin:
            job = admin.wait(
                admin.start_training(
                    "photos", "photos", settings=photos.QUICK, promotion="always"
                ).id
            )
            kinds = {event.kind for event in admin.watch(job.id)}
        assert (job.state, job.version, job.promoted) == ("succeeded", 2, True), job.message
        wait_until(lambda: 2 in versions)
    finally:
        done.set()
        caller.join()
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}
    assert {"stage_started", "epoch_finished", "scored", "gate_decided"} <= kinds


def test_bad_data_fails_the_job_with_its_reason_and_the_service_goes_on(
    start: Start, root: Path, tmp_path: Path
):
    data = photos.folder(tmp_path / "data" / "photos")
    publish_first(root, data, tmp_path)
    server = start(state=tmp_path / "state", data_roots=(data.parent,), trainer_command=TRAINER)
    one_class = photos.folder(tmp_path / "data" / "one", classes={"dark": 60})
    with AdminClient(server.admin_address) as admin:
        job = admin.wait(admin.start_training("photos", "one", settings=photos.QUICK).id)
    assert job.state == "failed"
    assert job.message == (
        f"{one_class}: a classifier needs at least two classes; found only 'dark'"
    )
    with unfreeze.Client(server.address) as client:
        assert client.classify(next(data.rglob("*.png")), model="photos")[0].version == 1


def test_a_retraining_with_the_same_settings_trains_as_the_promoted_version_was(
    start: Start, root: Path, tmp_path: Path
):
    data = photos.folder(tmp_path / "data" / "photos")
    publish_first(root, data, tmp_path)
    server = start(state=tmp_path / "state", data_roots=(data.parent,), trainer_command=TRAINER)
    with AdminClient(server.admin_address) as admin:
        started = admin.start_training(
            "photos", "photos", settings={"seed": "7"}, same_settings=True
        )
        job = admin.wait(started.id)
    assert (job.state, job.version) == ("succeeded", 2), job.message
    first, again = (server.registry.bundle("photos", number).provenance for number in (1, 2))
    assert json.loads(again["settings"]) == json.loads(first["settings"]) | {"seed": 7}
    assert job.settings["backbone"] == photos.QUICK["backbone"]
