"""Which files are learnt from, which are held out, and what is wrong with the rest."""

import csv
import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import photos
import pytest

from registry.errors import DataError
from training.data.dataset import Dataset, check_listed, read_dataset
from training.data.folders import passed_over
from training.data.items import Layout, SplitRule
from training.data.split import read_split, write_split
from training.reading_settings import read_settings


def parts(dataset: Dataset) -> dict[str, str | None]:
    return {item.path.name + item.labels[0]: item.part for item in dataset.items}


def test_class_folders_are_split_by_class_and_seed(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=10)
    rule = SplitRule("stratified", valid_fraction=0.3, seed=1)
    dataset = read_dataset(data, rule=rule)
    held_out = [item.labels[0] for item in dataset.items if item.part == "valid"]
    assert dataset.labels == ("dark", "light")
    assert (held_out.count("dark"), held_out.count("light")) == (3, 3)
    assert parts(dataset) == parts(read_dataset(data, rule=rule))
    assert parts(dataset) != parts(read_dataset(data, rule=replace(rule, seed=2)))


def test_given_parts_are_kept(tmp_path: Path):
    photos.folder(tmp_path / "train", per_class=4)
    photos.folder(tmp_path / "valid", per_class=6)
    for file in list((tmp_path / "train").rglob("0*.*")):
        (tmp_path / "valid" / file.parent.name / file.name).unlink()
    dataset = read_dataset(tmp_path)
    assert (len(dataset.rows("train")), len(dataset.rows("valid"))) == (8, 4)


def test_files_are_in_the_order_of_their_names_however_they_are_listed(tmp_path: Path):
    photos.folder(tmp_path / "train", per_class=4)
    photos.folder(tmp_path / "valid", 2, classes={"light": 200, "dark": 70})
    table = write_csv(tmp_path / "labels.csv", tmp_path / "train")
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *reversed(rows)]))
    for source in (tmp_path, table):
        paths = [item.path for item in read_dataset(source).items]
        assert paths == sorted(paths)


def test_a_csv_names_files_labels_and_perhaps_parts(tmp_path: Path):
    photos.folder(tmp_path / "images", per_class=5)
    table = write_csv(tmp_path / "labels.csv", tmp_path / "images")
    dataset = read_dataset(table, rule=SplitRule("stratified", valid_fraction=0.4))
    assert dataset.task == "single"
    assert (len(dataset.rows("train")), len(dataset.rows("valid"))) == (6, 4)


def test_several_labels_in_a_row_make_the_task_multi_label(tmp_path: Path):
    photos.folder(tmp_path / "images", per_class=5)
    table = write_csv(tmp_path / "labels.csv", tmp_path / "images")
    noisy = table.read_text().replace(",dark", ",dark noisy").replace(",light", ",light noisy", 2)
    table.write_text(noisy)
    dataset = read_dataset(table)
    assert (dataset.task, dataset.labels) == ("multi", ("dark", "light", "noisy"))
    assert dataset.targets.sum() == 17


@pytest.mark.parametrize(
    ("dark", "light", "reason"),
    [
        ("great tit", "robin", "the labels 'great' and 'tit' only ever occur together"),
        ("blue tit", "great tit", "the labels 'blue' and 'tit' of one row may be a single name"),
    ],
)
def test_names_with_spaces_are_not_taken_for_several_labels(
    tmp_path: Path, dark: str, light: str, reason: str
):
    photos.folder(tmp_path / "images", per_class=5)
    table = write_csv(tmp_path / "labels.csv", tmp_path / "images")
    table.write_text(table.read_text().replace(",dark", f",{dark}").replace(",light", f",{light}"))
    message = f"{reason}; give --set task=single if a name has a space in it, or --set task=multi"
    with pytest.raises(DataError, match=message):
        read_dataset(table)
    with pytest.raises(DataError, match=message):
        check_listed(table, Layout(), "auto")
    single = read_settings({"task": "single"}).layout()
    assert read_dataset(table, task="single", layout=single).labels == (dark, light)
    several = read_dataset(table, task="multi")
    assert (several.task, len(several.labels)) == ("multi", 3)


