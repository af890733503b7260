"""Names that there are not, and what is near them."""

from typing import Literal

import pytest
from pydantic import ValidationError

from registry.did_you_mean import LONGEST, did_you_mean
from registry.record import Record, explain

KNOWN = ["learning_rate", "learning_curve", "unfrozen_learning_rate", "size", "sizes", "size"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("learning_rat", "; did you mean learning_rate?"),  # and nothing that is less near
        ("Size", "; did you mean size or sizes?"),
        ("learning", "; did you mean learning_rate or learning_curve?"),
        ("zzz", ""),
        ("", ""),
        ("size" + "x" * 10**6, ""),
        ("x" * LONGEST + "size", ""),
    ],
)
def test_the_nearest_one_or_two_are_named(given: str, told: str):
    assert did_you_mean(given, KNOWN) == told


class Drink(Record):
    kind: Literal["", "tea", "coffee"]
    cups: int


@pytest.mark.parametrize(("kind", "near"), [("coffe", "; did you mean coffee?"), ("milk", "")])
def test_a_choice_that_is_near_is_named_beside_all_of_them(kind: str, near: str):
    with pytest.raises(ValidationError) as refusal:
        Drink.model_validate({"kind": kind, "cups": 1})
    told = f"kind: Input should be '', 'tea' or 'coffee' (given: '{kind}'){near}"
    assert explain(refusal.value) == told


def test_of_numbers_nothing_is_near():
    with pytest.raises(ValidationError) as refusal:
        Drink.model_validate({"kind": 3, "cups": "tea"})
    assert "did you mean" not in explain(refusal.value)
