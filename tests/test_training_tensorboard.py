"""Event files, read back with TensorBoard's own reader."""

import sys
from pathlib import Path

import photos
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    SESSION_START_INFO_TAG,
    parse_session_start_info_plugin_data,
)

from registry.errors import BadRequest
from training.fit.epoch import Step
from training.recipe import train
from training.run.event_files import EVENTS_FOLDER, EventFile, tensorboard_wanted

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def read(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run / EVENTS_FOLDER), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def points(found: EventAccumulator, tag: str) -> dict[int, float]:
    """Value of each step; a step that is there twice fails."""
    told = [(event.step, event.value) for event in found.Scalars(tag)]
    assert len({step for step, _ in told}) == len(told)
    return dict(told)


def test_each_batch_has_its_loss_rates_and_throughput(tmp_path: Path):
    drawn = EventFile(tmp_path / EVENTS_FOLDER)
    drawn.batch(0, Step(0, 0.75, [0.0, 0.5], n_images=8, seconds=0.5))
    drawn.batch(1, Step(1, 0.5, [0.0, 0.25], n_images=8, seconds=0.25))
    found = read(tmp_path)
    assert points(found, "batch/loss") == {0: 0.75, 1: 0.5}
    assert points(found, "rate/head") == {0: 0.5, 1: 0.25}
    assert points(found, "batch/images per second") == {0: 16.0, 1: 32.0}


def test_what_goes_on_from_a_step_replaces_what_was_drawn_beyond_it(tmp_path: Path):
    """As when a training was killed between two checkpoints and begins again at the first."""
    for begun, loss in ((0, 1.0), (3, 2.0), (5, 3.0)):
        drawn = EventFile(tmp_path / EVENTS_FOLDER)
        for step in range(begun, begun + 4):
            drawn.scalars(step, {"batch/loss": loss})
    found = read(tmp_path)
    losses = {0: 1.0, 1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 3.0, 6: 3.0, 7: 3.0, 8: 3.0}
    assert points(found, "batch/loss") == losses


def test_pictures_are_kept_byte_for_byte(tmp_path: Path):
    Image.new("RGB", (5, 3), "red").save(tmp_path / "losses.png")
    EventFile(tmp_path / EVENTS_FOLDER).picture(9, tmp_path / "losses.png")
    (picture,) = read(tmp_path).Images("report/losses")
    assert picture.encoded_image_string == (tmp_path / "losses.png").read_bytes()
    assert (picture.step, picture.width, picture.height) == (9, 5, 3)


def test_settings_stand_beside_what_they_led_to(tmp_path: Path):
    settings = {"size": 32, "hidden": (16,), "pretrained": False}
    EventFile(tmp_path / EVENTS_FOLDER).outcome(7, settings, {"accuracy": 0.5})
    found = read(tmp_path)
    content = found.PluginTagToContent("hparams")[SESSION_START_INFO_TAG]
    told = parse_session_start_info_plugin_data(content).hparams
    assert (told["size"].number_value, told["hidden"].string_value) == (32, "(16,)")
    assert points(found, "accuracy") == {7: 0.5}


def test_nothing_is_written_unless_wanted(tmp_path: Path):
    drawn = EventFile(None)
    drawn.batch(0, Step(0, 0.75, [0.5], n_images=8, seconds=0.5))
    drawn.outcome(0, {"size": 32}, {"accuracy": 0.5})
    drawn.picture(0, tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []


def test_a_training_draws_every_batch_and_epoch_its_report_and_its_settings(tmp_path: Path):
    heard = photos.Heard()
    assignment = photos.assignment(tmp_path, photos.folder(tmp_path / "data"))
    bundle, _ = train(assignment, heard.append)
    found, epochs = read(assignment.run), heard.of("epoch_finished")
    n_batches = len(points(found, "batch/loss"))
    assert sorted(points(found, "batch/loss")) == list(range(n_batches))
    assert n_batches == len(epochs) * round(bundle.metrics["images_train"] / 8 + 0.49)
    assert sorted(points(found, "rate/head")) == list(range(n_batches))
    n_unfrozen = len(points(found, "rate/body 0"))
    assert sorted(points(found, "rate/body 0")) == list(range(n_batches))[-n_unfrozen:]
    assert n_unfrozen * len(epochs) == n_batches  # one epoch is unfrozen
    held_out = points(found, "epoch/valid loss")
    assert list(held_out.values()) == pytest.approx([event.valid_loss for event in epochs])
    assert max(held_out) == n_batches - 1
    assert found.Images("report/losses")[0].step == n_batches
    assert points(found, "accuracy") == pytest.approx({n_batches: bundle.metrics["accuracy"]})
    assert f"tensorboard --logdir {assignment.run / EVENTS_FOLDER}" in str(heard.of("note"))


def test_a_network_that_learns_once_more_draws_on_where_it_was(tmp_path: Path):
    learner = photos.learner(tmp_path, cycles=0, head_epochs=1, label_noise=False, tensorboard=True)
    learner.fit()
    learner.fit()
    losses = points(read(learner.bench.run), "batch/loss")
    assert sorted(losses) == list(range(learner.bench.results.n_batches))


def test_a_training_that_is_set_not_to_draws_nothing(tmp_path: Path):
    told = {"cycles": "0", "augmented_epochs": "0", "tensorboard": "false"}
    assignment = photos.assignment(tmp_path, photos.folder(tmp_path / "data"), **told)
    heard = photos.Heard()
    train(assignment, heard.append)
    assert not (assignment.run / EVENTS_FOLDER).exists()
    assert "tensorboard" not in str(heard.of("note"))


def test_without_its_package_a_training_says_nothing_unless_asked(monkeypatch: pytest.MonkeyPatch):
    assert (tensorboard_wanted(None), tensorboard_wanted(True), tensorboard_wanted(False)) == (
        True,
        True,
        False,
    )
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert (tensorboard_wanted(None), tensorboard_wanted(False)) == (False, False)
    with pytest.raises(BadRequest, match=r"pip install unfreeze\[tensorboard\]"):
        tensorboard_wanted(True)
