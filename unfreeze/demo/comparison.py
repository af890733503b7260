"""Compares served answers with the true labels and with PyTorch run on the same files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from unfreeze.client import Client
from unfreeze.demo.photographs import Photographs
from unfreeze.predictions import Prediction

N_OFFLINE_WITH_VIEWS = 96  # images whose answers with TTA are also computed offline
PATIENCE_S = 600  # per request; on a slow machine the queue is full for longer than usual


@dataclass(frozen=True)
class Comparison:
    """How one version performs over gRPC."""

    version: int
    accuracy: float
    accuracy_tta: float
    served: int
    failed: int
    max_abs_diff: float  # largest difference of any probability from float32 PyTorch's


def ask_and_compare(
    client: Client, model: str, n_views: int, photographs: Photographs, run: Path, registry: Path
) -> Comparison:
    """Classifies every held-out image, once plainly and once with TTA, and compares.

    Args:
        run: the training run's folder, with the torch weights.
    """
    files = photographs.held_out
    plain = client.classify(files, model=model, tta_views=1, timeout_s=PATIENCE_S)
    views = client.classify(files, model=model, tta_views=n_views, timeout_s=PATIENCE_S)
    version = int(plain[0].version or 0)
    bundle = registry / model / str(version)
    few = N_OFFLINE_WITH_VIEWS
    answers = [*plain, *views]
    return Comparison(
        version=version,
        accuracy=_accuracy(plain, files, photographs),
        accuracy_tta=_accuracy(views, files, photographs),
        served=sum(answer.error is None for answer in answers),
        failed=sum(answer.error is not None for answer in answers),
        max_abs_diff=max(
            _difference(plain, offline(files, run, bundle, 1)),
            _difference(views[:few], offline(files[:few], run, bundle, n_views)),
        ),
    )


def offline(files: Sequence[Path], run: Path, bundle: Path, n_views: int) -> list[dict[str, float]]:
    """Label -> probability for each file, by PyTorch, without ONNX or a server."""
    import numpy as np

    from registry.bundle import read_bundle
    from registry.images import prepare
    from registry.tta import tta_views
    from training.evaluation.evaluate import predict
    from training.network.saving import NETWORK, load_network

    network, task = load_network(run / NETWORK)
    spec = read_bundle(bundle)
    answers = []
    for file in track(files, "the same images with PyTorch", transient=True):
        encoded = file.read_bytes()
        views = tta_views(prepare(encoded, spec.image), encoded, spec.tta, n_views)
        mean = predict(network, views, task).mean(axis=0)
        answers.append(dict(zip(spec.labels, np.asarray(mean).tolist(), strict=True)))
    return answers


def _accuracy(answers: list[Prediction], files: list[Path], photographs: Photographs) -> float:
    right = (
        answer.error is None and answer.label.name == photographs.truth[file]
        for answer, file in zip(answers, files, strict=True)
    )
    return sum(right) / len(files)


def _difference(served: list[Prediction], expected: list[dict[str, float]]) -> float:
    return max(
        abs(label.probability - truth[label.name])
        for answer, truth in zip(served, expected, strict=True)
        for label in answer.labels
    )
