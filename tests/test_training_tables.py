"""Tables: CSV as competitions give them, Parquet as `datasets` writes it, and the test part."""

import csv
import datetime
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
import torch

from registry.bundle import Task, verify_bundle
from registry.errors import DataError
from registry.files import sha256_file
from training import classify
from training.data.dataset import Dataset, check_listed, list_items, read_dataset
from training.data.draws import get_cv_idxs
from training.data.items import Item, Layout
from training.evaluation.predict_test_part import measure_tests, write_answers
from training.fit.activations import Activations
from training.fit.batches import ActivationBatches
from training.reading_settings import read_settings
from training.recipe import train

quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def write(table: Path, *lines: str) -> Path:
    content = "\n".join(lines) + "\n"
    table.write_bytes(content.encode(errors="surrogateescape"))  # \udce4 is a byte that is no UTF-8
    return table


def counts(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.rows("train")), len(dataset.rows("valid")), len(dataset.tests)


@pytest.fixture
def breeds(tmp_path: Path) -> Path:
    """Kaggle's layout of the dog breeds: names without a suffix, in a folder, and a test folder."""
    rows = []
    for number in range(20):
        photos.photo(tmp_path / "train" / f"dog{number}.jpg", 60 + 100 * (number % 2), number)
        rows.append(f"dog{number},{('basset', 'beagle')[number % 2]}")
    for number in range(4):
        brightness = 60 + 100 * (number % 2)
        photos.photo(tmp_path / "test" / f"unknown{number}.jpg", brightness, 50 + number)
    return write(tmp_path / "labels.csv", "id,breed", *rows)


def test_a_competitions_table_is_read_with_suffix_folder_and_test(breeds: Path):
    dataset = read_dataset(breeds, layout=Layout(images="train", suffix=".jpg", test="test"))
    assert dataset.labels == ("basset", "beagle")
    assert len(dataset.items) == 20
    assert [item.labels for item in dataset.tests] == [()] * 4
    assert "4 test images for the end" in dataset.summary()


def test_the_dog_breeds_of_2018_are_8178_2044_and_10357_images_and_341_batches(tmp_path: Path):
    """Kaggle's numbers, as the course held out a fifth of them; every image has its own content."""
    pixel = photos.photo(tmp_path / "pixel.png", 100, 0).read_bytes()
    for folder, n_images in (("train", 10_222), ("test", 10_357)):
        (tmp_path / folder).mkdir()
        for number in range(n_images):
            content = pixel + f"{folder} {number}".encode()
            (tmp_path / folder / f"{number:05d}.jpg").write_bytes(content)
    rows = [f"{number:05d},breed {number % 120}" for number in range(10_222)]
    table = write(tmp_path / "labels.csv", "id,breed", *rows)
    settings = read_settings(
        {"recipe": "fastai2018", "task": "single", "images": "train", "suffix": ".jpg"}
        | {"test": "test", "batch_size": "24"}
    )
    dataset = read_dataset(
        table, task="single", layout=settings.layout(), rule=settings.split_rule()
    )
    assert counts(dataset) == (8_178, 2_044, 10_357)
    assert len(dataset.labels) == 120
    held_out = {int(dataset.items[row].path.stem) for row in dataset.rows("valid")}
    assert held_out == set(get_cv_idxs(10_222).tolist())
    targets = torch.from_numpy(dataset.targets[dataset.rows("train")])
    activations = Activations(torch.zeros(len(targets), 1), "")
    assert len(ActivationBatches(activations, targets, settings.batch_size, seed=0)) == 341


def test_a_table_may_have_no_header(breeds: Path):
    layout = Layout(images="train", suffix=".jpg", header=False)
    write(breeds, *breeds.read_text().splitlines()[1:])
    assert len(read_dataset(breeds, layout=layout).items) == 20


def test_a_table_without_a_header_is_as_wide_as_its_first_row(breeds: Path):
    layout = Layout(images="train", suffix=".jpg", header=False)
    rows = [f"{row},{n},extra" for n, row in enumerate(breeds.read_text().splitlines()[1:])]
    write(breeds, *rows)
    assert read_dataset(breeds, layout=layout).labels == ("basset", "beagle")
    for row, wrong in ((f"{rows[-1]},more", "too many cells, 5"), ("dog0,basset", "too few cells")):
        write(breeds, *rows[:-1], row)
        with pytest.raises(DataError, match=f"line 20: {wrong}.* for 4 columns"):
            read_dataset(breeds, layout=layout)


