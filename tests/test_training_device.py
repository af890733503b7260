"""Trainings beside a GPU: in what precision, from where, and that nothing is mixed up."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry.images import ImageSpec
from training.data.decoded import Decoded
from training.data.prefetch import read_each
from training.fit.device import has_fast_bf16, unused_gpu
from training.fit.epoch import READ_EVERY

CPU, GPU = torch.device("cpu"), torch.device("cuda")
OTHER = torch.device("meta")  # neither


def on_a_device_that_poses(tmp_path: Path, what: str) -> dict[str, Any]:
    script = [sys.executable, str(Path(__file__).with_name("on_posed.py")), str(tmp_path), what]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_training_on_another_device_mixes_it_with_the_cpu_nowhere(tmp_path: Path) -> None:
    assert on_a_device_that_poses(tmp_path, "learns")["up"]


def test_a_gpu_is_waited_for_only_when_losses_are_read(tmp_path: Path) -> None:
    found = on_a_device_that_poses(tmp_path, "steps")
    assert found["steps"] > READ_EVERY
    assert found["waits"] == math.ceil(found["steps"] / READ_EVERY)


def test_normalising_over_several_processes_waits_for_no_gpu(tmp_path: Path) -> None:
    assert on_a_device_that_poses(tmp_path, "shares") == {"waits": 0}


def test_a_training_that_diverges_on_a_gpu_says_when_and_keeps_the_last_good_weights(
    tmp_path: Path,
) -> None:
    found = on_a_device_that_poses(tmp_path, "diverges")
    assert re.search(r"the loss became \S+ in batch 2 at a learning rate of", found["error"])
    assert found["good"]


def test_a_network_learns_on_where_it_was_after_it_was_published(tmp_path: Path) -> None:
    found = on_a_device_that_poses(tmp_path, "publishes")
    assert found["before"] == found["after"] == "posed:0"


def test_a_gpu_that_pytorch_cannot_use_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("PyTorch can use this one")
    (tmp_path / "nvidiactl").touch()
    assert unused_gpu(tmp_path) == ""
    (tmp_path / "nvidia0").touch()
    assert unused_gpu(tmp_path)


@pytest.mark.parametrize(("generation", "fast"), [(7, False), (8, True), (9, True)])
def test_a_gpu_that_only_emulates_bfloat16_trains_in_float32(
    generation: int, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Properties:
        major = generation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    assert has_fast_bf16(GPU) is fast


@pytest.mark.parametrize("device", [CPU, OTHER], ids=str)
def test_pixels_are_read_in_order_whoever_waits_for_them(device: torch.device) -> None:
    pixels = np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 2, 3)
    parts = [np.array([3, 1]), np.array([6]), np.array([0, 0, 2])]
    read = list(read_each(Decoded(pixels, ImageSpec(size=2), ""), parts, device))
    for got, rows in zip(read, parts, strict=True):
        np.testing.assert_array_equal(got, pixels[rows])
    assert not list(read_each(Decoded(pixels, ImageSpec(size=2), ""), [], device))


def test_pixels_that_cannot_be_read_are_an_error_where_they_are_used() -> None:
    decoded = Decoded(np.zeros((2, 2, 2, 3), np.uint8), ImageSpec(size=2), "")
    read = read_each(decoded, [np.array([0]), np.array([5])], OTHER)
    assert next(read).shape == (1, 2, 2, 3)
    with pytest.raises(IndexError):
        next(read)


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has another OpenMP there")
@pytest.mark.parametrize(
    ("policy", "turns"), [({}, "10000"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_threads_that_wait_spin_briefly_and_those_of_a_services_trainer_not_at_all(
    policy: dict[str, str], turns: str
) -> None:
    said = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in said}
    done = subprocess.run(
        [sys.executable, "-c", "import training, torch"],
        env=environment | policy | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{turns}'" in done.stderr
