"""Images that initial weights have learnt from do not pass for held-out ones."""

import json
from pathlib import Path

import photos
import pytest
import torch
from benches import opened
from findings import findings
from safetensors.torch import save_file

from registry.jobs import Assignment
from training import pretrained, read_images
from training.bench import Bench
from training.evaluation.compare import score
from training.learnt_before import FACT
from training.network.saving import NETWORK, images_learnt, restore
from training.recipe import train
from training.report.words import in_words
from training.run.progress import Stages

SHORT = {"cycles": "0", "augmented_epochs": "0", "label_noise": "false", "tta_views": "1"}


def parts(bench: Bench) -> dict[str, str]:
    return {item.sha256: str(item.part) for item in bench.dataset.items}


def begun(tmp_path: Path, weights: Path, **told: str) -> Bench:
    """A bench whose network begins with those weights."""
    settings = photos.QUICK | {"weights": str(weights)} | told
    return opened(tmp_path, tmp_path / "data", settings)


@pytest.fixture
def first(tmp_path: Path) -> Bench:
    return opened(tmp_path, photos.folder(tmp_path / "data"), photos.QUICK)


def test_a_training_says_that_its_weights_have_learnt_from_what_is_held_out(
    tmp_path: Path, first: Bench
):
    second = begun(tmp_path, first.save(NETWORK), seed="7")
    before, now = parts(first), parts(second)
    n = sum(part == "valid" and before[image] == "train" for image, part in now.items())
    assert n
    said = f"{n} of {second.n_valid} held-out images are among those that the initial weights"
    assert second.results.facts[FACT].startswith(said)


def test_weights_of_a_training_that_held_out_the_same_images_are_no_concern(
    tmp_path: Path, first: Bench
):
    assert FACT not in begun(tmp_path, first.save(NETWORK)).results.facts


def test_what_weights_have_learnt_from_is_handed_on(tmp_path: Path, first: Bench):
    saved = first.save(NETWORK)
    before = images_learnt(saved)
    second = begun(tmp_path, saved, seed="7")
    assert before < images_learnt(second.save(NETWORK))


def test_a_network_loaded_in_a_notebook_is_asked_what_it_has_learnt_from(tmp_path: Path):
    saved = photos.learner(tmp_path / "first").save("network")
    images = read_images(
        tmp_path / "first" / "data",
        photos.SIZE,
        settings=photos.AS_PYTHON | {"seed": 7},
        cache=tmp_path / "cache",
        tell=lambda event: None,
    )
    learner = pretrained("test_efficientnet", images, run=tmp_path, tell=lambda event: None)
    own = learner.save("own")
    learner.load(saved)
    assert "held-out images are among those" in learner.bench.results.facts[FACT]
    learner.load(own)
    assert FACT not in learner.bench.results.facts


def test_images_that_the_weights_have_learnt_from_are_left_out_of_the_comparison(
    tmp_path: Path, first: Bench
):
    assignment = photos.assignment(tmp_path, tmp_path / "data", **SHORT)
    bundle, _ = train(assignment, lambda event: None)
    bench, heard = begun(tmp_path, first.save(NETWORK), seed="7", **SHORT), photos.Heard()
    rows = bench.dataset.rows("valid")
    answers = bench.dataset.targets[rows]
    against: Assignment = assignment.model_copy(
        update={"champion": assignment.stage, "champion_version": 1}
    )
    scored = score(
        bench.dataset,
        bundle,
        answers,
        against,
        Stages(heard.append, 1),
        learnt_before=bench.network.learnt_before,
    )
    new_to_both = [row for row in rows if parts(first)[bench.dataset.items[row].sha256] == "valid"]
    assert 0 < scored.images == len(new_to_both) < len(rows)
    assert "the new version's initial weights had learnt from them" in str(heard.of("note"))


def test_a_report_says_at_its_top_that_images_were_not_held_out():
    told, _ = findings(facts={FACT: "9 of 22 held-out images are among them"})
    (remark,) = [remark for remark in in_words(told) if remark.topic == "Not held out"]
    assert remark.concern
    assert remark.text == "9 of 22 held-out images are among them."


@pytest.mark.parametrize("said", ["a name", "[1]", '{"learnt": null}'])
def test_weights_from_elsewhere_that_say_something_else_have_learnt_from_nothing_known(
    tmp_path: Path, said: str
) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / NETWORK, {"network": said})
    assert images_learnt(tmp_path / NETWORK) == frozenset()


def test_a_file_that_lists_the_images_in_its_header_is_still_asked(tmp_path: Path):
    """As earlier ones do; the longest header is read up to 4.5 million images."""
    said = json.dumps({"learnt": ["0123456789abcdef"]})
    save_file({"weight": torch.zeros(1)}, tmp_path / NETWORK, {"network": said})
    assert images_learnt(tmp_path / NETWORK) == {"0123456789abcdef"}


def test_a_saved_network_may_have_learnt_from_any_number_of_images(first: Bench):
    """Its header, which may not be longer than 100 MB, does not grow with them."""

    def header_bytes(n_images: int) -> int:
        first.network.learnt_before = frozenset(f"{number:016x}" for number in range(n_images))
        with first.save(NETWORK).open("rb") as file:
            return int.from_bytes(file.read(8), "little")

    few, many = header_bytes(1), header_bytes(100_000)
    assert many - few < 100
    assert first.network.learnt_before < images_learnt(first.run / NETWORK)
    restore(first.network, first.run / NETWORK, first.dataset.labels)