def test_labels_with_a_separator_of_their_own_are_several_however_they_occur(tmp_path: Path):
    photos.folder(tmp_path / "images", per_class=5)
    table = write_csv(tmp_path / "labels.csv", tmp_path / "images")
    table.write_text(table.read_text().replace(",dark", ",great tit;noisy"))
    assert read_dataset(table, layout=Layout(separator=";")).labels == (
        "great tit",
        "light",
        "noisy",
    )


def test_the_task_can_be_set_instead_of_found(tmp_path: Path):
    photos.folder(tmp_path / "images", per_class=5)
    table = write_csv(tmp_path / "labels.csv", tmp_path / "images")
    assert read_dataset(table, task="multi").task == "multi"
    table.write_text(table.read_text().replace(",dark", ",dark noisy"))
    with pytest.raises(DataError, match="2 labels in a single-label task"):
        read_dataset(table, task="single")


def test_known_images_keep_their_part_when_data_grows(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=8)
    rule = SplitRule("stratified", valid_fraction=0.25)
    before = read_dataset(data, rule=rule)
    write_split(before.items, data, tmp_path / "split.csv")
    photos.folder(data, per_class=16)
    after = read_dataset(data, rule=rule, known_parts=read_split(tmp_path / "split.csv"))
    assert len(after.items) == 32
    assert parts(before).items() <= parts(after).items()


def test_equal_images_share_their_part(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=6)
    for number in range(6):
        shutil.copy(data / "dark" / "00.png", data / "dark" / f"copy{number}.png")
    dataset = read_dataset(data, rule=SplitRule(valid_fraction=0.4))
    copies = {item.part for item in dataset.items if item.sha256 == dataset.items[0].sha256}
    assert len(copies) == 1


def test_a_class_with_one_image_learns_from_it(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=8)
    photos.photo(data / "rare" / "only.png", 120, seed=0)
    dataset = read_dataset(data)
    (only,) = [item for item in dataset.items if item.labels == ("rare",)]
    assert only.part == "train"


def test_a_class_missing_from_valid_keeps_its_place_and_is_reported(tmp_path: Path):
    photos.folder(tmp_path / "train", classes={"dark": 60, "grey": 120, "light": 190})
    photos.folder(tmp_path / "valid", per_class=13)
    for name in ("dark", "light"):
        for file in (tmp_path / "train" / name).iterdir():
            (tmp_path / "valid" / name / file.name).unlink()
    dataset = read_dataset(tmp_path)
    assert dataset.labels == ("dark", "grey", "light")
    assert dataset.targets[dataset.rows("valid")].sum(axis=0).tolist() == [1, 0, 1]
    assert "'grey' has no held-out images, so the scores ignore them" in dataset.summary()


def test_several_classes_missing_from_valid_are_reported_in_one_sentence(tmp_path: Path):
    photos.folder(tmp_path / "train", classes={"dark": 60, "grey": 120, "light": 190})
    photos.photo(tmp_path / "valid" / "dark" / "new.png", 60, seed=999)
    summary = read_dataset(tmp_path).summary()
    assert "'grey' and 1 other have no held-out images, so the scores ignore them" in summary


@pytest.mark.parametrize("name", ["train", "Train", "TRAIN"])
def test_parts_are_known_whatever_their_capitals(tmp_path: Path, name: str):
    photos.folder(tmp_path / name, classes={"dark": 60, "light": 190})
    photos.folder(tmp_path / "Validation", per_class=3, classes={"dark": 70, "light": 180})
    dataset = read_dataset(tmp_path)
    assert dataset.labels == ("dark", "light")
    assert len(dataset.rows("valid")) == 6


