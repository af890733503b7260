"""What docs/recipe.md says is there, is there."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", PAGE, flags=re.MULTILINE)
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_row_is_there_once_and_in_order():
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 66))


def test_every_row_says_where_it_stands():
    unsaid = [
        number
        for number, _, text in ROWS
        if not re.match(r"\*\*(done|partly|left out|open)\*\*", text)
    ]
    assert not unsaid


def test_what_is_done_names_a_test_and_what_is_left_out_a_reason():
    for number, feature, text in ROWS:
        if text.startswith(("**done**", "**partly**")):
            assert TEST.search(text), f"row {number}, {feature}: no test is named"
        if text.startswith("**left out**"):
            assert text.startswith("**left out**: "), f"row {number}, {feature}: no reason"


def test_every_test_that_is_named_exists():
    named = TEST.findall(PAGE)
    assert len(named) > 60
    missing = [f"{file}::{name}" for file, name in named if name not in names_in(file)]
    assert not missing


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"`(\w+/[\w/]+\.\w+)`", PAGE)) - {"report/test.csv"}
    assert {"training/presets.py", "training/recipe.py"} <= named
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_every_setting_that_is_named_exists():
    from training.settings import Settings

    named = set(re.findall(r"`(\w+)=\w+`", PAGE))
    assert {"keep", "schedule", "decay"} <= named
    assert named <= set(Settings.model_fields)
