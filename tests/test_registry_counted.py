"""Counts with their noun."""

from registry.counted import are, counted


def test_one_is_counted_in_the_singular():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]
    assert [are(n) for n in (0, 1, 2)] == ["are", "is", "are"]