def test_parts_may_be_called_training_validation_and_testing(tmp_path: Path):
    photos.folder(tmp_path / "training", per_class=4)
    photos.folder(tmp_path / "validation", per_class=3, classes={"dark": 70, "light": 180})
    photos.folder(tmp_path / "testing", per_class=2, classes={"dark": 80, "light": 170})
    dataset = read_dataset(tmp_path)
    assert dataset.labels == ("dark", "light")
    assert (len(dataset.rows("train")), len(dataset.rows("valid")), len(dataset.tests)) == (8, 6, 4)


@pytest.mark.parametrize("names", [("val", "valid"), ("Test", "test")])
def test_two_folders_for_one_part_are_refused(tmp_path: Path, names: tuple[str, str]):
    photos.folder(tmp_path / "train", per_class=4)
    for number, name in enumerate(names):
        photos.folder(tmp_path / name, per_class=2, classes={"dark": 70 + number, "light": 180})
    with pytest.raises(DataError, match=f"{names[0]}/ and {names[1]}/ are names of one part; put"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("names", [("valid", "test"), ("Validation", "testing"), ("val",)])
def test_parts_without_one_to_train_on_are_no_classes(tmp_path: Path, names: tuple[str, ...]):
    for number, name in enumerate(names):
        classes = {"dark": 60 + number, "light": 190 + number}
        photos.folder(tmp_path / "data" / name, per_class=3, classes=classes)
    message = "by name are parts of a data set, and no train/; call the part to train on train"
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path / "data")


@pytest.mark.parametrize("names", [("Train_images", "holdout"), ("training", "validation", "more")])
def test_folders_named_like_parts_that_hold_the_same_folders_are_no_classes(
    tmp_path: Path, names: tuple[str, ...]
):
    """Unless they are put into train/."""
    data = tmp_path / "data"
    for number, name in enumerate(names):
        classes = {"dark": 60 + number, "light": 180 + number}
        photos.folder(data / name, per_class=4, classes=classes)
    message = f"{names[0]}/, {names[1]}/ hold the same folders, such as dark/; call them train and"
    with pytest.raises(DataError, match=message):
        read_dataset(data)
    data.rename(tmp_path / "train")
    assert read_dataset(tmp_path).labels == tuple(sorted(names))


def test_classes_may_be_sorted_by_the_same_thing(tmp_path: Path):
    for number, name in enumerate(["robin", "tit", "test"]):
        classes = {"female": 60 + number, "male": 190 + number}
        photos.folder(tmp_path / name, per_class=4, classes=classes)
    assert read_dataset(tmp_path).labels == ("robin", "test", "tit")


@pytest.mark.parametrize(
    "folders",
    [
        ("gaming", "training", "testing"),
        ("bus", "train", "testing"),
        ("bus", "car", "training/red", "training/blue"),
    ],
)
def test_classes_may_be_called_training_and_testing_beside_others(
    tmp_path: Path, folders: tuple[str, ...]
):
    photos.folder(tmp_path, 4, {name: 60 + 40 * n for n, name in enumerate(folders)})
    labels = {folder.split("/")[0] for folder in folders}
    assert read_dataset(tmp_path).labels == tuple(sorted(labels))


def test_classes_may_each_have_a_folder_of_the_same_name(tmp_path: Path):
    """As Tiny ImageNet has images/ in every class."""
    for name, brightness in photos.CLASSES.items():
        photos.folder(tmp_path / name, per_class=6, classes={"images": brightness})
    assert read_dataset(tmp_path).labels == ("dark", "light")


def test_what_is_held_out_is_drawn_where_only_train_and_test_are_given(tmp_path: Path):
    photos.folder(tmp_path / "train", per_class=10)
    photos.folder(tmp_path / "test", per_class=3, classes={"dark": 70, "light": 180})
    dataset = read_dataset(tmp_path)
    assert 0 < len(dataset.rows("valid")) < 20
    assert {item.path.parts[-3] for item in dataset.items} == {"train"}
    assert len(dataset.tests) == 6


def test_a_class_may_be_called_train(tmp_path: Path):
    photos.folder(tmp_path, per_class=6, classes={"bus": 60, "train": 190})
    assert read_dataset(tmp_path).labels == ("bus", "train")


