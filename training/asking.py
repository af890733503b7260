"""One image, answered by a published version without a server."""

from pathlib import Path

from registry.bundle import MODEL, read_bundle
from registry.images import prepare
from registry.tta import tta_views
from training.runtime import answering


def classify(version: str | Path, image: str | Path, *, views: int = 1) -> dict[str, float]:
    """What a published version answers to an image file, as a server would: label -> probability.

    Args:
        version: its folder in a registry.
        views: of which the mean is taken, the first one plain.

    Raises:
        BundleError: it is no version.
        BadImage: the file is not an image.
    """
    folder, encoded = Path(version), Path(image).read_bytes()
    bundle = read_bundle(folder)
    pixels = tta_views(prepare(encoded, bundle.image), encoded, bundle.tta, views)
    answers = answering(folder / MODEL)(pixels).mean(axis=0)
    return dict(zip(bundle.labels, map(float, answers), strict=True))
