"""Findings of trainings that never were: as many classes as one likes, and every section."""

from pathlib import Path

import numpy as np

from registry.images import Float32Array, ImageSpec, UInt8Array
from training.data.audit import Audit
from training.data.dataset import Dataset
from training.data.decoded import Decoded
from training.data.items import Facts, Item
from training.data.near_duplicates import look_at
from training.evaluation.calibration import at_temperature, measure_reliability
from training.evaluation.conformal import Abstention, fit_quantiles, measure_sets
from training.evaluation.evaluate import measure
from training.evaluation.suspects import Confusion, LabelNoise, Suspect
from training.fit.epoch import Epoch
from training.fit.lr_finder import RateSearch
from training.report.findings import Findings

SIZE = 48
SEARCH = RateSearch([10.0 ** (x / 10) for x in range(-50, -10)], [1.0] * 40, 1e-3, "made up")


def shapes(n: int) -> UInt8Array:
    """Noise, and in it a bright square somewhere, [n,s,s,3]."""
    random = np.random.default_rng(0)
    pixels = random.integers(40, 120, (n, SIZE, SIZE, 3), dtype=np.uint8)
    for image in pixels:
        top, left = random.integers(0, SIZE - 16, 2)
        image[top : top + 16, left : left + 16] = random.integers(150, 256, 3)
    return pixels


def corner(pixels: UInt8Array, classes: object) -> Float32Array:
    """A network that only ever looks at the top left; at nothing in every third image."""
    heat = np.zeros(pixels.shape[:3], np.float32)
    heat[:, :16, :16] = 1
    heat[::3] = 0
    return heat


def answers(targets: Float32Array, sureness: float) -> Float32Array:
    """Mostly right; the first two classes are often taken for one another."""
    random = np.random.default_rng(1)
    logits = sureness * targets + random.normal(0, 1, targets.shape)
    logits[:, :2] += sureness / 2 * targets[:, 1::-1]
    shares = np.exp(logits)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)


def dataset(n_classes: int, n: int, *, several: bool = False) -> Dataset:
    labels = tuple(f"kind {number:03d}" for number in range(n_classes))
    facts = Facts(SIZE, SIZE, "RGB", "PNG", 1000)
    items = []
    for row in range(n):
        own = labels[row % n_classes]
        more = {labels[row // 2 % n_classes]} if several and row % 2 else set()
        part = "valid" if row < n // 2 else "train"
        path = Path("/data") / own / f"{row:05d}.png"
        items.append(Item(path, tuple(sorted({own} | more)), part, f"{row:064x}", facts=facts))
    return Dataset(Path("/data"), tuple(items), labels, "multi" if several else "single")


def findings(n_classes: int = 2, n: int = 200, **more: object) -> tuple[Findings, Decoded]:
    """Of a single-label training in which half of `n` images are held out."""
    data, pixels = dataset(n_classes, n), shapes(n)
    rows = data.rows("valid")
    targets = data.targets[rows]
    plain, viewed = answers(targets, 2 + np.log(n_classes)), answers(targets, 4 + np.log(n_classes))
    told = {
        "model": "kinds",
        "dataset": data,
        "searches": {"head": SEARCH},
        "schedules": {"head": np.ones(10)},
        "history": [Epoch("head", 0.5, 0.6, 0.9, 1, 100), Epoch("head", 0.4, 0.5, 0.9, 1, 100)],
        "rows": rows,
        "probabilities": plain,
        "plain": measure(plain, targets, "single"),
        "tta_probabilities": viewed,
        "tta": measure(viewed, targets, "single"),
        "n_views": 4,
        "facts": {"backbone": "none", "settings": '{"size": 48}'},
        "views": pixels[:8],
        "audit": Audit(data.root, data.items, tuple(look_at(image) for image in pixels[:n])),
        "looked": corner,
    }
    return Findings(**(told | more)), Decoded(pixels, ImageSpec(size=SIZE), "key")


def everything(n_classes: int, n: int) -> tuple[Findings, Decoded]:
    """The same with what only some trainings find."""
    plain, _ = findings(n_classes, n)
    surer = at_temperature(plain.probabilities, 0.5, "single")
    quantiles = fit_quantiles(plain.probabilities, plain.targets, 0)
    first, second = plain.labels[:2]
    doubted = tuple(Suspect(row, first, second, 0.1, -0.8) for row in range(20))
    noise = LabelNoise(n // 2, 5, doubted, (Confusion(first, second, 20, 0.1),), ())
    more = {
        "temperature": 2.0,
        "uncalibrated": measure_reliability(surer, plain.targets, "single"),
        "sets_from": f"Fitted on {n} images and measured on {n} others.",
        "sets": measure_sets(quantiles, plain.probabilities, plain.targets, 0),
        "abstention": Abstention(0.95, 0.8, 0.7, 0.96),
        "noise": noise,
        "curve": {10: [0.5, 0.6], 40: [0.8]},
        "searches": {"head": SEARCH, "unfrozen": SEARCH},
    }
    return findings(n_classes, n, **more)


def several(n_labels: int, n: int) -> tuple[Findings, Decoded]:
    """Of a multi-label training."""
    data = dataset(n_labels, n, several=True)
    targets = data.targets[data.rows("valid")]
    random = np.random.default_rng(2)
    given = (0.3 + 0.4 * targets + random.normal(0, 0.15, targets.shape)).clip(0.01, 0.99)
    answered = np.asarray(given, np.float32)
    measures = measure(answered, targets, "multi")
    changed = {"dataset": data, "probabilities": answered, "tta_probabilities": answered}
    fitted = (0.4,) * n_labels
    return findings(n_labels, n, **changed, plain=measures, tta=measures, thresholds=fitted)