def test_a_folder_around_the_classes_is_taken_for_what_it_may_be(tmp_path: Path):
    photos.folder(tmp_path / "unpacked" / "photos", per_class=4)
    with pytest.raises(
        DataError, match=r"only 'photos'; if its folders are the classes, give .*d/p"
    ):
        read_dataset(tmp_path / "unpacked")


def test_linked_folders_are_looked_into_and_a_link_in_a_circle_ends(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=6)
    photos.photo(tmp_path / "more" / "a.png", 60, seed=9)
    (data / "dark" / "more").symlink_to(tmp_path / "more")
    (data / "dark" / "circle").symlink_to(data / "dark")
    files = [item.path.relative_to(data).as_posix() for item in read_dataset(data).items]
    assert len(files) == 13
    assert "dark/more/a.png" in files


def test_what_is_passed_over_is_not_looked_for_behind_links(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=6)
    (tmp_path / "secret").mkdir()
    for folder in (tmp_path / "secret", data / "dark"):
        (folder / "scan.tif").touch()
    (data / "dark" / "link").symlink_to(tmp_path / "secret")
    assert passed_over(data) == (data / "dark" / "scan.tif",)


def test_a_folder_that_cannot_be_looked_into_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data, scandir = photos.folder(tmp_path, per_class=6), os.scandir
    photos.photo(data / "dark" / "closed" / "00.png", 60, seed=9)

    def as_another_user(path: str) -> Any:  # whoever runs the tests may be allowed everything
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", as_another_user)
    with pytest.raises(DataError, match=r"dark/closed: cannot be listed \(Permission denied"):
        read_dataset(data)


def test_hidden_files_and_folders_are_no_images(tmp_path: Path):
    photos.folder(tmp_path, per_class=6)
    (tmp_path / "dark" / "._00.png").write_bytes(b"\0\5\x16\7 macOS")
    photos.photo(tmp_path / "dark" / ".ipynb_checkpoints" / "00-checkpoint.png", 60, seed=9)
    assert len(read_dataset(tmp_path).items) == 12


