"""Columns of probabilities keep their meaning from version to version, and versions whose columns
differ are compared by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import photos
import pytest
import tiny
from photos import Heard

from registry.bundle import Bundle, Task, seal
from registry.errors import Conflict
from registry.jobs import Assignment, Scored
from training.data.dataset import Dataset, read_dataset
from training.data.labels import in_known_order
from training.evaluation.compare import keep_label_order, score
from training.opening import keep_checkpoint
from training.recipe import train
from training.run.progress import Stages

BRIGHT_FIRST = ("light", "dark")  # not sorted


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return photos.folder(tmp_path / "data")


def beside(tmp_path: Path, data: Path, champion: Path) -> Assignment:
    """A training whose version is to be compared with version 7, in the folder `champion`."""
    assignment = photos.assignment(tmp_path, data, cycles="0", augmented_epochs="0")
    return assignment.model_copy(update={"champion": champion, "champion_version": 7})


def stage(
    folder: Path, labels: tuple[str, ...], bias: tuple[float, ...], task: Task = "single"
) -> Bundle:
    """A sealed bundle; the thresholds of a multi-label one differ."""
    bundle = tiny.stage(folder, labels=labels, bias=bias, task=task)
    if task == "multi":
        thresholds = {"dark": 0.2, "light": 0.9}
        ordered = tuple(thresholds[label] for label in labels)
        bundle = bundle.model_copy(update={"thresholds": ordered})
        seal(folder, bundle)
    return bundle


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_retraining_keeps_the_order_of_an_imported_version_and_is_compared_with_it(
    tmp_path: Path, data: Path
):
    stage(tmp_path / "imported", BRIGHT_FIRST, (0.0, 0.0))
    heard = Heard()
    bundle, scored = train(beside(tmp_path, data, tmp_path / "imported"), heard.append)
    assert bundle.labels == BRIGHT_FIRST
    assert scored.promoted_version == 7
    assert bundle.metrics["accuracy"] >= 0.75  # the head's outputs have that order, too
    notes = str(heard.of("note"))
    assert "the labels differ" not in notes
    assert "cannot be compared" not in notes


@pytest.mark.parametrize("task", ["single", "multi"])
def test_versions_with_the_same_labels_in_another_order_are_compared_by_name(
    tmp_path: Path, data: Path, task: Task
):
    dataset = replace(read_dataset(data), task=task)
    ours = stage(tmp_path / "ours", ("dark", "light"), (1.0, 0.0), task)
    stage(tmp_path / "sorted", ("dark", "light"), (2.0, 0.0), task)
    stage(tmp_path / "turned", ("light", "dark"), (0.0, 2.0), task)
    heard = Heard()

    def scored(champion: str) -> Scored:
        answers = np.tile(np.array([0.6, 0.4], np.float32), (len(dataset.rows("valid")), 1))
        assignment = beside(tmp_path, data, tmp_path / champion)
        return score(dataset, ours, answers, assignment, Stages(heard.append, 1))

    expected, found = scored("sorted"), scored("turned")
    assert expected.promoted is not None
    assert found.promoted is not None
    assert found.promoted.value == expected.promoted.value
    assert found.promoted.log_loss == pytest.approx(expected.promoted.log_loss, 0.05)
    assert (found.gained, found.lost) == (expected.gained, expected.lost)
    told = "version 7 has the same labels in another order: both are compared by name"
    assert told in str(heard.of("note"))


def test_versions_with_other_labels_are_not_compared_and_a_note_names_them(
    tmp_path: Path, data: Path
):
    dataset, heard = read_dataset(data), Heard()
    ours = stage(tmp_path / "ours", dataset.labels, (0.0, 0.0))
    stage(tmp_path / "theirs", ("dark", "dim"), (0.0, 0.0))
    answers = np.full((len(dataset.rows("valid")), 2), 0.5, np.float32)
    assignment = beside(tmp_path, data, tmp_path / "theirs")
    scored = score(dataset, ours, answers, assignment, Stages(heard.append, 1))
    assert scored.promoted is None
    told = "version 7 has other labels (new 'light'; gone 'dim'): it cannot be compared"
    assert told in str(heard.of("note")).replace('\\"', '"')


def test_new_labels_come_after_those_that_the_promoted_version_knows(tmp_path: Path, data: Path):
    photos.folder(data, classes={"black": 10})
    stage(tmp_path / "imported", BRIGHT_FIRST, (0.0, 0.0))
    said: list[str] = []
    assignment = beside(tmp_path, data, tmp_path / "imported")
    grown = keep_label_order(read_dataset(data), assignment, said.append)
    assert grown.labels == (*BRIGHT_FIRST, "black")
    assert said == ["the labels differ from those of version 7, the promoted one: new 'black'"]
    assert columns(grown) == {"light": {0}, "dark": {1}, "black": {2}}


def columns(dataset: Dataset) -> dict[str, set[int]]:
    """The places of the ones in the targets, by label."""
    places = dataset.targets.argmax(axis=1)
    return {
        label: {int(places[row]) for row, item in enumerate(dataset.items) if label in item.labels}
        for label in dataset.labels
    }


@pytest.mark.parametrize(
    ("labels", "known", "ordered"),
    [
        ("abc", "", "abc"),
        ("abc", "cab", "cab"),
        ("abcde", "db", "dbace"),
        ("ab", "cba", "ba"),
        ("ab", "xy", "ab"),
    ],
)
def test_known_labels_keep_their_order(labels: str, known: str, ordered: str):
    assert "".join(in_known_order(labels, known)) == ordered


def test_a_training_does_not_go_on_with_outputs_in_another_order(tmp_path: Path):
    """The version promoted meanwhile may have another: a job then begins anew."""
    bench = photos.learner(tmp_path).bench
    keep_checkpoint(bench, "weights")
    bench.checkpoint.begin("head")
    bench.checkpoint.save(bench.checkpoint.enter({}))
    turned = replace(bench, dataset=replace(bench.dataset, labels=BRIGHT_FIRST))
    with pytest.raises(Conflict, match="unfinished training with other labels"):
        keep_checkpoint(turned, "weights")
