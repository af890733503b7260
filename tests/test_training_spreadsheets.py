"""Tables as spreadsheets on Windows write them."""

from collections.abc import Callable
from pathlib import Path

import photos
import pytest

from registry.errors import DataError
from training.data.dataset import read_dataset

WRITTEN: dict[str, Callable[[str], str]] = {
    "backslashes": lambda name: name.replace("/", "\\"),
    "blanks around it": lambda name: f" {name} ",
}


def write(table: Path, *lines: str) -> Path:
    table.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    return table


def rows(folder: Path, written: Callable[[str], str] = str) -> list[str]:
    """`file;label` of every photograph in `folder`."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    return [f"{written(path.as_posix())};{path.parent.name}" for path in files]


@pytest.mark.parametrize("how", WRITTEN)
def test_file_names_are_found_as_they_are_written(tmp_path: Path, how: str):
    named = rows(photos.folder(tmp_path, per_class=4), WRITTEN[how])
    assert len(read_dataset(write(tmp_path / "labels.csv", "file;label", *named)).items) == 8


def test_a_file_whose_name_has_a_backslash_is_found(tmp_path: Path):
    data = photos.folder(tmp_path, per_class=4)
    (data / "dark" / "00.png").rename(data / "dark" / "a\\b.png")
    dataset = read_dataset(write(data / "labels.csv", "file;label", *rows(data)))
    assert data / "dark" / "a\\b.png" in [item.path for item in dataset.items]


def test_a_row_of_blanks_is_no_row(tmp_path: Path):
    named = rows(photos.folder(tmp_path, per_class=4))
    table = write(tmp_path / "labels.csv", "file;label", *named, " ; ")
    assert len(read_dataset(table).items) == 8


def test_the_line_that_names_the_separator_is_no_header(tmp_path: Path):
    named = rows(photos.folder(tmp_path, per_class=4))
    table = write(tmp_path / "labels.csv", "sep=;", "Datei;Klasse", *named)
    assert read_dataset(table).labels == ("dark", "light")
    write(table, "sep=;", "file;label", *named, "nowhere.jpg;dark")
    with pytest.raises(DataError, match=r"line 11: no such file: nowhere\.jpg"):
        read_dataset(table)


@pytest.mark.parametrize("images", ["", "images"])
def test_a_folder_with_a_table_in_it_is_refused_with_the_tables_name(tmp_path: Path, images: str):
    for number in range(4):
        photos.photo(tmp_path / images / f"{number}.jpg", 60 * number, number)
    write(tmp_path / "labels.csv", "file,label")
    with pytest.raises(DataError, match=r"; if labels\.csv names the images, give .*/labels\.csv$"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("flags", [("1", "0"), ("1.0", "0.0")])
def test_a_column_for_each_class_is_not_taken_for_one_of_labels(
    tmp_path: Path, flags: tuple[str, str]
):
    """As competitions have it: the classes would be 0 and 1, of the first column alone."""
    photos.folder(tmp_path, per_class=4)
    named = [f"{row.partition(';')[0]};{flags[n % 2]};{flags[1 - n % 2]};40"
             for n, row in enumerate(rows(tmp_path))]  # fmt: skip
    table = write(tmp_path / "labels.csv", "image;rust;scab;width", *named)
    with pytest.raises(DataError, match=r"the columns rust, scab have only 0 and 1 in them, as if"):
        read_dataset(table)
    write(table, "image;label;scab;width", *named)
    assert len(read_dataset(table).labels) == 2


def test_a_single_column_of_0_and_1_has_the_labels(tmp_path: Path):
    photos.folder(tmp_path, per_class=4)
    named = [f"{row.partition(';')[0]};{n % 2}" for n, row in enumerate(rows(tmp_path))]
    table = write(tmp_path / "labels.csv", "id;has_cactus", *named)
    assert read_dataset(table).labels == ("0", "1")


def test_held_out_images_may_be_marked_by_fractions(tmp_path: Path):
    """As pandas writes a column of numbers in which some were missing."""
    photos.folder(tmp_path, per_class=4)
    named = [f"{row};{float(n % 2)}" for n, row in enumerate(rows(tmp_path))]
    dataset = read_dataset(write(tmp_path / "labels.csv", "file;label;is_valid", *named))
    assert [item.part for item in dataset.items] == ["train", "valid"] * 4


def test_a_name_that_is_too_long_for_a_file_is_told_with_its_line(tmp_path: Path):
    photos.folder(tmp_path, per_class=4)
    table = write(tmp_path / "labels.csv", "file;label", *rows(tmp_path), f"{'a' * 300};dark")
    with pytest.raises(DataError, match="line 10: no such file: aaa"):
        read_dataset(table)