def test_a_split_column_wins(tmp_path: Path):
    photos.folder(tmp_path, per_class=6)
    files = sorted(tmp_path.rglob("*.*"))
    parts = ["train", "train", "validation", "val", "valid", "test"] * 2
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name},{part}"
        for path, part in zip(files, parts, strict=True)
    ]
    dataset = read_dataset(write(tmp_path / "labels.csv", "file,label,split", *rows))
    assert counts(dataset) == (4, 6, 2)
    assert [item.labels for item in dataset.tests] == [("dark",), ("light",)]


def test_what_is_held_out_is_drawn_where_a_table_names_only_train_and_test(tmp_path: Path):
    photos.folder(tmp_path, per_class=12)
    files = sorted(tmp_path.rglob("*.*"))
    rows = [
        f"{file},{file.parent.name},{('train', 'test')[n % 4 == 0]}" for n, file in enumerate(files)
    ]
    dataset = read_dataset(write(tmp_path / "labels.csv", "file,label,split", *rows))
    n_learnt, n_held, n_tests = counts(dataset)
    assert (n_learnt + n_held, n_tests) == (18, 6)
    assert 2 <= n_held < 9


def test_fastais_column_is_valid_says_what_is_held_out(tmp_path: Path):
    photos.folder(tmp_path, per_class=6)
    files = sorted(tmp_path.rglob("*.*"))
    rows = [f"{file},{file.parent.name},{n % 3 == 0}" for n, file in enumerate(files)]
    dataset = read_dataset(write(tmp_path / "labels.csv", "name,label,is_valid", *rows))
    held_out = [file for n, file in enumerate(files) if n % 3 == 0]
    assert [dataset.items[row].path for row in dataset.rows("valid")] == held_out


HEADERS = {
    "filename,split,class": "{file},{part},{label}",
    "image,split,label": "{file},{part},{label}",
    "File,Label,Split": "{file},{label},{part}",
    "id,file,class,part": "7,{file},{label},{part}",
    "id,Path,breed,SPLIT": "7,{file},{label},{part}",
    "split,target,image_id": "{part},{label},{file}",
    "breed,image,split": "{label},{file},{part}",
    ",id,breed,split": "7,{file},{label},{part}",
    "file,category,label,split": "{file},other,{label},{part}",
    "file,species,target,split": "{file},other,{label},{part}",
    "image_path,width,height,class,split": "{file},640,480,{label},{part}",
    "id,image_path,label,split": "7,{file},{label},{part}",
    "scan,diagnosis,age,split": "{file},{label},70,{part}",
    "id,breed,file,split": "7,{label},{file},{part}",
    "image,species,label,path,split": "{file},other,{label},8,{part}",
    "part,file,label,split": "wing,{file},{label},{part}",
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_says_which_column_has_the_files_the_labels_and_the_split(
    tmp_path: Path, header: str
):
    photos.folder(tmp_path, per_class=6)
    files = sorted(tmp_path.rglob("*.*"))
    parts = ["train", "Train", "VALID"] * 4
    rows = [
        HEADERS[header].format(file=file, label=file.parent.name, part=part)
        for file, part in zip(files, parts, strict=True)
    ]
    dataset = read_dataset(write(tmp_path / "labels.csv", header, *rows))
    assert dataset.labels == ("dark", "light")
    assert [item.part for item in dataset.items] == [part.casefold() for part in parts]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("file,breed,category", "{file},{label},{group}"),
        ("scan,diagnosis,image_id", "{file},{label},{group}"),
        ("category,image,class", "{group},{file},{label}"),
    ],
)
def test_a_column_of_groups_with_a_usual_name_is_neither_file_nor_label(
    tmp_path: Path, header: str, row: str
):
    files = sorted(photos.folder(tmp_path, per_class=6).rglob("*.*"))
    rows = [
        row.format(file=file, label=file.parent.name, group=f"g{number % 3}")
        for number, file in enumerate(files)
    ]
    (group,) = {"category", "image_id"} & set(header.split(","))
    table = write(tmp_path / "labels.csv", header, *rows)
    dataset = read_dataset(table, layout=Layout(group=group))
    assert dataset.labels == ("dark", "light")
    assert {item.group for item in dataset.items} == {"g0", "g1", "g2"}


