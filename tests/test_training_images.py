"""What a training begins with: every image is looked at before anything is learnt."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import photos
import pytest
from PIL import Image

from registry.errors import BadRequest, DataError
from training.data.items import Part
from training.evaluation.compare import known_parts, known_rule
from training.images import Images, audit_command, open_images
from training.network.saving import NETWORK
from training.reading_settings import read_settings
from training.recipe import train
from training.run.progress import Stages
from unfreeze.cli import main

quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def opened(
    data: Path, heard: photos.Heard, known: dict[str, Part] | None = None, **told: str
) -> Images:
    settings, stages = read_settings(photos.QUICK | told), Stages(heard.append, 1)
    return open_images(settings, data, data.parent / "cache", stages, known_parts=known)


def drawn(data: Path, **told: str) -> dict[str, Part]:
    """The parts of a version that is promoted then."""
    dataset = opened(data, photos.Heard(), **told).dataset
    return {item.sha256: item.part for item in dataset.items if item.part}


def test_settings_that_draw_other_parts_are_said_to_count_for_new_images_alone(data: Path):
    known = drawn(data)
    photos.folder(data, per_class=16)
    heard, unsaid = photos.Heard(), photos.Heard()
    images = opened(data, heard, known, valid_fraction="0.6")
    opened(data, unsaid, known)
    parts = {item.sha256: item.part for item in images.dataset.items}
    assert known.items() <= parts.items()
    told = (
        "24 of 32 images keep the part that the promoted version gave them, "
        r"which for \d+ of them is not"
    )
    assert re.search(told, str(heard))
    assert "keep the part" not in str(unsaid)


def test_a_fold_that_the_promoted_version_has_learnt_from_is_refused_with_what_to_do(data: Path):
    known, heard = drawn(data, split="cv"), photos.Heard()
    message = (
        r"fold=1: 24 of 24 images keep the part .*; train each fold as a model of its own name"
    )
    with pytest.raises(BadRequest, match=message):
        opened(data, heard, known, split="cv", fold="1")
    opened(data, heard, known, split="cv", fold="0")
    photos.folder(data, per_class=16)
    opened(data, heard, known, split="cv")  # as a recipe asks for it
    assert "24 of 32 images keep the part" in str(heard)


@quiet
def test_a_fold_is_trained_again_with_its_own_settings_when_the_data_have_grown(
    data: Path, tmp_path: Path
):
    """Drawn again over more images, no fold is what it was."""
    fold = {"split": "cv", "fold": "1"}
    assignment = photos.assignment(tmp_path, data, **fold)
    train(assignment, photos.Heard().append)
    known, rule = known_parts(assignment.stage), known_rule(assignment.stage)
    photos.folder(data, per_class=16)

    def again(**told: str) -> Images:
        stages = Stages(heard.append, 1)
        settings = read_settings(photos.QUICK | told)
        return open_images(
            settings, data, tmp_path / "cache", stages, known_parts=known, known_rule=rule
        )

    heard = photos.Heard()
    parts = {item.sha256: item.part for item in again(**fold).dataset.items}
    assert known.items() <= parts.items()
    assert "24 of 32 images keep the part" in str(heard)
    with pytest.raises(BadRequest, match="train each fold as a model of its own name"):
        again(split="cv", fold="0")
    with pytest.raises(BadRequest, match="train each fold as a model of its own name"):
        again(split="blocks", fold="1")


def cut_off(file: Path) -> Path:
    """Its header is whole, so that only decoding it shows what it lacks."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return photos.folder(tmp_path / "data")


def test_all_files_that_break_off_are_named_at_once_with_what_to_do(data: Path):
    for name in ("dark/00.png", "light/01.jpg"):
        cut_off(data / name)
    message = (
        r"2 of 24 files cannot be read: .*00\.png: truncated or damaged PNG.*01\.jpg: truncated or "
        r"damaged JPEG.* allow it with --set max_unreadable=2"
    )
    with pytest.raises(DataError, match=message):
        opened(data, photos.Heard(), max_unreadable="1")