WRONG = {
    "one class": (
        lambda data: shutil.rmtree(data / "light"),
        "a classifier needs at least two classes; found only 'dark'",
    ),
    "unreadable file": (
        lambda data: (data / "dark" / "00.png").write_bytes(b"hello, world"),
        r"1 of 12 files cannot be read: .*00\.png: not an image: 12 bytes that begin with "
        r"b'hello, world'; use JPEG, PNG or WebP\. Repair or remove them, or allow it with "
        "--set max_unreadable=1",
    ),
    "no images": (
        lambda data: [shutil.rmtree(data / name) for name in ("dark", "light")],
        "no images; put JPEG, PNG or WebP files into one folder for each class",
    ),
    "no class folders": (
        lambda data: [path.rename(data / path.name) for path in data.glob("*/*")],
        "6 images, but none in a class folder; put JPEG",
    ),
    "no valid": (
        lambda data: photos.folder(data / "train"),
        "train/ stands beside dark/, but there is no valid/; rename the held-out part",
    ),
    "a competition's folders": (
        lambda data: [
            (data / before).rename(data / after)
            for before, after in (("dark", "train"), ("light", "test"))
        ],
        "train: no class folders; .* name them in a CSV of file,label, with .* images=train; or, "
        "if train is a class itself, put all class folders into one called train",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_data_that_cannot_be_trained_on_is_refused_with_what_to_do(tmp_path: Path, what: str):
    spoil, message = WRONG[what]
    data = photos.folder(tmp_path / "data", per_class=6)
    spoil(data)
    with pytest.raises(DataError, match=message):
        read_dataset(data)


def test_unreadable_files_may_be_left_out_when_allowed(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=6)
    (data / "dark" / "00.png").write_bytes(b"")
    dataset = read_dataset(data, max_unreadable=1)
    assert len(dataset.items) == 11
    assert "1 unreadable file left out" in dataset.summary()


def test_a_class_only_in_valid_is_refused(tmp_path: Path):
    photos.folder(tmp_path / "train", per_class=4)
    photos.folder(tmp_path / "valid", per_class=4, classes={"dark": 61, "grey": 120})
    with pytest.raises(DataError, match="'grey' has 4 held-out images and no training images"):
        read_dataset(tmp_path)


def test_copies_of_one_image_are_too_few_to_hold_any_out(tmp_path: Path):
    one = photos.photo(tmp_path / "one.png", 100, seed=0)
    for number in range(8):
        copy = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(one, copy)
    with pytest.raises(DataError, match=r"no held-out images among 1 different ones; add images$"):
        read_dataset(tmp_path / "data")


def test_one_image_to_learn_from_is_too_few(tmp_path: Path):
    photos.folder(tmp_path, per_class=1)
    rows = ("file,label,split", "dark/00.png,a b,train", "light/00.png,a b,valid")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match="one training image is too few; add another"):
        read_dataset(tmp_path / "labels.csv", task="multi")


def test_an_image_in_both_parts_is_refused(tmp_path: Path):
    photos.folder(tmp_path / "train", per_class=4)
    photos.folder(tmp_path / "valid", per_class=4)
    with pytest.raises(DataError, match="the same image is also among the training images"):
        read_dataset(tmp_path)


def test_files_outside_the_allowed_folders_are_refused(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=6)
    secret = photos.photo(tmp_path / "elsewhere" / "secret.png", 100, seed=5)
    (data / "dark" / "link.png").symlink_to(secret)
    with pytest.raises(DataError, match=r"link\.png: lies outside the folders"):
        read_dataset(data, within=[data])


def test_a_file_that_is_no_table_is_not_called_a_folder(tmp_path: Path):
    one = photos.photo(tmp_path / "one.png", 100, seed=0)
    with pytest.raises(DataError, match=r"one\.png: not a table; give a folder of class"):
        read_dataset(one)


def test_a_csv_that_names_a_missing_file_says_which_line(tmp_path: Path):
    (tmp_path / "labels.csv").write_text("file,label\nnothing.png,dark\n")
    with pytest.raises(DataError, match=r"labels\.csv, line 2: no such file: nothing\.png"):
        read_dataset(tmp_path / "labels.csv")


def write_csv(table: Path, images: Path) -> Path:
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label"])
        for path in sorted(images.rglob("*.*")):
            writer.writerow([path.relative_to(table.parent), path.parent.name])
    return table


def test_images_may_be_called_as_browsers_call_some_jpegs(tmp_path: Path):
    for path in photos.folder(tmp_path, per_class=6).rglob("*.jpg"):
        path.rename(path.with_suffix(".jfif" if path.parent.name == "dark" else ".JPE"))
    assert len(read_dataset(tmp_path).items) == 12


def test_files_that_are_no_images_by_their_names_are_told_of(tmp_path: Path):
    for path in photos.folder(tmp_path, per_class=2).rglob("*.*"):
        path.rename(path.with_suffix(""))
    with pytest.raises(
        DataError, match=r"no images: .*/dark/00 is none by the end of its name; pu"
    ):
        read_dataset(tmp_path)


def test_an_archive_is_refused_with_how_to_unpack_it(tmp_path: Path):
    (tmp_path / "photos.zip").touch()
    with pytest.raises(DataError, match="has to be unpacked first: unfreeze data fetch FILE --in"):
        read_dataset(tmp_path / "photos.zip")


@pytest.mark.parametrize("odd", ["dark/b\udce4r.png", "d\udce4rk/bar.png"])
def test_names_that_are_no_text_are_refused_before_and_not_after_the_training(
    tmp_path: Path, odd: str
):
    """A report could not name them, and ended in an error."""
    photos.folder(tmp_path, per_class=4)
    photos.photo(tmp_path / odd, 100, 1)
    with pytest.raises(DataError, match=r"1 of 9 file names is not in UTF-8, such as .*\\udce4r"):
        read_dataset(tmp_path)
    with pytest.raises(DataError, match="rename such files and folders"):
        check_listed(tmp_path, Layout(), "auto")
