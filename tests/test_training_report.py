"""The pictures and the page of a report, drawn from plain values."""

import io

import numpy as np
import pytest
from PIL import Image

from training import plots
from training.finder import RateSearch
from training.fit import Epoch


def shown(picture: plots.Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """What a notebook would show, [h,w,3]."""
    with Image.open(io.BytesIO(picture._repr_png_())) as image:
        return np.asarray(image.convert("RGB"))


def noise(n: int, size: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


SEARCH = RateSearch([10.0 ** (x / 10) for x in range(-50, -10)], [1.0] * 40, 1e-3, "")
HISTORY = [Epoch(stage, 0.5, 0.6, 0.9, 1, 1) for stage in ("head", "head", "all layers")]


PICTURES = {
    "a rate": lambda: plots.learning_rate(SEARCH, "head"),
    "a search of one step": lambda: plots.learning_rate(RateSearch([1e-5], [2.0], 1e-5, "")),
    "losses": lambda: plots.losses(HISTORY, overfit_from=2),
    "losses of one epoch": lambda: plots.losses(HISTORY[:1]),
    "a schedule": lambda: plots.schedule({"head": np.ones(10), "all layers": np.ones(1)}),
    "two classes": lambda: plots.confusion(np.array([[5, 1], [0, 4]]), ["dark", "light"]),
    "120 classes": lambda: plots.confusion(np.eye(120, dtype=np.int64), list(map(str, range(120)))),
    "a gallery": lambda: plots.gallery([plots.Tile(noise(1)[0], ("a.jpg", "is dark"))]),
    "overlays": lambda: plots.gallery([plots.Tile(one, ("a.jpg",), True, one) for one in noise(5)]),
    "images": lambda: plots.images(noise(8)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_shows_itself_in_a_notebook(name: str):
    seen = shown(PICTURES[name]())
    assert seen.shape[1] < 2000
    assert 0.001 < (seen.mean(axis=2) < 200).mean() < 0.9


def test_the_rate_chosen_is_marked_on_its_curve():
    red = [(plots.BLUE, False), (plots.RED, True)]
    (axis,) = plots.learning_rate(SEARCH).axes
    lines = {line.get_color(): list(line.get_xdata()) for line in axis.lines}
    assert [(colour, set(lines[colour]) == {1e-3}) for colour, _ in red] == red


def test_overfitting_is_marked_at_its_epoch():
    (plain,), (marked,) = plots.losses(HISTORY).axes, plots.losses(HISTORY, overfit_from=2).axes
    assert len(marked.lines) == len(plain.lines) + 1
    assert list(marked.lines[-1].get_xdata()) == [2, 2]