def test_an_unnamed_column_may_have_the_files_where_only_the_labels_are_beside_it(tmp_path: Path):
    """As pandas writes a series of labels whose index is the file names."""
    files = sorted(photos.folder(tmp_path, per_class=6).rglob("*.*"))
    rows = [f"{file},{file.parent.name}" for file in files]
    dataset = read_dataset(write(tmp_path / "labels.csv", ",breed", *rows))
    assert dataset.labels == ("dark", "light")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("image,species", "; the column 'image' is read as file, and 'species' as label"),
        ("file, Class", "; the column 'file' is read as file, and 'Class' as label"),
        ("File,label", ""),
    ],
)
def test_a_note_says_which_columns_are_read_as_file_and_label_unless_they_are_called_so(
    tmp_path: Path, header: str, told: str
):
    files = sorted(photos.folder(tmp_path, per_class=6).rglob("*.*"))
    rows = [f"{file},{file.parent.name}" for file in files]
    summary = read_dataset(write(tmp_path / "labels.csv", header, *rows)).summary()
    assert ("is read as" in summary) == bool(told)
    assert summary.endswith(told)


def test_a_separator_at_the_end_of_a_row_is_no_trouble(breeds: Path):
    header, *rows = breeds.read_text().split()
    write(breeds, header, *(f"{row}, ," for row in rows))
    dataset = read_dataset(breeds, layout=Layout(images="train", suffix=".jpg"))
    assert dataset.labels == ("basset", "beagle")


def test_a_column_of_groups_is_found_whatever_its_capitals_and_is_no_label(tmp_path: Path):
    photos.folder(tmp_path, per_class=6)
    files = sorted(tmp_path.rglob("*.*"))
    rows = [f"{file},p{n % 3},{file.parent.name}" for n, file in enumerate(files)]
    table = write(tmp_path / "labels.csv", "scan,Patient,breed", *rows)
    dataset = read_dataset(table, layout=Layout(group="patient"))
    assert dataset.labels == ("dark", "light")
    assert {item.group for item in dataset.items} == {"p0", "p1", "p2"}


def test_an_unnamed_column_as_pandas_writes_its_index_is_no_group(tmp_path: Path):
    """A group of one image each would change with every row that is added above."""
    photos.folder(tmp_path, per_class=6)
    files = sorted(tmp_path.rglob("*.*"))
    rows = [f"{n},{file},{file.parent.name}" for n, file in enumerate(files)]
    dataset = read_dataset(write(tmp_path / "labels.csv", ",file,label", *rows))
    assert {item.group for item in dataset.items} == {""}


@pytest.mark.parametrize("separator", [";", "\t", ","], ids=["semicolon", "tab", "comma"])
def test_columns_may_be_separated_as_spreadsheets_do(tmp_path: Path, separator: str):
    photos.folder(tmp_path, per_class=6)
    files = sorted(tmp_path.rglob("*.*"))
    rows = [f'"{file}"{separator}"the {file.parent.name}, one"' for file in files]
    table = write(tmp_path / "labels.tsv", f"file{separator}label", *rows)
    dataset = read_dataset(table, task="single", layout=Layout(separator=""))
    assert dataset.labels == ("the dark, one", "the light, one")


def test_a_test_folder_beside_train_may_have_labels_or_none(tmp_path: Path):
    photos.folder(tmp_path / "train", per_class=4)
    photos.folder(tmp_path / "val", per_class=2, classes={"dark": 80, "light": 170})
    photos.folder(tmp_path / "test", per_class=3, classes={"dark": 90, "light": 150})
    dataset = read_dataset(tmp_path)
    assert counts(dataset) == (8, 4, 6)
    assert {item.labels for item in dataset.tests} == {("dark",), ("light",)}
    shutil.rmtree(tmp_path / "test")
    photos.photo(tmp_path / "test" / "images" / "who knows.png", 100, seed=9)
    dataset = read_dataset(tmp_path)
    assert [item.labels for item in dataset.tests] == [()]
    assert dataset.summary().endswith(
        "1 test image for the end, none of them labelled with one of these classes"
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [("grey/a.png", "'grey' is not a class"), ("who knows.png", "it has no label")],
)
def test_a_test_image_of_no_known_class_is_not_scored_and_it_is_reported(
    tmp_path: Path, name: str, why: str
):
    photos.folder(tmp_path / "train", per_class=6)
    photos.folder(tmp_path / "test", per_class=3, classes={"dark": 90, "light": 150})
    stranger = photos.photo(tmp_path / "test" / name, 100, seed=9)
    dataset = read_dataset(tmp_path)
    told = f"7 test images for the end, 1 of them not scored, such as {stranger}: {why}"
    assert told in dataset.summary()
    answers = np.array(
        [[item.path != stranger and "dark" in item.labels, 0.5] for item in dataset.tests]
    )
    measures = measure_tests(dataset, answers.astype(np.float32), ())
    assert measures is not None
    assert measures.value == 1


