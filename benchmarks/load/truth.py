"""The models that a soak serves, and what each version must answer, computed with NumPy."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from registry.images import Float32Array, ImageSpec, UInt8Array, prepare
from registry.store import Registry
from registry.tta import TtaSpec, tta_views

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import tiny as tiny  # also for others, who need no path of their own

GOOD = "good"  # for the well-behaved clients, whose counts must agree with the server's
BAD = "bad"  # for the misbehaving ones
# Version 1, 2, ...: no two of them give any image the same answer.
BIASES = ((9.0, 0.0, 0.0), (0.0, 9.0, 0.0), (0.0, 0.0, 9.0), (2.0, -1.0, 0.5))
VERSIONS = range(1, len(BIASES) + 1)
SPEC = ImageSpec(size=tiny.SIZE)
TOLERANCE = 1e-4  # of a probability
BIGGER = (500, 375)


@dataclass(frozen=True)
class Picture:
    encoded: bytes
    pixels: UInt8Array  # [s,s,3], as the network sees it


def publish_models(root: Path, work: int = 0) -> None:
    """Publishes every version of both models, and promotes version 1."""
    for name in (GOOD, BAD):
        for bias in BIASES:
            version = tiny.publish(root, model=name, bias=bias, work=work)
            if version == 1:
                Registry(root).promote(name, 1, by="soak", reason="the first")


@cache
def pictures() -> tuple[Picture, ...]:
    encoded = [
        tiny.picture("red"),
        tiny.picture("green", format="PNG"),
        tiny.picture("white", format="WEBP"),
        tiny.noise(1),
        tiny.noise(2, size=BIGGER, format="JPEG"),
        tiny.noise(3, size=(30, 60), format="WEBP"),
    ]
    return tuple(Picture(one, prepare(one, SPEC)) for one in encoded)


@cache
def expected(number: int, version: int, n_views: int = 1) -> Float32Array:
    """The probabilities [classes] that this version gives image `number`."""
    picture = pictures()[number]
    views = tta_views(picture.pixels, picture.encoded, TtaSpec(), n_views)
    mean: Float32Array = tiny.answer(views, BIASES[version - 1]).mean(axis=0)
    return mean


def wrong(
    numbers: Sequence[int], version: int, answers: Sequence[Sequence[float]], n_views: int = 1
) -> str:
    """What is wrong with `answers` (probabilities in the order of the labels); empty if nothing."""
    if version not in VERSIONS:
        return f"there is no version {version}"
    if len(answers) != len(numbers):
        return f"{len(answers)} answers to {len(numbers)} images"
    for number, answer in zip(numbers, answers, strict=True):
        right = expected(number, version, n_views)
        if not np.allclose(answer, right, atol=TOLERANCE):
            return f"version {version} answered {answer} for image {number}, expected {right}"
    return ""
