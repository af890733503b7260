"""Columns of probabilities keep their meaning from version to version, and versions whose columns
differ are compared by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import photos
import pytest
import tiny
import torch
from photos import Heard

from registry.bundle import MODEL, Bundle, Task, read_bundle, seal
from registry.errors import Conflict
from registry.jobs import Assignment, Scored
from registry.store import Registry
from training import Learner
from training.__main__ import main
from training.data.dataset import Dataset, read_dataset
from training.data.labels import in_known_order
from training.evaluation.compare import keep_label_order, score
from training.export.runtime import answer_all
from training.fit.keeping import copy_state
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


def turned(learner: Learner) -> Learner:
    """The same network and images, with the labels in another order and nothing else changed."""
    dataset = replace(learner.bench.dataset, labels=learner.labels[::-1])
    return replace(learner, bench=replace(learner.bench, dataset=dataset))


def test_a_network_saved_with_its_labels_in_another_order_is_loaded_by_their_names(tmp_path: Path):
    """As a set they are equal: each image was then answered with another's label."""
    learner = photos.learner(tmp_path, 4)
    with torch.no_grad():
        learner.bench.network.head[-1].bias.copy_(torch.tensor([0.0, 1.0]))
    image = tmp_path / "data" / "light" / "00.png"
    answered = learner.classify(image)
    file, before = learner.save("sorted"), copy_state(learner.bench.network)
    other = turned(learner)
    other.load(file)
    assert other.labels == BRIGHT_FIRST
    assert other.classify(image) == pytest.approx(answered)
    assert torch.equal(other.bench.network.head[-1].bias, torch.tensor([1.0, 0.0]))
    other.save("turned")
    learner.load("turned")
    after = copy_state(learner.bench.network)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_notebook_publishes_with_the_labels_in_the_order_of_the_promoted_version(tmp_path: Path):
    registry = Registry(tmp_path / "models")
    tiny.publish(registry.root, model="photos", promote=True, labels=BRIGHT_FIRST, bias=(0.0, 0.0))
    learner = photos.learner(tmp_path, cycles=0, augmented_epochs=0)
    learner.fit()
    before, evaluated = copy_state(learner.bench.network), learner.evaluate().plain_measures
    version = learner.publish(registry.root, "photos", promote=True)
    bundle = read_bundle(version)
    assert bundle.labels == BRIGHT_FIRST
    assert bundle.metrics["accuracy"] == pytest.approx(evaluated.value)
    pixels = np.array(learner.bench.decoded.pixels[learner.bench.rows("valid")])
    expected = learner._answer(pixels)[:, ::-1]
    assert np.abs(answer_all(version / MODEL, pixels) - expected).max() < 1e-4
    assert learner.labels == ("dark", "light")
    after = copy_state(learner.bench.network)
    assert all(torch.equal(before[name], after[name]) for name in before)
    learner.load("network")  # as published, in the other order
    after = copy_state(learner.bench.network)
    assert all(torch.equal(before[name], after[name]) for name in before)


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_command_that_promotes_says_what_changes_for_whoever_reads_probabilities(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
):
    """As `unfreeze promote` does."""
    root = tmp_path / "models"
    tiny.publish(root, model="photos", promote=True, labels=("dark", "dim"), bias=(0.0, 0.0))
    told = photos.QUICK | {"cycles": "0", "augmented_epochs": "0"}
    settings = [f"--set={name}={text}" for name, text in told.items()]
    folders = [f"--registry={root}", f"--cache={tmp_path / 'cache'}"]
    assert main([f"--data={data}", "--model=photos", "--promote", *folders, *settings]) == 0
    assert (
        "note: its labels differ from those of version 1 (new 'light'; gone 'dim'); whoever reads "
        "probabilities by position must read the labels again\n"
    ) in capsys.readouterr().out