def test_a_test_image_without_labels_is_scored_where_others_have_several(tmp_path: Path):
    tests = [Item(tmp_path / name, tuple(name), "test") for name in ("ab", "", "a!")]
    dataset = Dataset(tmp_path, (), ("a", "b"), "multi", tests=tuple(tests))
    assert dataset.scored_tests.tolist() == [0, 1]
    assert "1 of them not scored" in dataset.unscored_tests
    assert "'a !' is not a class" in dataset.unscored_tests
    measures = measure_tests(dataset, np.array([[1, 1], [0, 0], [0, 0]], np.float32), 0.5)
    assert measures is not None
    assert measures.value == 1


def test_labels_with_spaces_are_kept_whole_in_a_single_label_task(breeds: Path):
    write(breeds, *(line.replace("basset", "basset hound") for line in breeds.read_text().split()))
    settings = read_settings({"task": "single", "images": "train", "suffix": ".jpg"})
    dataset = read_dataset(breeds, task=settings.task, layout=settings.layout())
    assert dataset.labels == ("basset hound", "beagle")


def test_the_separator_of_labels_can_be_chosen(breeds: Path):
    write(
        breeds, *(line.replace("basset", "basset hound|old") for line in breeds.read_text().split())
    )
    settings = read_settings({"label_separator": "|", "images": "train", "suffix": ".jpg"})
    dataset = read_dataset(breeds, layout=settings.layout())
    assert (dataset.task, dataset.labels) == ("multi", ("basset hound", "beagle", "old"))


def test_a_missing_label_makes_no_task_multi_label_unless_it_is_said(tmp_path: Path):
    photos.folder(tmp_path, per_class=6)
    files = sorted(tmp_path.rglob("*.*"))
    rows = [f"{file},{'' if n in (3, 8) else file.parent.name}" for n, file in enumerate(files)]
    table = write(tmp_path / "labels.csv", "file,label", *rows)
    message = f"2 of 12 images have no label, such as {files[3]}, {files[8]}, and none has several"
    for check in (read_dataset, lambda table: check_listed(table, Layout(), "auto")):
        with pytest.raises(DataError, match=f"{message}; label or remove them, or .* task=multi"):
            check(table)
    dataset = read_dataset(table, task="multi")
    assert (dataset.task, dataset.targets.sum()) == ("multi", 10)
    write(table, "file,label", *rows[:-1], f"{files[-1]},dark light")
    assert read_dataset(table, layout=Layout(separator=" ")).task == "multi"


def test_a_packed_image_without_a_label_makes_no_task_multi_label(tmp_path: Path):
    data = pack(tmp_path, "images")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(data / "images.parquet")
    labels = ["dark", "dark", None, "light", "light", "light"]
    pq.write_table(table.set_column(1, "label", [labels]), data / "images.parquet")
    with pytest.raises(DataError, match=r"1 of 6 images has no label, such as .*images-0000002\."):
        read_dataset(data, cache=tmp_path / "cache")


def test_continuous_labels_are_refused_unless_each_is_a_class(tmp_path: Path):
    photos.folder(tmp_path, per_class=30)
    files = sorted(tmp_path.rglob("*.*"))
    rows = [f"{path.relative_to(tmp_path)},{0.01 * (n // 2)}" for n, path in enumerate(files)]
    table = write(tmp_path / "labels.csv", "file,label", *rows)
    with pytest.raises(DataError, match=r"30 different numbers, such as 0\.0, and a classifier"):
        read_dataset(table)
    assert len(read_dataset(table, task="single").labels) == 30


