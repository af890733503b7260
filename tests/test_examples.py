"""The examples run, and the lesson shows a picture after every step."""

import base64
import importlib.util
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

EXAMPLES = Path(__file__).parent.parent / "examples"
LESSON = EXAMPLES / "lesson.ipynb"
SMALL = {"LESSON_SIZE": "32", "LESSON_CYCLES": "2"}


def read_lesson() -> Any:
    lesson = nbformat.read(LESSON, as_version=4)
    nbformat.validate(lesson)
    return lesson


def shows_a_picture(source: str) -> bool:
    """Whether the last line of a cell is one."""
    return source.splitlines()[-1].startswith(("plots.", "tiles.", "display("))


def pictures(cell: Any) -> list[Any]:
    """The images below a cell, [h,w]."""
    encoded = [output.get("data", {}).get("image/png") for output in cell.outputs]
    files = [io.BytesIO(base64.b64decode(image)) for image in encoded if image]
    return [np.asarray(Image.open(file).convert("L")) for file in files]


def run(lesson: Any) -> None:
    """Every cell has its outputs, and the kernel that made them has ended and been waited for."""
    client = nbclient.NotebookClient(lesson, timeout=600, kernel_name="python3")
    with client.setup_kernel():
        for place, cell in enumerate(lesson.cells):
            client.execute_cell(cell, place)
        kernel = client.km.provisioner.process
        client.kc.shutdown()
        kernel.wait(60)


def test_the_lesson_is_kept_without_outputs():
    cells = [cell for cell in read_lesson().cells if cell.cell_type == "code"]
    assert len(cells) > 15
    assert not [cell.source for cell in cells if cell.outputs or cell.execution_count]
    assert sum(shows_a_picture(cell.source) for cell in cells) >= 12


def test_the_lesson_has_all_eight_steps_in_order():
    text = "\n".join(cell.source for cell in read_lesson().cells if cell.cell_type == "markdown")
    steps = ("## 1. ", "## 2. ", "## 3. ", "## 4. ", "## 5 and 6. ", "## 7. ", "## 8. ")
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_every_step_of_the_lesson_leaves_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = photos.folder(tmp_path / "data", per_class=20)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), *sys.path]))
    for name, text in (SMALL | {"LESSON_DATA": str(data), "LESSON_WORK": str(tmp_path)}).items():
        monkeypatch.setenv(name, text)
    lesson = read_lesson()
    run(lesson)
    shown = [cell for cell in lesson.cells if shows_a_picture(cell.source)]
    blank = [
        cell.source
        for cell in shown
        if not any((grey < 200).mean() > 0.005 for grey in pictures(cell))
    ]
    assert [source for source in blank if "most_incorrect" not in source] == []
    assert (tmp_path / "models" / "lesson" / "1" / "report" / "index.html").is_file()


def test_a_plotted_signal_is_learnt_and_classified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    spec = importlib.util.spec_from_file_location("plotted_signal", EXAMPLES / "plotted_signal.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    data = example.draw(tmp_path / "data", per_class=16, seed=0)
    learner = example.learn(data, 64, tmp_path / "cache")
    fresh = example.draw(tmp_path / "fresh", per_class=3, seed=1)
    right = [
        (learner.classify(file)["worn"] > 0.5) == (file.parent.name == "worn")
        for file in sorted(fresh.rglob("*.png"))
    ]
    assert sum(right) >= 5
    assert "all layers" in capsys.readouterr().out
