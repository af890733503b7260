"""The golden answers of a training: a few held-out images, and the exported model's answers."""

from pathlib import Path

import numpy as np

from registry.bundle import GOLDEN
from registry.golden import write_golden
from registry.images import UInt8Array
from training.bench import Bench
from training.data.dataset import Rows
from training.data.read_again import read_again
from training.export.runtime import answering

GOLDEN_IMAGES = 8


def write_golden_answers(bench: Bench, model: Path, stage: Path) -> None:
    """Writes the images, as they were encoded, and the answers of the ONNX model `model` to
    `stage`."""
    items = bench.dataset.items
    encoded = [read_again(items[row]) for row in _golden_rows(bench)]
    write_golden(stage / GOLDEN, encoded, answering(model)(golden_pixels(bench)))


def golden_pixels(bench: Bench) -> UInt8Array:
    """The images whose answers travel with the bundle, as the network gets them, [n,s,s,3]."""
    return np.array(bench.decoded.pixels[_golden_rows(bench)])


def _golden_rows(bench: Bench) -> Rows:
    rows = bench.dataset.rows("valid")
    return rows[evenly(len(rows), GOLDEN_IMAGES)]


def evenly(n: int, most: int) -> Rows:
    """Up to `most` of the numbers below `n`, evenly spread."""
    return np.linspace(0, n - 1, min(most, n)).astype(int)
