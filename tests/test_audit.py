"""`unfreeze data audit`: what is wrong with a data set is found, told and shown."""

import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import photos
import pytest
from PIL import Image

from registry.images import ImageSpec, prepare
from training.data.audit import Audit, audit_source
from training.data.items import Item
from training.data.near_duplicates import SIDE, alike, look_at
from training.data.problems import LISTED, Problem, repeated
from training.report.audit_page import figures, write_audit
from training.settings import Settings
from unfreeze.cli import main

SPEC = ImageSpec(size=4 * SIDE, crop="squash")


def found(audit: Audit) -> dict[str, Problem]:
    return {problem.kind: problem for problem in audit.problems}


def names(audit: Audit, kind: str) -> list[list[str]]:
    return [[audit.name(row) for row in rows] for rows in found(audit)[kind].rows]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return photos.folder(tmp_path / "data", per_class=12)


def test_nothing_is_found_where_nothing_is_wrong(data: Path):
    audit = audit_source(data, Settings())
    assert not audit.problems
    assert audit.counts["dark"].total() == 12
    assert {item.part for item in audit.items} == {"train", "valid"}


def test_files_that_break_off_behind_their_header_are_found(data: Path):
    whole = (data / "dark" / "00.png").read_bytes()
    (data / "dark" / "00.png").write_bytes(whole[: len(whole) // 2])
    (data / "dark" / "01.jpg").write_bytes(b"")
    (unreadable,) = audit_source(data, Settings()).problems
    assert unreadable.severe
    assert "00.png: truncated or damaged PNG" in unreadable.files[0]
    assert "01.jpg: empty" in unreadable.files[1]


def test_labels_that_only_a_computer_tells_apart_are_remarked_on(data: Path):
    for name in ("Dark", "caf\u00e9", "cafe\u0301"):
        photos.folder(data, per_class=8, classes={name: 100 + len(name) + ord(name[0])})
    (misnamed,) = (one for one in audit_source(data, Settings()).problems if one.kind == "misnamed")
    assert "'Dark', 'dark'; 'cafe\u0301', 'caf\u00e9'; if they are one class" in misnamed.text
    assert not misnamed.severe


def test_class_folders_without_images_are_remarked_on(data: Path):
    (data / "empty").mkdir()
    (data / "empty" / "Thumbs.db").write_bytes(b"")
    (problem,) = audit_source(data, Settings()).problems
    assert problem.text == f"class folders without a JPEG, PNG or WebP image: {data / 'empty'}"
    photos.folder(data.parent / "parted" / "train")
    photos.folder(data.parent / "parted" / "valid", 2, classes={"dark": 61, "light": 191})
    (data.parent / "parted" / "test").mkdir()
    assert "empty" not in found(audit_source(data.parent / "parted", Settings()))


def test_what_systems_leave_upper_case_endings_and_blanks_are_no_trouble(data: Path):
    for place in (data, data / "dark", data / "light"):
        (place / ".DS_Store").write_bytes(b"")
        (place / "Thumbs.db").write_bytes(b"")
    for path in sorted((data / "dark").glob("*.jpg")):
        path.rename(path.with_name(f"a {path.stem}.JPG"))
    audit = audit_source((data / "dark").parent.rename(data.parent / "my data"), Settings())
    assert not audit.problems
    assert audit.counts["dark"].total() == 12


def test_pictures_in_other_formats_are_reported_and_not_passed_over_in_silence(data: Path):
    for name in ("scan.TIFF", "old.bmp"):
        Image.new("L", (40, 40)).save(data / "dark" / name)
    (data / "notes.txt").write_text("not a picture")
    audit = audit_source(data, Settings())
    (told,) = audit.problems
    assert told.text.startswith("images skipped because they are not JPEG, PNG or WebP; save")
    assert told.text.endswith(": 2")
    assert [Path(file).name for file in told.files] == ["old.bmp", "scan.TIFF"]
    assert len(audit.items) == 24


def test_the_same_image_with_two_labels_is_a_conflict(data: Path):
    shutil.copy(data / "dark" / "00.png", data / "light" / "copy.png")
    audit = audit_source(data, Settings())
    assert names(audit, "equal conflict") == [["dark/00.png", "light/copy.png"]]
    assert found(audit)["equal conflict"].severe


def test_a_file_that_a_table_names_twice_keeps_both_of_its_labels(data: Path):
    files = sorted(data.rglob("*.*"))
    rows = [f"{file},{file.parent.name}" for file in files] + [f"{files[0]},light"]
    (data / "labels.csv").write_text("\n".join(["file,label", *rows]))
    audit = audit_source(data / "labels.csv", Settings())
    assert names(audit, "equal conflict") == [["dark/00.png", "dark/00.png"]]


def test_a_file_that_a_table_names_for_training_and_testing_is_a_leak(data: Path):
    files = sorted(data.rglob("*.*"))
    rows = [
        f"{file},{file.parent.name},{('train', 'valid')[n % 4 == 0]}"
        for n, file in enumerate(files)
    ]
    rows += [f"{files[1]},dark,test", f"{files[5]},,test"]
    (data / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
    audit = audit_source(data / "labels.csv", Settings())
    assert len(found(audit)["equal leak"].rows) == 2
    assert [item.part for item in audit.items].count("test") == 2
    assert audited(data / "labels.csv", "--out", data.parent / "out", "--strict") == 1


def test_names_with_spaces_that_would_be_taken_for_several_labels_are_a_problem(data: Path):
    rows = [f"{file},rather {file.parent.name}" for file in sorted(data.rglob("*.*"))]
    (data / "labels.csv").write_text("\n".join(["file,label", *rows]))
    problem = found(audit_source(data / "labels.csv", Settings()))["refused"]
    assert problem.severe
    assert "a training would be refused: " in problem.text
    assert "give --set task=single if a name has a space in it, or --set task=multi" in problem.text
    (remark,) = audit_source(data / "labels.csv", Settings(task="multi")).problems
    assert remark.text == (
        "2 labels of one image are 'rather', 'dark'; if that is one name with spaces in it, set "
        "task=single"
    )
    assert not audit_source(data / "labels.csv", Settings(task="single")).problems


def test_a_group_that_is_also_among_the_test_images_is_a_leak(tmp_path: Path):
    rows = ["file,label,split,patient"]
    for seed, (part, patient) in enumerate(zip(("train", "valid", "test"), "aba", strict=True)):
        for label in "xy":
            path = photos.photo(tmp_path / f"{label}{seed}.png", 40 + 50 * seed, ord(label) + seed)
            rows.append(f"{path.name},{label},{part},{patient}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    audit = audit_source(tmp_path / "labels.csv", Settings(group="patient"))
    assert names(audit, "torn") == [["x0.png", "x2.png"]]
    assert found(audit)["torn"].severe


def test_copies_in_one_class_are_worth_a_remark(data: Path):
    shutil.copy(data / "dark" / "00.png", data / "dark" / "copy.png")
    audit = audit_source(data, Settings())
    assert names(audit, "equal repeat") == [["dark/00.png", "dark/copy.png"]]
    assert not found(audit)["equal repeat"].severe


def test_a_rescaled_copy_in_another_part_is_a_leak(tmp_path: Path):
    photos.folder(tmp_path / "train", per_class=4)
    photos.folder(tmp_path / "valid", per_class=2, classes={"dark": 90, "light": 150})
    photos.folder(tmp_path / "test", per_class=2, classes={"dark": 80, "light": 160})
    scene().save(tmp_path / "train" / "dark" / "scene.png")
    for part in ("valid", "test"):
        scene().resize((300, 220)).save(tmp_path / part / "dark" / "larger.jpg")
    audit = audit_source(tmp_path, Settings())
    assert ["train/dark/scene.png", "valid/dark/larger.jpg"] in names(audit, "alike leak")
    assert names(audit, "equal leak") == [["valid/dark/larger.jpg", "test/dark/larger.jpg"]]


def test_tiny_huge_and_blank_pictures_are_remarked_on(data: Path):
    Image.new("RGB", (200, 100), "red").save(data / "dark" / "blank.png")
    photos.photo(data / "dark" / "small.png", 70, seed=90)
    with Image.open(data / "dark" / "small.png") as picture:
        picture.resize((20, 20)).save(data / "dark" / "small.png")
    Image.new("L", (9000, 5000)).save(data / "light" / "huge.png")
    audit = audit_source(data, Settings())
    assert names(audit, "tiny") == [["dark/small.png"]]
    assert names(audit, "huge") == [["light/huge.png"]]
    assert names(audit, "blank") == [["dark/blank.png"], ["light/huge.png"]]


def test_scans_of_twelve_bits_stored_in_sixteen_are_remarked_on(data: Path):
    """Of 16 bits the upper eight are what a network sees."""
    random = np.random.default_rng(0)
    for name, most in (("twelve", 2**12), ("sixteen", 2**16)):
        levels = random.integers(0, most, (12, 12), dtype=np.uint16).repeat(8, 0).repeat(8, 1)
        Image.fromarray(levels).save(data / "dark" / f"{name}.png")
    audit = audit_source(data, Settings())
    assert names(audit, "dim") == [["dark/twelve.png"]]
    assert "scale them to 16 bits: 1" in found(audit)["dim"].text


def test_small_and_unequal_classes_are_remarked_on(data: Path):
    photos.folder(data, per_class=40, classes={"many": 120})
    photos.folder(data, per_class=3, classes={"rare": 150})
    kinds = found(audit_source(data, Settings()))
    assert kinds["few"].text == "classes with fewer than 5 images: rare"
    assert kinds["uneven"].text.startswith("'many' has 40 images and 'rare' 3; consider balance")


def test_what_test_images_alone_are_called_is_no_class(tmp_path: Path):
    photos.folder(tmp_path / "train", per_class=12)
    photos.photo(tmp_path / "test" / "grey" / "a.png", 100, seed=9)
    photos.photo(tmp_path / "test" / "dark" / "b.png", 60, seed=8)
    audit = audit_source(tmp_path, Settings())
    assert list(audit.counts) == ["dark", "light"]
    assert audit.counts["dark"]["test"] == 1
    assert not audit.problems


def test_the_audit_says_why_a_training_would_not_begin(data: Path):
    shutil.rmtree(data / "light")
    (refused,) = audit_source(data, Settings()).problems
    assert "a training would be refused" in refused.text
    assert "needs at least two classes; found only 'dark'" in refused.text


def scene() -> Image.Image:
    """Smooth hills of light with some noise, as photographs have."""
    x, y = np.meshgrid(np.linspace(0, 1, 240), np.linspace(0, 1, 180))
    channels = [np.sin(5 * x + 3 * y), np.sin(9 * x * y), np.cos(7 * y - 2 * x)]
    noise = np.random.default_rng(0).normal(0, 6, (180, 240, 3))
    pixels = 128 + 90 * np.stack(channels, axis=-1) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


CHANGES = {
    "jpeg": lambda image: encode(image, "JPEG", quality=60),
    "smaller": lambda image: encode(image.resize((130, 100)), "PNG"),
    "brighter": lambda image: encode(image.point(lambda level: min(255, level + 12)), "PNG"),
    "webp": lambda image: encode(image, "WEBP", quality=60),
}


def encode(image: Image.Image, kind: str, **options: int) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("change", CHANGES)
def test_copies_look_alike_and_others_do_not(change: str):
    image = scene()
    other = image.transpose(Image.Transpose.ROTATE_180)
    encoded = [encode(image, "PNG"), encode(other, "PNG"), CHANGES[change](image)]
    looks = [look_at(prepare(content, SPEC)) for content in encoded]
    assert [(row, others.tolist()) for row, others in alike(looks)] == [(0, [2])]


def test_blank_pictures_are_like_no_other():
    encoded = [encode(Image.new("L", (50, 50), level), "PNG") for level in (10, 10, 200)]
    assert not list(alike([look_at(prepare(content, SPEC)) for content in encoded]))


def test_of_a_camera_that_stands_still_all_pairs_are_counted_and_the_first_are_listed():
    n, look = 90, np.asarray(scene().convert("L").resize((SIDE, SIDE)))
    items = [
        Item(Path(f"{row:02d}.png"), ("ab"[row % 2],), ("train", "valid")[row % 3 == 0], str(row))
        for row in range(n)
    ]
    items[1] = replace(items[1], labels=())
    found = {problem.kind: problem for problem in repeated(items, [look] * n)}
    expected: Counter[str] = Counter()
    for one, other in combinations(items, 2):
        if one.labels != other.labels and one.labels and other.labels:
            expected["alike conflict"] += 1
        else:
            expected["alike leak" if one.part != other.part else "alike repeat"] += 1
    assert {kind: int(told.text.split(": ")[1]) for kind, told in found.items()} == expected
    for told in found.values():
        assert len(told.rows) == LISTED
        assert told.n_unlisted == expected[told.kind] - LISTED
    page = figures(Audit(Path(), tuple(items), (look,) * n))["problems"]
    assert [len(told["files"]) + told["unlisted"] for told in page[:3]] == [
        expected[told["kind"]] for told in page[:3]
    ]


# The command


def audited(*arguments: object) -> int:
    return main(["data", "audit", *map(str, arguments)])


def test_the_command_prints_the_findings_and_writes_a_page_that_needs_nothing_else(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copy(data / "dark" / "00.png", data / "light" / "copy<b>.png")
    assert audited(data, "--out", tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert "25 images of 2 classes" in told
    assert "PROBLEM  duplicate images with different labels: 1" in told
    page = (tmp_path / "out" / "audit.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("data:image/png;base64,") == 2
    assert "copy&lt;b&gt;.png" in page
    assert "<h2>Duplicate images with different labels: 1</h2>" in page
    assert "http" not in page
    figures = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert figures["problems"][0]["files"] == [["dark/00.png", "light/copy<b>.png"]]
    assert {name: sum(parts.values()) for name, parts in figures["classes"].items()} == {
        "dark": 12,
        "light": 13,
    }
    assert (figures["sizes"], figures["modes"]) == ({"40x36": 25}, {"RGB": 25})
    assert figures["formats"] == {"PNG": 9, "JPEG": 8, "WEBP": 8}
    for picture in ("audit_classes.png", "audit_sizes.png"):
        with Image.open(tmp_path / "out" / picture) as shown:
            assert (np.asarray(shown.convert("L")) < 250).mean() > 0.01


def test_of_many_sizes_the_most_frequent_are_named(data: Path, tmp_path: Path):
    for side in (50, 60, 70):
        Image.new("L", (side, side), side).save(data / "dark" / f"{side}.png")
    assert audited(data, "--out", tmp_path / "out") == 0
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "sizes 40x36 (24), 50x50 (1), 60x60 (1) and others.</p>" in page


def test_strict_fails_on_problems_and_not_on_remarks(data: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copy(data / "dark" / "00.png", data / "dark" / "copy.png")
    assert audited(data, "--out", out, "--strict") == 0
    shutil.copy(data / "dark" / "00.png", data / "light" / "copy.png")
    assert audited(data, "--out", out, "--strict") == 1
    assert audited(data, "--out", out) == 0


@pytest.mark.parametrize("below", ["", "out"])
def test_a_file_in_the_place_of_the_report_is_an_error_that_names_it(
    data: Path, capsys: pytest.CaptureFixture[str], below: str
):
    report = photos.photo(data.parent / "report.png", 100, 0) / below
    assert audited(data, "--out", report) == 2
    assert f"--out {report}: is a file, or lies below one; name a folder" in capsys.readouterr().err


def test_of_packed_images_the_report_alone_is_left(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    images = [path.read_bytes() for path in sorted(data.rglob("*.*"))]
    labels = [path.parent.name for path in sorted(data.rglob("*.*"))]
    (tmp_path / "packed").mkdir()
    (tmp_path / "temporary").mkdir()
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "packed" / "a.parquet")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert audited(tmp_path / "packed", "--out", tmp_path / "out") == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"audit.html", "audit.json", "audit_classes.png", "audit_sizes.png"}
    assert not list((tmp_path / "temporary").iterdir())
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["a.parquet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["nowhere", "--set", "valid=1"], "no setting is called 'valid'"),
        (["nowhere", "--set", "valid"], "--set valid: write it as KEY=VALUE"),
        (["nowhere", "--set", " =1"], "--set  =1: write it as KEY=VALUE"),
    ],
)
def test_wrong_usage_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert audited(*arguments) == 2
    assert message in capsys.readouterr().err


def test_an_audit_does_not_load_torch():
    modules = "sys, training.data.audit, training.report.audit_page"
    code = f"import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_letters_that_no_font_has_are_no_warning(tmp_path: Path):
    data = photos.folder(tmp_path / "data", 3, {"日本": 60, "中国": 190})
    write_audit(audit_source(data, Settings()), tmp_path / "out")
    assert "日本" in (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
