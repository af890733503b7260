"""Prints how many bytes come back after a large batch: `python shrink.py BUNDLE`."""

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from registry.bundle import read_bundle
from service.execution.providers import Placement
from service.execution.session import Session


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


folder = Path(sys.argv[1])
bundle = read_bundle(folder)
session = Session(folder / "model.onnx", bundle, placement=Placement("cpu"), threads=1)
size = bundle.image.size
images = np.zeros((64, size, size, 3), np.uint8)
session.run(images[:1])  # as a measurement begins; what the pool takes first, it keeps
session.run(images)
before = resident()
session.run_and_shrink(images[:1])
print(before - resident())
