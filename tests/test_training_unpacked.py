"""Unpacked images of Parquet files are part of the cache: kept while they are used, and otherwise
the first to go that was not used for longest."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import photos
import pytest

from registry.errors import DataError
from training.data import cache_eviction, dataset
from training.data.audit import audit_source
from training.data.cache_eviction import UNPACKED_TABLE, remove_oldest
from training.data.dataset import Dataset, read_dataset
from training.data.items import Item, Layout
from training.data.table import list_table
from training.settings import Settings

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

EVERYTHING = 1 << 60


@pytest.fixture(autouse=True)
def a_volume_with_free_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """However full the one below the temporary folder is."""
    monkeypatch.setattr(cache_eviction, "FREE_SHARE", 0)


def packed(tmp_path: Path, name: str = "photos", seed: int = 0) -> Path:
    """A Parquet file of six images."""
    classes = {"dark": 60 + seed, "light": 190 + seed}
    files = sorted(photos.folder(tmp_path / name, 3, classes).rglob("*.*"))
    images, labels = [path.read_bytes() for path in files], [path.parent.name for path in files]
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{name}.parquet")
    return tmp_path / f"{name}.parquet"


def read(source: Path, cache: Path) -> Dataset:
    return read_dataset(source, cache=cache)


def test_unpacked_images_are_evicted_once_nobody_uses_them(tmp_path: Path):
    cache = tmp_path / "cache"
    found = read(packed(tmp_path), cache)
    size = sum(item.path.stat().st_size for item in found.items)
    assert remove_oldest(cache, EVERYTHING) == []
    assert all(item.path.is_file() for item in found.items)
    del found
    (removed,) = remove_oldest(cache, EVERYTHING)
    assert removed > size
    assert not list(cache.iterdir())


def test_unpacked_images_stay_while_their_table_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache, removed = tmp_path / "cache", []

    def list_late(table: Path, layout: Layout) -> list[Item]:
        removed.extend(remove_oldest(cache, EVERYTHING))  # as another training on a full volume
        return list_table(table, layout)

    monkeypatch.setattr(dataset, "list_table", list_late)
    assert read(packed(tmp_path), cache).labels == ("dark", "light")
    assert removed == []


def test_unpacked_images_stay_while_they_are_audited(tmp_path: Path):
    cache = tmp_path / "cache"
    audit = audit_source(packed(tmp_path), Settings(), cache=cache)
    assert remove_oldest(cache, EVERYTHING) == []
    assert all(item.path.is_file() for item in audit.items)


def test_unpacked_images_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After a power failure they would be empty, and taken for what was unpacked."""
    cache, named = tmp_path / "cache", []
    monkeypatch.setattr(os, "sync", lambda: named.append(list(cache.glob("unpacked-*"))))
    read(packed(tmp_path), cache)
    assert named == [[]]


def test_a_folder_that_cannot_be_looked_into_stops_nothing(tmp_path: Path):
    """As another user's; here even the superuser cannot, because the table is a link to itself."""
    folder = tmp_path / f"unpacked-{'0' * 64}"
    folder.mkdir()
    (folder / UNPACKED_TABLE).symlink_to(folder / UNPACKED_TABLE)
    assert remove_oldest(tmp_path, EVERYTHING) == []


def test_what_an_earlier_version_had_not_finished_unpacking_goes_after_a_day(tmp_path: Path):
    cache = tmp_path / "cache"
    old, new = (cache / f"unpacked-{digit * 64}" for digit in "01")
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "photos-0000000.jpg").touch()
    os.utime(old, (0, 0))
    read(packed(tmp_path), cache)
    assert not old.exists()
    assert new.exists()


def test_what_was_evicted_is_unpacked_again(tmp_path: Path):
    cache, source = tmp_path / "cache", packed(tmp_path)
    before = read(source, cache).fingerprint
    remove_oldest(cache, EVERYTHING)
    assert read(source, cache).fingerprint == before


def test_unpacking_makes_room_on_a_full_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "cache"
    read(packed(tmp_path, "old"), cache)
    (old,) = cache.iterdir()
    monkeypatch.setattr(cache_eviction, "FREE_SHARE", 1)  # as if it were
    monkeypatch.setattr(cache_eviction, "MOST_FREE", EVERYTHING)
    notes: list[str] = []
    read_dataset(packed(tmp_path, "new", seed=1), cache=cache, note=notes.append)
    (new,) = cache.iterdir()
    assert new != old
    assert "least recently used cache files" in notes[0]


def test_trainings_that_unpack_the_same_file_at_once_share_it(tmp_path: Path):
    cache, source = tmp_path / "cache", packed(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        datasets = list(pool.map(read, [source] * 8, [cache] * 8))
    assert len({dataset.fingerprint for dataset in datasets}) == 1
    assert len(list(cache.iterdir())) == 1


def test_an_unpacking_that_fails_leaves_nothing(tmp_path: Path):
    source, cache = tmp_path / "photos.parquet", tmp_path / "cache"
    pq.write_table(pa.table({"image": [b"an image", None], "label": ["a", "b"]}), source)
    with pytest.raises(DataError, match="row 1: no encoded image, but None"):
        read(source, cache)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("label", ["labels", "class", "Label"])
@pytest.mark.parametrize("image", ["img", "Image"])
def test_the_columns_may_have_their_other_usual_names(tmp_path: Path, image: str, label: str):
    """As those of CIFAR and many other data sets of the Hub."""
    source = packed(tmp_path)
    pq.write_table(pq.read_table(source).rename_columns([image, label]), source)
    assert read(source, tmp_path / "cache").labels == ("dark", "light")


def test_names_in_place_of_images_are_refused_with_what_to_do(tmp_path: Path):
    source = tmp_path / "photos.parquet"
    pq.write_table(pa.table({"image": ["a.jpg"], "label": ["a"]}), source)
    with pytest.raises(DataError, match=r"row 0: no encoded image, but 'a\.jpg'; put the image f"):
        read(source, tmp_path / "cache")


def test_a_label_that_is_no_number_is_none(tmp_path: Path):
    source = packed(tmp_path)
    labels = pa.array([1.0, 2.0, float("nan")] * 2)
    pq.write_table(pq.read_table(source).set_column(1, "label", labels), source)
    with pytest.raises(DataError, match="2 of 6 images have no label"):
        read(source, tmp_path / "cache")


def test_a_file_without_rows_is_refused_by_its_name(tmp_path: Path):
    source = packed(tmp_path)
    pq.write_table(pq.read_table(source).slice(0, 0), source)
    with pytest.raises(DataError, match=r"photos\.parquet: no rows"):
        read(source, tmp_path / "cache")
