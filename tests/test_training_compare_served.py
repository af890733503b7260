"""Whether a new version goes live is decided by what would be served: with the views of each."""

from pathlib import Path

import numpy as np
import photos
import pytest
import tiny
from photos import Heard

from registry.images import Float32Array, prepare
from registry.jobs import Scored
from registry.tta import TtaSpec, tta_views
from training.data.dataset import Dataset, read_dataset
from training.evaluation.compare import score
from training.evaluation.evaluate import measure
from training.recipe import train
from training.run.progress import Stages

LABELS = ("dark", "light")
VIEWS = TtaSpec(default_views=4, max_zoom=2, lighting=0.5)


def served(dataset: Dataset, folder: Path, tta: TtaSpec) -> Float32Array:
    """What a server answers with the bundle in `folder` to requests that say nothing of views."""
    answers = []
    bundle = tiny.stage(folder, labels=LABELS, bias=(1.0, 0.0), tta=tta)
    for row in dataset.rows("valid"):
        encoded = dataset.items[row].path.read_bytes()
        pixels = prepare(encoded, bundle.image)
        views = tta_views(pixels, encoded, tta, tta.default_views)
        answers.append(tiny.answer(views, (1.0, 0.0)).mean(axis=0))
    return np.stack(answers)


def compared(tmp_path: Path, dataset: Dataset, heard: Heard) -> Scored:
    bundle = tiny.stage(tmp_path / "ours", labels=LABELS, bias=(0.0, 0.0))
    answers = np.full((len(dataset.rows("valid")), 2), 0.5, np.float32)
    champion = {"champion": tmp_path / "theirs", "champion_version": 7}
    assignment = photos.assignment(tmp_path, dataset.root).model_copy(update=champion)
    return score(dataset, bundle, answers, assignment, Stages(heard.append, 1))


@pytest.mark.parametrize("tta", [TtaSpec(), VIEWS], ids=["one view", "four views"])
def test_the_promoted_version_is_compared_with_the_views_that_it_is_served_with(
    tmp_path: Path, tta: TtaSpec
):
    dataset, heard = read_dataset(photos.folder(tmp_path / "data")), Heard()
    answers = served(dataset, tmp_path / "theirs", tta)
    scored = compared(tmp_path, dataset, heard)
    expected = measure(answers, dataset.targets[dataset.rows("valid")], dataset.task)
    assert scored.promoted is not None
    assert scored.promoted.log_loss == pytest.approx(expected.log_loss, abs=1e-5)
    said = "views of each image, as they are served: 1 for the new version, 4 for version 7"
    assert (said in [note.text for note in heard.of("note")]) == (tta is VIEWS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_new_version_is_scored_with_the_views_that_it_will_be_served_with(tmp_path: Path):
    head_only = {"cycles": "0", "augmented_epochs": "0", "max_zoom": "2", "label_noise": "false"}
    assignment = photos.assignment(
        tmp_path, photos.folder(tmp_path / "data"), **head_only, serve_tta_views="3"
    )
    bundle, scored = train(assignment, lambda event: None)
    assert scored.candidate.log_loss == bundle.metrics["log_loss_tta"]  # tta_views is 3, too
    assert scored.candidate.log_loss != bundle.metrics["log_loss"]
