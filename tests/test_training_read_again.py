"""Images that change or go while a training runs end it with what to do."""

from pathlib import Path

import numpy as np
import photos
import pytest

from registry.errors import DataError
from registry.images import Float32Array, ImageSpec, UInt8Array
from training import Learner
from training.data.dataset import read_dataset
from training.data.decoded import decode
from training.evaluation.compare import score
from training.evaluation.predict_test_part import answer_tests
from training.export.golden import write_golden_answers
from training.reading_settings import read_settings
from training.recipe import train
from training.run.progress import Stages

SPEC = ImageSpec(size=photos.SIZE)
CHANGED = "this image has changed since the training began"


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    return photos.learner(tmp_path)


def held_out(learner: Learner) -> Path:
    dataset = learner.bench.dataset
    return dataset.items[dataset.rows("valid")[0]].path


def change(image: Path) -> None:
    photos.photo(image, 128, seed=999)


def test_a_held_out_image_that_is_removed_is_named_with_what_to_do(learner: Learner):
    held_out(learner).unlink()
    with pytest.raises(DataError, match=r"this image can no longer be read .*put it back"):
        learner.evaluate()


def test_a_held_out_image_that_has_changed_is_not_taken_for_what_it_was(learner: Learner):
    change(held_out(learner))
    with pytest.raises(DataError, match=CHANGED):
        learner.evaluate()


def test_no_image_that_has_changed_travels_with_golden_answers(learner: Learner, tmp_path: Path):
    """They would be those of the old image, and no server would load the version."""
    change(held_out(learner))
    with pytest.raises(DataError, match=CHANGED):
        write_golden_answers(learner.bench, tmp_path / "model.onnx", tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_versions_are_not_compared_on_an_image_that_has_changed(tmp_path: Path):
    told = {"cycles": "0", "augmented_epochs": "0", "label_noise": "false", "tta_views": "1"}
    assignment = photos.assignment(tmp_path, photos.folder(tmp_path / "data"), **told)
    bundle, _ = train(assignment, lambda event: None)
    rule = read_settings(assignment.settings).split_rule()
    dataset = read_dataset(tmp_path / "data", rule=rule)
    rows = dataset.rows("valid")
    change(dataset.items[rows[0]].path)
    promoted = {"champion": assignment.stage, "champion_version": 1}
    against = assignment.model_copy(update=promoted)
    with pytest.raises(DataError, match=CHANGED):
        score(dataset, bundle, dataset.targets[rows], against, Stages(lambda event: None, 1))


def test_a_test_image_that_has_changed_is_not_answered_as_what_it_was(tmp_path: Path):
    """Its pixels are decoded before the training, but a full cache may have lost them."""
    photos.folder(tmp_path / "data" / "train", per_class=4)
    image = photos.photo(tmp_path / "data" / "test" / "a.png", 100, seed=1)
    dataset = read_dataset(tmp_path / "data")
    change(image)

    def answer(pixels: UInt8Array) -> Float32Array:
        return np.ones((len(pixels), 2), np.float32)

    with pytest.raises(DataError, match=rf"a\.png: {CHANGED}"):
        answer_tests(dataset, answer, SPEC, tmp_path / "cache")


def test_pixels_in_the_cache_are_those_of_the_content_that_they_are_kept_by(tmp_path: Path):
    """Or every later training on the old image would get those of the new one."""
    dataset = read_dataset(photos.folder(tmp_path / "data", per_class=4))
    change(dataset.items[0].path)
    with pytest.raises(DataError, match=CHANGED):
        decode(dataset.items, SPEC, tmp_path / "cache", lambda n: None)
    assert not list((tmp_path / "cache").glob("decoded-*"))