def test_files_that_break_off_are_named_with_those_that_are_no_images(data: Path):
    """So that following the advice is not refused again."""
    cut_off(data / "light" / "01.jpg")
    (data / "dark" / "01.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"2 of 24 files .* with --set max_unreadable=2"):
        opened(data, photos.Heard())


def test_files_that_break_off_may_be_left_out_too(data: Path):
    heard, whole = photos.Heard(), opened(data, photos.Heard())
    cut_off(data / "dark" / "00.png")
    (data / "dark" / "01.jpg").write_bytes(b"nothing")
    images = opened(data, heard, max_unreadable="2")
    left = {item.path.name + item.labels[0]: item.part for item in images.dataset.items}
    before = {item.path.name + item.labels[0]: item.part for item in whole.dataset.items}
    assert (len(left), len(images.decoded.pixels), len(images.enlarged.pixels)) == (22, 22, 22)
    assert left.items() <= before.items()
    assert "2 unreadable files left out" in str(heard)
    assert len(images.audit.unreadable) == 2


@pytest.fixture
def tested(tmp_path: Path) -> Path:
    """With a test part."""
    photos.folder(tmp_path / "data" / "train", per_class=8)
    photos.folder(tmp_path / "data" / "valid", 4, classes={"dark": 80, "light": 170})
    photos.folder(tmp_path / "data" / "test", 4, classes={"dark": 70, "light": 180})
    return tmp_path / "data"


def test_a_test_image_that_breaks_off_is_named_in_the_beginning_and_not_in_the_end(tested: Path):
    cut_off(tested / "test" / "dark" / "00.png")
    with pytest.raises(DataError, match=r"1 of 32 files.*test/dark/00\.png: truncated"):
        opened(tested, photos.Heard())


def test_pictures_that_a_training_passes_over_are_reported(data: Path):
    (data / "dark" / "scan.tif").write_bytes(b"")
    heard = photos.Heard()
    opened(data, heard)
    assert "not JPEG, PNG or WebP; save them as PNG: 1" in str(heard)
    assert "which ones: unfreeze data audit " in str(heard)


def test_the_command_that_is_named_finds_what_the_training_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Two images that differ only beside the square that a training with these settings sees."""
    data, heard = photos.folder(tmp_path / "my data"), photos.Heard()
    wide = np.random.default_rng(0).integers(0, 255, (36, 90, 3), np.uint8)
    for name, border in (("a.png", 0), ("b.png", 255)):
        wide[:, :20] = border
        Image.fromarray(wide).save(data / "dark" / name)
    opened(data, heard, valid_fraction="0.4")
    near = "near-duplicate images in "
    said = next(str(event) for event in heard if near in str(event))
    told = next(str(event) for event in heard if "which ones: " in str(event))
    command = re.search(r"unfreeze (data audit .*valid_fraction=0\.4.*size=32)", told)
    assert command
    assert main([*shlex.split(command[1]), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "my data" in told
    assert near in printed
    assert re.sub(r".*(near-dup[^']*?: \d+).*", r"\1", said) in printed


def test_the_command_that_is_named_has_columns_as_they_are_set():
    command = audit_command(Path("t.csv"), read_settings({"label_columns": "rust,scab"}))
    assert command.endswith("--set label_columns=rust,scab")


def test_what_is_learnt_from_and_tested_by_is_reported(tested: Path):
    shutil.copy(tested / "train" / "dark" / "00.png", tested / "test" / "dark" / "again.png")
    heard = photos.Heard()
    opened(tested, heard)
    assert "duplicate images in more than one part, which inflates the score: 1" in str(heard)


@quiet
def test_nothing_that_is_learnt_or_scored_depends_on_the_test_part(tested: Path, tmp_path: Path):
    """Other test images, with other labels: of all that comes of it only their answers differ."""
    told: list[tuple[bytes, dict[str, float], str]] = []
    for name in ("one", "two"):
        heard = photos.Heard()
        assignment = photos.assignment(tmp_path / name, tested, keep="best", judge_share="0.3")
        bundle, _ = train(assignment, heard.append)
        metrics = {key: value for key, value in bundle.metrics.items() if "_test" not in key}
        figures = json.loads((assignment.stage / "report" / "report.json").read_text())
        story = [figures[key] for key in ("learning_rates", "history", "galleries", "calibration")]
        told.append(((assignment.run / NETWORK).read_bytes(), metrics, json.dumps(story)))
        shutil.rmtree(tested / "test")
        photos.folder(tested / "test", 3, classes={"light": 40, "dark": 220})
    assert told[0] == told[1]


@pytest.mark.parametrize("told", [{"size": "8"}, {"size": "32", "sizes": "8,32"}])
def test_a_size_that_the_network_does_not_take_is_refused_before_images_are_read(
    tmp_path: Path, told: dict[str, str]
):
    heard = photos.Heard()
    asked = photos.assignment(tmp_path, tmp_path / "nowhere", backbone="test_vit", **told)
    with pytest.raises(BadRequest, match=r"test_vit does not take 8 x 8 pixels: .*another --size"):
        train(asked, heard.append)
    assert not heard
