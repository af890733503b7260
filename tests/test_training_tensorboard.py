"""Event files, read back with TensorBoard's own reader."""

import sys
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    SESSION_START_INFO_TAG,
    parse_session_start_info_plugin_data,
)

from registry.errors import BadRequest
from training.event_files import FOLDER, curves, wanted


def read(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run / FOLDER), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def points(found: EventAccumulator, tag: str) -> dict[int, float]:
    """Value of each step; a step that is there twice fails."""
    told = [(event.step, event.value) for event in found.Scalars(tag)]
    assert len({step for step, _ in told}) == len(told)
    return dict(told)


def test_each_batch_has_its_loss_rates_and_throughput(tmp_path: Path):
    with curves(tmp_path, 0, on=True) as drawn:
        drawn.batch(0, 0.75, [0.0, 0.5], 8)
        drawn.batch(1, 0.5, [0.0, 0.25], 8)
    found = read(tmp_path)
    assert points(found, "batch/loss") == {0: 0.75, 1: 0.5}
    assert points(found, "rate/group 1") == {0: 0.5, 1: 0.25}
    assert min(points(found, "batch/images a second").values()) > 0


def test_what_goes_on_from_a_step_replaces_what_was_drawn_beyond_it(tmp_path: Path):
    """As when a training was killed between two checkpoints and begins again at the first."""
    for begun, loss in ((0, 1.0), (3, 2.0), (5, 3.0)):
        with curves(tmp_path, begun, on=True) as drawn:
            for step in range(begun, begun + 4):
                drawn.scalars(step, {"batch/loss": loss})
    found = read(tmp_path)
    losses = {0: 1.0, 1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 3.0, 6: 3.0, 7: 3.0, 8: 3.0}
    assert points(found, "batch/loss") == losses


def test_pictures_are_kept_byte_for_byte(tmp_path: Path):
    Image.new("RGB", (5, 3), "red").save(tmp_path / "losses.png")
    with curves(tmp_path, 9, on=True) as drawn:
        drawn.picture(9, tmp_path / "losses.png")
    (picture,) = read(tmp_path).Images("report/losses")
    assert picture.encoded_image_string == (tmp_path / "losses.png").read_bytes()
    assert (picture.step, picture.width, picture.height) == (9, 5, 3)


def test_settings_stand_beside_what_they_led_to(tmp_path: Path):
    with curves(tmp_path, 0, on=True) as drawn:
        drawn.settings({"size": 32, "hidden": (16,), "pretrained": False}, {"accuracy": 0.5})
    found = read(tmp_path)
    content = found.PluginTagToContent("hparams")[SESSION_START_INFO_TAG]
    told = parse_session_start_info_plugin_data(content).hparams
    assert (told["size"].number_value, told["hidden"].string_value) == (32, "(16,)")
    assert points(found, "accuracy") == {0: 0.5}


def test_nothing_is_written_unless_wanted(tmp_path: Path):
    with curves(tmp_path, 0, on=False) as drawn:
        drawn.batch(0, 0.75, [0.5], 8)
        drawn.settings({"size": 32}, {"accuracy": 0.5})
        drawn.picture(0, tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []


def test_without_its_package_a_training_says_nothing_unless_asked(monkeypatch: pytest.MonkeyPatch):
    assert (wanted(None), wanted(True), wanted(False)) == (True, True, False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert (wanted(None), wanted(False)) == (False, False)
    with pytest.raises(BadRequest, match=r"pip install unfreeze\[tensorboard\]"):
        wanted(True)
