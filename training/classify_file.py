"""Classifies an image file without a server, with the same result."""

from collections.abc import Sequence
from pathlib import Path

from registry.bundle import MODEL, read_bundle
from registry.images import ImageSpec, prepare
from registry.tta import TtaSpec, tta_views
from training.export.runtime import Answer, answering


def classify(version: str | Path, image: str | Path, *, views: int = 1) -> dict[str, float]:
    """A published version's predictions for an image: label -> probability.

    Args:
        version: its folder in a registry.
        views: how many views to average, the plain one first.

    Raises:
        BundleError: the folder is not a version.
        BadImage: the file is not an image.
    """
    bundle = read_bundle(Path(version))
    answer = answering(Path(version) / MODEL)
    return ask(answer, bundle.labels, bundle.image, bundle.tta, Path(image), views)


def ask(
    answer: Answer, labels: Sequence[str], spec: ImageSpec, tta: TtaSpec, image: Path, views: int
) -> dict[str, float]:
    """The same with any model."""
    encoded = image.read_bytes()
    pixels = tta_views(prepare(encoded, spec), encoded, tta, views)
    return dict(zip(labels, map(float, answer(pixels).mean(axis=0)), strict=True))
