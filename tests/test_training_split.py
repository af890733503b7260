"""Parts are drawn so that they stay: by content or group, whatever else there is."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import photos
import pytest

from registry.errors import BadRequest, DataError
from training.data.dataset import Dataset, read_dataset
from training.data.draws import get_cv_idxs
from training.data.grouping import group_by_path
from training.data.items import BY_HASH, Item, Layout, Part, SplitRule
from training.data.split import split
from training.reading_settings import read_settings

# numpy.random.seed(42); numpy.random.permutation(100)[:20], as fastai 0.7 draws
FOLD_0 = [83, 53, 70, 45, 44, 39, 22, 80, 10, 0, 18, 30, 73, 33, 90, 4, 76, 77, 12, 31]
FOLD_4_OF_50 = [10, 22, 18, 49, 20, 7, 42, 14, 28, 38]


def some(n: int, label: str = "a", group: str = "") -> list[Item]:
    """Items of different contents, none of which has to exist."""
    return [
        Item(Path(f"{label}{group}{i}.png"), (label,), None, f"{label}{group}{i}", group)
        for i in range(n)
    ]


def drawn(items: list[Item], rule: SplitRule = BY_HASH) -> dict[str, Part | None]:
    return {item.sha256: item.part for item in split(items, rule, {})}


def test_data_that_grows_moves_nothing():
    small, large = drawn(some(300) + some(300, "b")), drawn(some(3000) + some(3000, "b"))
    assert small.items() <= large.items()


def test_of_a_small_class_that_grows_one_image_may_move_and_none_held_out_by_its_own_hash():
    others, n_moved = some(100, "b"), 0
    for seed in range(20):
        rule = SplitRule(seed=seed)
        alike = [replace(item, labels=("b",)) for item in some(12)]  # of a class that is large
        own = drawn(alike + others, rule)
        for n in range(1, 12):
            small, large = drawn(some(n) + others, rule), drawn(some(n + 1) + others, rule)
            moved = [name for name, part in small.items() if large[name] != part]
            assert len(moved) <= 1
            assert not any(small[name] == own[name] == "valid" for name in moved)
            n_moved += len(moved)
    assert n_moved


def test_the_held_out_share_of_every_class_is_near_the_asked_one():
    parts = split(some(2000) + some(2000, "b"), SplitRule(valid_fraction=0.25), {})
    held_out = Counter(item.labels[0] for item in parts if item.part == "valid")
    assert all(440 < held_out[label] < 560 for label in "ab")


@pytest.mark.parametrize("seed", range(30))
def test_a_small_class_has_something_in_both_parts(seed: int):
    parts = split(some(3) + some(500, "b"), SplitRule(seed=seed), {})
    assert {item.part for item in parts if item.labels == ("a",)} == {"train", "valid"}


@pytest.mark.parametrize("kind", ["hash", "stratified", "cv", "blocks"])
def test_a_group_is_never_parted(kind: str):
    items = [item for number in range(40) for item in some(5, "ab"[number % 2], f"g{number}")]
    parts = split(items, SplitRule(kind), {})
    by_group = {(item.group, item.part) for item in parts}
    assert len(by_group) == 40
    assert {part for _, part in by_group} == {"train", "valid"}


def test_given_parts_that_share_a_group_are_refused():
    given: list[tuple[str, Part]] = [("p0", "train"), ("p0", "valid"), ("p1", "train")]
    items = [
        replace(item, part=part, sha256=f"{part}{item.sha256}")
        for group, part in given
        for item in some(3, group=group)
    ]
    with pytest.raises(
        DataError, match=r"1 group in both train and valid: 'p0'; correct the parts"
    ):
        split(items, BY_HASH, {})
    assert split(items[3:], BY_HASH, {}) == items[3:]


def test_new_images_of_a_known_group_join_it():
    items = some(6, group="cow 1") + some(6, group="cow 2") + some(6, group="cow 3")
    opposite: dict[str, Part] = {
        item.sha256: "train" if item.part == "valid" else "valid"
        for item in split(items, SplitRule(valid_fraction=0.5), {})
    }
    grown = items + some(9, group="cow 2")[6:]
    parts = split(grown, SplitRule(valid_fraction=0.5), opposite)
    assert {(item.group, item.part) for item in parts} == {
        (item.group, opposite[item.sha256]) for item in items
    }


@pytest.mark.parametrize("n_new", [1, 2, 5])
def test_new_images_of_known_classes_are_drawn_as_if_all_were_new(n_new: int):
    old = some(300) + some(300, "b")
    known = {item.sha256: item.part or "train" for item in split(old, BY_HASH, {})}
    for first in range(300, 330):
        grown = old + some(first + n_new)[first:]
        assert split(grown, BY_HASH, known) == split(grown, BY_HASH, {})


@pytest.mark.parametrize(("there", "new"), [("train", "valid"), ("valid", "train")])
def test_a_new_image_gives_a_small_class_the_part_that_it_lacks(there: Part, new: Part):
    for seed in range(20):
        parts = split(some(2) + some(50, "b"), SplitRule(seed=seed), {"a0": there})
        assert [item.part for item in parts[:2]] == [there, new]


def test_an_image_in_two_groups_is_in_one_part():
    items = some(20, group="x") + some(20, group="y")
    twice = Item(Path("copy.png"), ("a",), None, items[0].sha256, "y")
    for seed in range(10):
        parts = split([*items, twice], SplitRule(seed=seed), {})
        assert parts[-1].part == parts[0].part


def test_a_copy_without_a_group_is_one_of_the_group():
    items = [item for number in range(20) for item in some(3, group=f"g{number}")]
    copy = replace(items[0], path=Path("copy.png"), group="")
    for seed in range(10):
        parts = split([*items, copy], SplitRule(seed=seed), {})
        assert {item.part for item in (*parts[:3], parts[-1])} == {parts[0].part}


def test_get_cv_idxs_draws_as_in_2018_and_leaves_numpys_generator_alone():
    state = np.random.get_state()[1].copy()
    assert get_cv_idxs(100).tolist() == FOLD_0
    assert get_cv_idxs(50, cv_idx=4).tolist() == FOLD_4_OF_50
    np.testing.assert_array_equal(state, np.random.get_state()[1])


@pytest.mark.parametrize("cv_idx", range(5))
def test_get_cv_idxs_equals_the_global_generators_draw(cv_idx: int):
    state = np.random.get_state()
    try:
        np.random.seed(42)
        expected = np.random.permutation(10_222)[cv_idx * 2044 : (cv_idx + 1) * 2044]
    finally:
        np.random.set_state(state)
    np.testing.assert_array_equal(get_cv_idxs(10_222, cv_idx), expected)


def test_the_five_folds_are_disjoint_and_leave_out_two_of_10222():
    folds = [set(get_cv_idxs(10_222, cv_idx).tolist()) for cv_idx in range(5)]
    assert len(set.union(*folds)) == sum(map(len, folds)) == 10_220


def test_cv_holds_out_the_rows_that_get_cv_idxs_names():
    parts = split(some(100), SplitRule("cv"), {})
    assert {row for row, item in enumerate(parts) if item.part == "valid"} == set(FOLD_0)


def test_cv_draws_contents_so_copies_are_never_on_both_sides():
    copies = [replace(item, path=Path(f"copy {n}.png")) for n, item in enumerate(some(10))]
    parts = split(some(90) + copies, SplitRule("cv"), {})
    held_out = {row for row, item in enumerate(parts) if item.part == "valid"}
    contents = set(get_cv_idxs(90).tolist())
    assert held_out == contents | {90 + row for row in contents if row < 10} != set(FOLD_0)


def test_blocks_hold_out_neighbours():
    parts = split(some(50) + some(50, "b"), SplitRule("blocks", fold=2), {})
    assert [row for row, item in enumerate(parts) if item.part == "valid"] == list(range(40, 60))


def test_blocks_go_by_file_names_and_not_by_class(tmp_path: Path):
    for number in range(20):
        photos.photo(tmp_path / "ab"[number % 2] / f"cell{number}.png", 90, seed=number)
    dataset = read_dataset(tmp_path, rule=SplitRule("blocks", fold=1))
    assert {path.stem for path in held_out(dataset)} == {"cell4", "cell5", "cell6", "cell7"}


def test_a_fold_that_is_not_there_is_refused():
    with pytest.raises(DataError, match=r"fold=5: .*the folds are 0 to 4"):
        split(some(50), SplitRule("cv", fold=5), {})


def test_a_regular_expression_finds_the_group_in_the_path(tmp_path: Path):
    for number in range(24):
        photos.photo(tmp_path / "ab"[number % 2] / f"cow{number // 4}-{number}.png", 90, number)
    dataset = read_dataset(tmp_path, layout=Layout(group=r"cow(\d+)-"))
    held = {path.name.split("-")[0] for path in held_out(dataset)}
    learnt = {item.path.name.split("-")[0] for item in dataset.items if item.part == "train"}
    assert held
    assert held.isdisjoint(learnt)


def test_a_column_can_be_the_group(tmp_path: Path):
    photos.folder(tmp_path / "images", per_class=12)
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient"])
        for number, path in enumerate(sorted((tmp_path / "images").rglob("*.*"))):
            writer.writerow([path.relative_to(tmp_path), path.parent.name, f"p{number // 3}"])
    dataset = read_dataset(table, layout=Layout(group="patient"))
    patients = {(item.group, item.part) for item in dataset.items}
    assert len(patients) == 8


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("cow(", "neither a column nor a regular expression"),
        ("cow", "finds nothing in dark/00.png"),
    ],
)
def test_a_group_that_cannot_be_found_is_an_error(tmp_path: Path, group: str, message: str):
    with pytest.raises(DataError, match=message):
        read_dataset(photos.folder(tmp_path, per_class=3), layout=Layout(group=group))


def test_images_of_the_test_part_need_no_group(tmp_path: Path):
    for number in range(12):
        photos.photo(
            tmp_path / "train" / "ab"[number % 2] / f"cow{number // 2}-{number}.png", 90, number
        )
    photos.photo(tmp_path / "test" / "unknown.png", 90, 50)
    dataset = read_dataset(tmp_path, layout=Layout(group=r"cow(\d+)-"))
    assert [(item.path.name, item.group) for item in dataset.tests] == [("unknown.png", "")]
    assert len({item.group for item in dataset.items}) == 6


def named(root: Path, pattern: str) -> str:
    item = Item(root / "cows" / "Lisa_17_2026-01-02.png", ("cow",), None)
    return group_by_path([item], root, pattern)[0].group


@pytest.mark.parametrize(
    ("group", "found"),
    [
        (r"/(\w+?)_", "Lisa"),
        (r"^cows/([A-Z][a-z]*)_\d+", "Lisa"),
        (r"_(\d{4}-\d{2}-\d{2})\.png$", "2026-01-02"),
        (r"\d+_", "17_"),
        (r"([]^\-/]L.sa)", "/Lisa"),
    ],
)
def test_simple_expressions_find_a_group(tmp_path: Path, group: str, found: str):
    assert named(tmp_path, group) == found


@pytest.mark.parametrize(
    "group",
    ["(a+)+b", "(a|aa)*b", "(?:a*)*b", "(a?){30}b", "a*a*a*b", r"(a)\1", "(a)(b)", "a|b"],
)
def test_an_expression_that_might_take_for_ever_is_refused(tmp_path: Path, group: str):
    with pytest.raises(DataError, match="at most 2 characters or classes"):
        named(tmp_path, group)
    with pytest.raises(BadRequest, match="settings: group: "):
        read_settings({"group": "a" * 201})


def test_a_group_is_looked_for_in_paths_of_some_length_alone(tmp_path: Path):
    with pytest.raises(DataError, match="260 characters are too long a path"):
        group_by_path([Item(tmp_path / ("a" * 256 + ".png"), ("a",), None)], tmp_path, "a")


def held_out(dataset: Dataset) -> list[Path]:
    return [item.path for item in dataset.items if item.part == "valid"]
