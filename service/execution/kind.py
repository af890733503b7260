"""What of a network decides how fast it is, and which of a bundle's models is run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from registry.bundle import FILES, Bundle, Precision
from registry.errors import BundleError
from service.execution.providers import PREFERRED, ActiveProvider

SAME_SIZE = 0.05  # by how much files of networks may differ that are taken for equally fast


@dataclass(frozen=True)
class Kind:
    """What a plan depends on; of one kind are two networks that are equally fast."""

    provider: ActiveProvider
    precision: Precision
    fixed_batch: int | None
    size: int
    n_classes: int
    backbone: str | None
    exporter: str | None
    n_bytes: int = field(compare=False)

    def same_as(self, other: "Kind") -> bool:
        """An imported network does not say what it is, hence the bytes."""
        return self == other and abs(self.n_bytes - other.n_bytes) <= SAME_SIZE * other.n_bytes


def kind_of(
    folder: Path, bundle: Bundle, provider: ActiveProvider, asked: Literal["auto"] | Precision
) -> Kind:
    """The kind of the model that a server runs which was asked for this precision.

    Raises:
        BundleError: the bundle does not hold it.
    """
    precision = choose_precision(bundle, provider, asked, f"{bundle.model}/{folder.name}")
    return Kind(
        provider=provider,
        precision=precision,
        fixed_batch=bundle.fixed_batch,
        size=bundle.image.size,
        n_classes=len(bundle.labels),
        backbone=bundle.provenance.get("backbone"),
        exporter=bundle.provenance.get("exporter"),
        n_bytes=(folder / FILES[precision]).stat().st_size,
    )


def choose_precision(
    bundle: Bundle, provider: ActiveProvider, asked: Literal["auto"] | Precision, where: str
) -> Precision:
    """Which of a bundle's models is run: the one asked for, or the one that suits the provider.

    Raises:
        BundleError: the bundle does not hold the one asked for.
    """
    held: set[Precision] = {"fp32", *bundle.variants}
    if asked == "auto":
        return PREFERRED[provider] if PREFERRED[provider] in held else "fp32"
    if asked not in held:
        raise BundleError(
            f"{where}: holds no {asked} variant, only {', '.join(sorted(held))}; publish one that "
            "does, or serve with --precision auto"
        )
    return asked