WRONG = {
    "no header after all": (["dog0,basset", "dog1,beagle"], "the first line already names a file"),
    "missing file": (["id,breed", "cat,basset"], "line 2: no such file: cat.jpg; looked in"),
    "missing files": (
        ["id,breed", "dog0,basset", "cat,basset", "cow,beagle"],
        "line 3: no such file: cat.jpg; looked in .*train; 2 of 3 files are missing. Set "
        "images=FOLDER or suffix=.jpg to complete the names in the column 'id'",
    ),
    "not in UTF-8": (["id,breed", "dog0,basset\udce4"], "not UTF-8 text; save it as CSV in UTF-8"),
    "is_valid": (
        ["id,breed,is_valid", "dog0,basset,later"],
        "line 2: is_valid is 'later'; it must be True or False",
    ),
    "missing cell": (["id,breed", "dog0"], "line 2: too few cells, 1 for 2 columns"),
    "no labels": (
        ["id,split,weight", "dog0,train,1"],
        "which column has the labels\\? It has id, split, weight; call that column label",
    ),
    "no files": (["class,is_valid", "dog0,True"], "which column has the file names.*column file"),
    "two labels": (["id,label,Label", "dog0,a,b"], "two columns are called label; rename or"),
    "extra cells": (
        ["id,breed", "dog0,basset", "dog1,beagle,old"],
        "line 3: too many cells, 3 for 2 columns; put a cell .* quotes, or .*label_separator=",
    ),
    "one column": (["id", "dog0"], "only one column; it needs two"),
    "unknown part": (["id,breed,split", "dog0,basset,later"], "split is 'later'; it must be train"),
    "half a split": (
        ["id,breed,split", "dog0,basset,train", "dog1,beagle,"],
        "line 3: the column split is empty here and filled elsewhere",
    ),
    "no rows": (["id,breed"], "no rows"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_table_that_cannot_be_used_says_which_line_and_why(breeds: Path, what: str):
    lines, message = WRONG[what]
    write(breeds, *lines)
    with pytest.raises(DataError, match=message):
        read_dataset(breeds, layout=Layout(images="train", suffix=".jpg"))


@quiet
def test_test_images_are_answered_in_the_order_of_their_files(breeds: Path, tmp_path: Path):
    settings = {"images": "train", "suffix": ".jpg", "test": "test", "cycles": "0"}
    assignment = photos.assignment(tmp_path, breeds, **settings, augmented_epochs="0")
    train(assignment, lambda event: None)
    bundle = verify_bundle(assignment.stage)
    with (assignment.stage / "report" / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"test/unknown{number}.jpg" for number in range(4)]
    for row in rows:
        said = classify(assignment.stage, breeds.parent / row["file"])
        assert {name: float(row[name]) for name in said} == pytest.approx(said, abs=1e-5)
        assert row["answer"] == max(said, key=lambda name: said[name])
    assert len({row["basset"] for row in rows}) == 4
    assert "accuracy_test" not in bundle.metrics


def test_test_images_of_a_table_are_answered_in_the_order_of_its_rows(tmp_path: Path):
    photos.folder(tmp_path, per_class=6)
    files = [f"{path.parent.name}/{path.name}" for path in sorted(tmp_path.rglob("*.*"))]
    parts = ["train", "valid", "test"]
    rows = [f"{file},{Path(file).parent},{parts[n % 3]}" for n, file in enumerate(files)]
    rows.reverse()
    dataset = read_dataset(write(tmp_path / "labels.csv", "file,label,split", *rows))
    asked = [row.split(",")[0] for row in rows if row.endswith("test")]
    write_answers(tmp_path / "test.csv", dataset, np.eye(4, 2, dtype=np.float32), ())
    with (tmp_path / "test.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == asked


@pytest.mark.parametrize(
    ("task", "thresholds", "said"),
    [
        ("single", (), ["a", "c"]),
        ("multi", (0.5, 0.5, 0.5), ["a b", ""]),
        ("multi", (0.95, 0.5, 0.1), ["b c", "c"]),
    ],
)
def test_the_answer_to_a_test_image_is_every_label_from_its_threshold_on(
    tmp_path: Path, task: Task, thresholds: tuple[float, ...], said: list[str]
):
    tests = [Item(tmp_path / name, (), "test") for name in ("1.jpg", "2.jpg")]
    dataset = Dataset(tmp_path, (), ("a", "b", "c"), task, tests=tuple(tests))
    answers = np.array([[0.9, 0.8, 0.1], [0.1, 0.2, 0.4]], np.float32)
    write_answers(tmp_path / "test.csv", dataset, answers, thresholds)
    with (tmp_path / "test.csv").open(newline="") as file:
        assert [row["answer"] for row in csv.DictReader(file)] == said


@pytest.mark.parametrize(("separator", "between"), [(";", ";"), (" ", "|")])
def test_labels_of_an_answer_are_parted_as_those_of_the_table_are(
    tmp_path: Path, separator: str, between: str
):
    """And by a bar where the separator is part of a label, as in Parquet it may be."""
    tests = (Item(tmp_path / "1.jpg", ("clear sky", "water"), "test"),)
    dataset = Dataset(tmp_path, (), ("clear sky", "haze", "water"), "multi", tests=tests)
    answers = np.array([[0.9, 0.8, 0.1]], np.float32)
    write_answers(tmp_path / "test.csv", dataset, answers, (0.5,) * 3, separator=separator)
    with (tmp_path / "test.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    said = (f"clear sky{between}water", f"clear sky{between}haze")
    assert (row["labels"], row["answer"]) == said


@quiet
def test_a_labelled_test_part_is_measured_once_in_the_end(tmp_path: Path):
    data = tmp_path / "data"
    photos.folder(data / "train", per_class=10)
    photos.folder(data / "valid", per_class=4, classes={"dark": 80, "light": 170})
    photos.folder(data / "test", per_class=4, classes={"dark": 70, "light": 180})
    assignment = photos.assignment(tmp_path, data, cycles="0", augmented_epochs="0")
    bundle, _ = train(assignment, lambda event: None)
    assert 0.5 <= bundle.metrics["accuracy_test"] <= 1
    assert "the first read on record" in bundle.provenance["test_part"]
    gone_on, _ = train(assignment, lambda event: None)  # from its last checkpoint
    assert gone_on.provenance["test_part"] == bundle.provenance["test_part"]
    assert "test" not in (assignment.stage / "report" / "split.csv").read_text()


# Parquet and Arrow


def columns(folder: Path, *, as_struct: bool) -> dict[str, Any]:
    files = sorted(folder.rglob("*.*"))
    images: list[Any] = [path.read_bytes() for path in files]
    if as_struct:
        images = [{"bytes": image, "path": None} for image in images]
    return {"image": images, "label": [int(path.parent.name == "light") for path in files]}


def hugging_face_schema(schema: Any) -> Any:
    features = {"label": {"names": ["dark", "light one"], "_type": "ClassLabel"}}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_packed_images_are_unpacked_once_with_their_names(tmp_path: Path, suffix: str):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table(columns(photos.folder(tmp_path / "images", per_class=6), as_struct=True))
    table = table.cast(hugging_face_schema(table.schema))
    packed = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, packed)
    else:
        with pa.ipc.new_stream(packed, table.schema) as stream:
            stream.write_table(table)
    dataset = read_dataset(packed, cache=tmp_path / "cache", within=[tmp_path])
    again = read_dataset(packed, cache=tmp_path / "cache")
    assert dataset.labels == ("dark", "light one")
    assert (dataset.task, len(dataset.items)) == ("single", 12)
    assert again.fingerprint == dataset.fingerprint
    shutil.rmtree(tmp_path / "images")
    np.testing.assert_array_equal(dataset.targets.sum(axis=0), [6, 6])


@pytest.mark.parametrize("compression", ["uncompressed", "lz4"])
def test_an_arrow_file_is_read_as_an_arrow_stream_is(tmp_path: Path, compression: str):
    """As pandas and pyarrow.feather write it."""
    pa = pytest.importorskip("pyarrow")
    feather = pytest.importorskip("pyarrow.feather")
    table = pa.table(columns(photos.folder(tmp_path / "images", per_class=6), as_struct=False))
    feather.write_feather(table, str(tmp_path / "data.arrow"), compression=compression, chunksize=5)
    dataset = read_dataset(tmp_path / "data.arrow", cache=tmp_path / "cache")
    written = {path.read_bytes() for path in (tmp_path / "images").rglob("*.*")}
    assert {item.path.read_bytes() for item in dataset.items} == written


def pack(tmp_path: Path, *names: str) -> Path:
    """A folder of Parquet files, of six images each."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    for brightness, name in enumerate(names):
        classes = {"dark": 60 + brightness, "light": 190 + brightness}
        images = photos.folder(tmp_path / name, 3, classes)
        (tmp_path / "data").mkdir(exist_ok=True)
        table = pa.table(columns(images, as_struct=False))
        pq.write_table(table, tmp_path / "data" / f"{name}.parquet")
    return tmp_path / "data"


def test_parts_of_packed_images_are_those_of_the_files_names(tmp_path: Path):
    data = pack(tmp_path, "train-00000-of-00001", "validation-0", "test-0")
    dataset = read_dataset(data, cache=tmp_path / "cache")
    assert counts(dataset) == (6, 6, 6)
    assert dataset.labels == ("0", "1")


def repack(data: Path, name: str, **others: list[Any]) -> None:
    """The Parquet file of `pack` has these columns, too."""
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(data / f"{name}.parquet")
    for column, cells in others.items():
        table = table.append_column(column, [cells])
    pq.write_table(table, data / f"{name}.parquet")


OTHERS: dict[str, dict[str, list[Any]]] = {
    "split": {"Split": ["train", "valid", "train"] * 2},
    "fastai's": {"is_valid": [False, True, False] * 2},
    "half of each": {"split": ["train", "valid", "train", None, None, None]}
    | {"is_valid": [None, None, None, False, True, False]},
}


@pytest.mark.parametrize("name", ["images", "train-0"])
@pytest.mark.parametrize("others", OTHERS)
def test_columns_of_packed_images_say_what_is_held_out(tmp_path: Path, name: str, others: str):
    data = pack(tmp_path, name)
    repack(data, name, **OTHERS[others])
    dataset = read_dataset(data, cache=tmp_path / "cache")
    assert [item.part for item in dataset.items] == ["train", "valid", "train"] * 2


def test_other_columns_of_packed_images_are_read_as_a_tables_are(tmp_path: Path):
    data = pack(tmp_path, "images")
    dates = [None if n == 5 else datetime.date(2024, 5, 1 + n // 2) for n in range(6)]
    others = {"weight": [0.5, 1, 2, 1, 1, None], "image_id": list("abcdef"), "Taken": dates}
    repack(
        data, "images", **others, embedding=[[0.5, 1.0]] * 6, caption=["of many words, " * 999] * 6
    )
    dataset = read_dataset(data, layout=Layout(group="taken"), cache=tmp_path / "cache")
    assert dataset.weights.tolist() == [0.5, 1, 2, 1, 1, 1]
    days = ["2024-05-01", "2024-05-01", "2024-05-02", "2024-05-02", "2024-05-03", ""]
    assert [item.group for item in dataset.items] == days


def test_what_was_unpacked_without_its_other_columns_is_unpacked_anew(tmp_path: Path):
    data = pack(tmp_path, "images")
    repack(data, "images", weight=[0.5] * 6)
    contents = f"images.parquet {sha256_file(data / 'images.parquet')}"
    before = tmp_path / "cache" / f"unpacked-{hashlib.sha256(contents.encode()).hexdigest()}"
    photos.folder(before, per_class=3)
    rows = [f"{path.relative_to(before)},{path.parent.name}," for path in before.glob("*/*")]
    write(before / "labels.csv", "file,label,split", *rows)
    assert read_dataset(data, cache=tmp_path / "cache").weights.tolist() == [0.5] * 6


def test_a_column_that_contradicts_a_packed_files_name_is_refused(tmp_path: Path):
    data = pack(tmp_path, "train-0", "test-0")
    repack(data, "test-0", split=["test", "test", "train"] * 2)
    with pytest.raises(DataError, match=r"test-0\.parquet, row 2: split is 'train', but .* test; "):
        read_dataset(data, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "VAL", "Test"),
        ("dataset_train", "dataset_valid", "dataset_test"),
        ("2-training", "my-validation-00000", "0-testing"),
        ("crash_test-train-0", "crash_test-validation-0", "crash_test-test-0"),
    ],
)
def test_a_part_is_a_word_of_a_packed_files_name_whatever_its_capitals(
    tmp_path: Path, names: tuple[str, ...]
):
    data = pack(tmp_path, *names)
    assert counts(read_dataset(data, cache=tmp_path / "cache")) == (6, 6, 6)


def test_a_note_says_that_the_names_of_packed_files_tell_no_parts_apart(tmp_path: Path):
    note = "tell no train, valid and test apart, so held-out images are drawn from all"
    data = pack(tmp_path, "fitting", "restrained")
    assert note in read_dataset(data, cache=tmp_path / "cache").summary()
    one = read_dataset(data / "fitting.parquet", cache=tmp_path / "cache")
    assert note not in one.summary()
    repack(data, "fitting", split=["train"] * 6)
    repack(data, "restrained", split=["valid"] * 6)
    assert note not in read_dataset(data, cache=tmp_path / "cache").summary()


@pytest.mark.parametrize("name", ["crash_test", "photos_train_test", "data-val-test"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_a_single_packed_file_may_have_any_name(tmp_path: Path, name: str, as_folder: bool):
    data = pack(tmp_path, name)
    source = data if as_folder else data / f"{name}.parquet"
    dataset = read_dataset(source, cache=tmp_path / "cache")
    assert sum(counts(dataset)[:2]) == 6
    assert not dataset.note


@pytest.mark.parametrize("word", ["test", "validation", "train"])
def test_a_word_in_the_names_of_all_packed_files_tells_no_parts_apart(tmp_path: Path, word: str):
    data = pack(tmp_path, f"crash_{word}-00000-of-00002", f"crash_{word}-00001-of-00002")
    n_learnt, n_held, n_tests = counts(read_dataset(data, cache=tmp_path / "cache"))
    assert (n_learnt + n_held, n_tests) == (12, 0)
    assert n_held >= 2


def test_what_is_held_out_is_drawn_where_packed_images_are_train_and_test(tmp_path: Path):
    """As Hugging Face has MNIST and CIFAR."""
    data = pack(tmp_path, "train-0", "test-0")
    n_learnt, n_held, n_tests = counts(read_dataset(data, cache=tmp_path / "cache"))
    assert (n_learnt + n_held, n_tests) == (6, 6)
    assert n_held >= 2


def test_packed_files_of_one_name_keep_their_images_apart(tmp_path: Path):
    """And images are called as ever where no other file has the name."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    source, written = tmp_path / "packed", {}
    (source / "data").mkdir(parents=True)
    for number, name in enumerate(["a.parquet", "data/a.parquet", "data/b.parquet"]):
        image = photos.photo(tmp_path / f"{number}.png", 100, number).read_bytes()
        pq.write_table(pa.table({"image": [image], "label": [name]}), source / name)
        written[image] = (name,)
    root, items, _ = list_items(source, cache=tmp_path / "cache")
    assert {item.path.read_bytes(): item.labels for item in items} == written
    assert items[-1].path == root / "b-0000000.png"


def test_packed_images_may_have_a_test_folder_beside_them(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table(columns(photos.folder(tmp_path / "images", per_class=6), as_struct=False))
    pq.write_table(table, tmp_path / "data.parquet")
    photos.photo(tmp_path / "held" / "a.jpg", 100, 1)
    layout, cache = Layout(test="held"), tmp_path / "cache"
    dataset = read_dataset(tmp_path / "data.parquet", layout=layout, cache=cache)
    assert [item.path.name for item in dataset.tests] == ["a.jpg"]
    for within in ([tmp_path / "images"], [tmp_path / "data.parquet"]):
        with pytest.raises(DataError, match="lies outside the folders"):
            read_dataset(tmp_path / "data.parquet", layout=layout, cache=cache, within=within)


@pytest.mark.parametrize("content", [b"no parquet at all", None])
def test_a_packed_file_that_cannot_be_used_says_why(tmp_path: Path, content: bytes | None):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    packed = tmp_path / "data.parquet"
    if content is None:
        pq.write_table(pa.table({"picture": [b""], "label": [1]}), packed)
    else:
        packed.write_bytes(content)
    with pytest.raises(
        DataError, match=r"data\.parquet: (cannot be read|has the columns label, p)"
    ):
        read_dataset(packed, cache=tmp_path / "cache")


def test_a_weight_says_how_much_an_image_counts_and_is_1_where_it_is_empty(tmp_path: Path):
    for name in "abc":
        photos.photo(tmp_path / f"{name}.jpg", 100, ord(name))
    rows = ("a.jpg,x,train,0.5", "b.jpg,y,train,", "c.jpg,x,valid,2")
    table = write(tmp_path / "labels.csv", "file,label,split,weight", *rows)
    assert read_dataset(table).weights.tolist() == [0.5, 1, 2]
    unweighted = write(table, "file,label,split", *(row.rsplit(",", 1)[0] for row in rows))
    assert read_dataset(unweighted).weights.tolist() == [1, 1, 1]


@pytest.mark.parametrize("weight", ["0", "-1", "much", "inf", "nan"])
def test_a_weight_that_cannot_be_is_named_with_its_line(tmp_path: Path, weight: str):
    photos.photo(tmp_path / "a.jpg", 100, 1)
    table = write(tmp_path / "labels.csv", "file,label,weight", f"a.jpg,x,{weight}")
    with pytest.raises(DataError, match=f"line 2: weight is '{weight}'; it must be a number"):
        read_dataset(table)


def test_images_of_several_labels_cannot_have_a_weight(tmp_path: Path):
    photos.photo(tmp_path / "a.jpg", 100, 1)
    table = write(tmp_path / "labels.csv", "file,label,weight", "a.jpg,x y,2")
    with pytest.raises(
        DataError, match="weights need exactly one label per image; leave the column weight"
    ):
        read_dataset(table, task="multi")


@pytest.mark.parametrize("folder", ["secret", "nowhere"])
def test_what_lies_outside_is_refused_alike_whether_or_not_it_exists(tmp_path: Path, folder: str):
    """Whoever may only ask for trainings is not told which files there are elsewhere."""
    allowed = tmp_path / "allowed"
    photos.photo(allowed / "a.jpg", 100, 1)
    photos.photo(tmp_path / "secret" / "a.jpg", 100, 1)
    table = write(allowed / "labels.csv", "file,label", f"../{folder}/a.jpg,x")
    with pytest.raises(DataError, match="lies outside the folders"):
        read_dataset(table, within=[allowed])
    write(table, "file,label", "a.jpg,x")
    for source in (table, allowed):
        layout = Layout(test=f"../{folder}")
        with pytest.raises(DataError, match="lies outside the folders"):
            read_dataset(source, layout=layout, within=[allowed])
