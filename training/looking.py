"""Data for a notebook to show, drawn by `training/plots.py` and `training/tiles.py`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from registry.errors import BadRequest
from registry.images import ImageSpec, UInt8Array, prepare
from registry.tta import tta_views
from training.evaluation.evaluate import Evaluation, confusions
from training.evaluation.gradcam import heat_maps
from training.evaluation.per_class import Pair, confused_pairs, predicted_labels, taken_for
from training.images import Images
from training.learner import Learner
from training.report.audit_pictures import draw_audit
from training.report.galleries import galleries, in_question, tiles
from training.report.picture import Picture
from training.tiles import Tile

WHOLE = ImageSpec(size=224, crop="squash")


def overview(images: Images) -> list[Figure]:
    """How many images each class has in each part, and how large they are."""
    return list(draw_audit(images.audit, Picture).values())


def examples(images: Images, n: int = 8) -> list[Tile]:
    """Prepared training images, drawn from every class in turn."""
    dataset, rows = images.dataset, images.dataset.rows("train")
    random = np.random.default_rng(images.settings.seed)
    piles = [
        list(random.permutation(rows[has > 0])) for has in dataset.targets[rows].T if has.any()
    ]
    rows_in_turn = [pile[turn] for turn in range(n) for pile in piles if turn < len(pile)]
    return [
        Tile(
            np.asarray(images.decoded.pixels[row]),
            (dataset.items[row].path.name, f"is {', '.join(dataset.items[row].labels)}"),
        )
        for row in list(dict.fromkeys(rows_in_turn))[:n]
    ]


def views(learner: Learner, evaluation: Evaluation, n: int = 8) -> UInt8Array:
    """What test-time augmentation makes of the first held-out image, [n,s,s,3], the plain one
    first."""
    bench, row = learner.bench, evaluation.rows[0]
    encoded = bench.dataset.items[row].path.read_bytes()
    return tta_views(bench.decoded.pixels[row], encoded, bench.settings.tta_spec(), n)


def held_out(learner: Learner) -> list[Path]:
    """The files of the held-out images."""
    return [learner.bench.dataset.items[row].path for row in learner.bench.rows("valid")]


def answered(image: Path, said: Mapping[str, float]) -> Tile:
    """An image file, decoded as for the network but whole, with its top prediction."""
    pixels = prepare(image.read_bytes(), WHOLE)
    label = max(said, key=lambda name: said[name])
    return Tile(pixels, (image.name, f"said {label} {said[label]:.2f}"))


def confusion(learner: Learner, evaluation: Evaluation) -> npt.NDArray[np.int64]:
    """[classes,classes] counts of held-out images, true class by row, in a single-label task."""
    return confusions(evaluation.plain, learner.bench.dataset.targets[evaluation.rows])


def most_confused(learner: Learner, evaluation: Evaluation) -> list[Pair]:
    """Which labels are predicted wrongly for held-out images, the most frequent first."""
    data, limits = learner.bench.dataset, learner.bench.label_thresholds
    said = predicted_labels(evaluation.plain, data.task, limits)
    targets = data.targets[evaluation.rows]
    return confused_pairs(taken_for(said, targets), targets, data.labels)


def gallery(learner: Learner, evaluation: Evaluation, name: str) -> list[Tile]:
    """Held-out images, and where the network looked: most_incorrect, most_uncertain or
    most_correct, and with more than two classes most_entropy.

    Raises:
        BadRequest: there is none of this name.
    """
    bench, data, limits = learner.bench, learner.bench.dataset, learner.bench.label_thresholds
    found = galleries(evaluation.plain, data.targets[evaluation.rows], data.task, limits)
    if name not in found:
        raise BadRequest(f"no gallery is called {name!r}; there are: {', '.join(found)}")
    rows, answers = evaluation.rows[found[name]], evaluation.plain[found[name]]
    classes = in_question(answers, data.targets[rows], data.task)
    shown = np.array(bench.decoded.pixels[rows])
    heats = heat_maps(bench.network, shown, classes, data.task)
    return tiles(data, bench.decoded.pixels, rows, answers, limits, heats)
