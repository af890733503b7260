"""Values in messages."""

from registry.quoted import quoted


def test_what_was_cut_does_not_look_whole():
    assert quoted("a" * 80) == f"'{'a' * 80}'"
    assert quoted("a" * 81) == f"'{'a' * 80}...'"
    assert quoted(list(range(99)), most=9) == "[0, 1, 2,..."
