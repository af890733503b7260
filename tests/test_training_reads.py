"""Reading a test part leaves a trace."""

from pathlib import Path

import photos
import pytest

from training.data.dataset import list_items
from training.data.inspecting import inspect
from training.data.items import Item
from training.evaluation.reads import JOURNAL, describe_reads, note_read


@pytest.fixture
def tests(tmp_path: Path) -> list[Item]:
    _, listed, _ = list_items(photos.folder(tmp_path / "data", per_class=2))
    return inspect(listed)[0]


def test_every_reading_is_counted_with_who_and_when(tests: list[Item], tmp_path: Path):
    cache = tmp_path / "cache"
    first = note_read(cache, tests, "birds", "abc")
    assert describe_reads(first).endswith("the first read on record")
    note_read(cache, tests[:2], "birds", "abc")  # another test part
    reads = note_read(cache, tests[::-1], "birds2", "abc")  # the same, in another order
    assert [(read.model, read.images) for read in reads] == [("birds", 4), ("birds2", 4)]
    assert reads[0].at <= reads[1].at
    assert "for birds2 at " in describe_reads(reads)
    assert "and once before" in describe_reads(reads)


def test_a_training_that_is_gone_on_with_reads_once(tests: list[Item], tmp_path: Path):
    first = note_read(tmp_path, tests, "birds", "abc")
    later = note_read(tmp_path, tests, "birds", "abd")
    assert note_read(tmp_path, tests, "birds", "abc") == first
    assert note_read(tmp_path, tests, "birds", "abd") == later
    assert len(later) == 2


def test_a_line_that_was_cut_short_does_no_harm(tests: list[Item], tmp_path: Path):
    note_read(tmp_path, tests, "birds", "abc")
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"at": "2026-')
    assert len(note_read(tmp_path, tests, "birds", "abd")) == 2
    assert len(note_read(tmp_path, tests, "birds", "abe")) == 3
