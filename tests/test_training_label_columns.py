"""Tables with a column of 0 and 1 for each class."""

from pathlib import Path

import photos
import pytest
from test_training_spreadsheets import write

from registry.errors import DataError
from training.data.dataset import check_listed, columns_note, read_dataset
from training.data.items import Layout, Part
from training.reading_settings import read_settings
from training.settings import Settings

HEADER = "image,brown rust,scab,split"


def told(names: str = "brown rust,scab", **more: str) -> Settings:
    return read_settings({"label_columns": names} | more)


@pytest.fixture
def leaves(tmp_path: Path) -> Path:
    """Both, the first, the second and neither, three times."""
    for number in range(12):
        photos.photo(tmp_path / f"{number:02}.jpg", 20 * number, number)
    answers = ("1,1", "1.0,0.0", "False,TRUE", " 0,0")
    rows = [f"{n:02}.jpg,{answers[n % 4]},{'valid' if n > 7 else 'train'}" for n in range(12)]
    return write(tmp_path / "leaves.csv", HEADER, *rows)


def change(table: Path, before: str, after: str) -> Path:
    text = table.read_text()
    assert before in text
    table.write_text(text.replace(before, after, 1))
    return table


def test_each_image_has_the_classes_whose_columns_say_so(leaves: Path):
    dataset = read_dataset(leaves, layout=told().layout())
    assert (dataset.task, dataset.labels) == ("multi", ("brown rust", "scab"))
    of_four = [("brown rust", "scab"), ("brown rust",), ("scab",), ()]
    assert [item.labels for item in dataset.items] == of_four * 3
    parts: list[Part | None] = ["train"] * 8 + ["valid"] * 4
    assert [item.part for item in dataset.items] == parts
    check_listed(leaves, told().layout(), "auto")
    assert columns_note(leaves, told().layout()) == "the column 'image' is read as file"


def test_one_class_for_each_image_is_a_single_label_task(leaves: Path):
    rows = [f"{n:02}.jpg,{n % 2},{1 - n % 2}" for n in range(12)]
    write(leaves, "width,image,rust,scab", *(f"640,{row}" for row in rows))
    for task in ("auto", "single"):
        settings = told("rust,scab", task=task)
        dataset = read_dataset(leaves, task=settings.task, layout=settings.layout())
        assert (dataset.task, dataset.labels) == ("single", ("rust", "scab"))
        assert [item.labels for item in dataset.items] == [("scab",), ("rust",)] * 6


def test_several_classes_for_an_image_of_a_single_label_task_are_refused(leaves: Path):
    settings = told(task="single")
    with pytest.raises(DataError, match=r"00\.jpg: 2 labels in a single-label task"):
        read_dataset(leaves, task=settings.task, layout=settings.layout())


def test_a_table_that_was_not_told_of_its_columns_says_how(leaves: Path):
    with pytest.raises(DataError, match="give --set label_columns=brown rust,scab, or else"):
        read_dataset(leaves)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("1,1", "1,2", "line 2: scab is '2'; a column of label_columns has 1 where"),
        ("1,1", "1,", "line 2: scab is ''; a column of label_columns has 1 where"),
        ("scab", "Scab", "no column is called 'scab'; did you mean Scab"),
        ("scab", "brown rust", "two columns are called brown rust"),
        ("split", "label", "has a column label as well as those of label_columns"),
        ("1,1,train", "1,1", "line 2: too few cells, 3 for 4 columns"),
    ],
)
def test_what_is_wrong_with_the_columns_is_told(
    leaves: Path, before: str, after: str, message: str
):
    with pytest.raises(DataError, match=message):
        read_dataset(change(leaves, before, after), layout=told().layout())


def test_a_class_that_no_image_has_is_refused(leaves: Path):
    leaves.write_text(leaves.read_text().replace(",1", ",0").replace("TRUE", "0"))
    with pytest.raises(DataError, match="no row has a 1 in the column brown rust, so nothing"):
        read_dataset(leaves, layout=told().layout())


def test_a_single_column_is_not_one_for_each_class(leaves: Path):
    with pytest.raises(DataError, match="at least two classes; leave it out if scab alone says"):
        read_dataset(leaves, layout=told("scab").layout())


def test_columns_of_labels_need_their_names(leaves: Path):
    with pytest.raises(DataError, match="label_columns needs a first line"):
        read_dataset(leaves, layout=told(header="false").layout())


def test_columns_of_labels_are_those_of_a_table(tmp_path: Path):
    data = photos.folder(tmp_path, per_class=4)
    with pytest.raises(DataError, match="label_columns is for the columns of a CSV or TSV"):
        read_dataset(data, layout=Layout(label_columns=("dark", "light")))
