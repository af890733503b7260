"""Images that change or go while a training runs end it with what to do."""

from pathlib import Path

import photos
import pytest

from registry.errors import DataError
from training import Learner


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    return photos.learner(tmp_path)


def held_out(learner: Learner) -> Path:
    dataset = learner.bench.dataset
    return dataset.items[dataset.rows("valid")[0]].path


def test_a_held_out_image_that_is_removed_is_named_with_what_to_do(learner: Learner):
    held_out(learner).unlink()
    with pytest.raises(DataError, match=r"this image can no longer be read .*put it back"):
        learner.evaluate()


def test_a_held_out_image_that_has_changed_is_not_taken_for_what_it_was(learner: Learner):
    """Its golden answers would be those of the old image, and no server would load the version."""
    photos.photo(held_out(learner), 128, seed=999)
    with pytest.raises(DataError, match="this image has changed since the training began"):
        learner.evaluate()
