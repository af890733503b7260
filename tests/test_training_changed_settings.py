"""A retraining names the settings that it does not share with the promoted version."""

from pathlib import Path

import photos
import pytest
from photos import Heard

from registry.jobs import Assignment
from training.changed_settings import describe_changed, note_changed
from training.distributed.parallel import ALONE
from training.reading_settings import read_settings
from training.recipe import open_training, train

SHORT = {"cycles": "0", "augmented_epochs": "0", "label_noise": "false", "tta_views": "1"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Assignment:
    tmp_path = tmp_path_factory.mktemp("promoted")
    data = photos.folder(tmp_path / "data")
    served = {"serve_tta_views": "3", "balance": "weights"}
    assignment = photos.assignment(tmp_path, data, **SHORT, **served)
    train(assignment, lambda event: None)
    return assignment


def test_a_setting_that_a_retraining_leaves_out_is_named_with_both_values(
    promoted: Assignment, tmp_path: Path
):
    heard = Heard()
    again = photos.assignment(tmp_path, promoted.data, **SHORT)
    against = {"champion": promoted.stage, "champion_version": 4}
    again = again.model_copy(update=against)
    bench, _ = open_training(again, heard.append, ALONE)
    bench.results.facts["changed_settings"] = "as against the version promoted before"
    note_changed(bench, again)
    said = (
        "settings that differ from those of version 4, the promoted one: "
        "balance=none (there weights), serve_tta_views=1 (there 3); "
        "a training takes only the settings that it is given, unless --same-settings asks for the "
        "promoted version's"
    )
    assert said in [note.text for note in heard.of("note")]
    assert bench.results.facts["changed_settings"] == said


def test_the_same_settings_and_a_first_version_are_passed_over(promoted: Assignment):
    settings = read_settings(promoted.settings)
    assert describe_changed(settings, promoted.stage, 1) == ""
    assert describe_changed(settings, None, None) == ""


def test_an_empty_setting_is_written_as_such(promoted: Assignment):
    settings = read_settings(promoted.settings | {"dropout": "0.1", "clip_norm": ""})
    assert "clip_norm=empty (there 1.0)" in describe_changed(settings, promoted.stage, 1)
