"""What determines how fast a network is, and which of a bundle's models to run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from registry.bundle import FILES, Bundle, Precision
from registry.errors import BundleError
from service.execution.providers import PREFERRED, ActiveProvider

SAME_SIZE = 0.05  # relative difference in file size up to which networks count as equally fast


@dataclass(frozen=True)
class Kind:
    """What a plan depends on; two networks of one kind are equally fast."""

    provider: ActiveProvider
    precision: Precision
    fixed_batch: int | None
    size: int
    n_classes: int
    backbone: str | None
    exporter: str | None
    n_bytes: int = field(compare=False)

    def same_as(self, other: "Kind") -> bool:
        """Compares file sizes too, since an imported network does not name its backbone."""
        return self == other and abs(self.n_bytes - other.n_bytes) <= SAME_SIZE * other.n_bytes


def kind_of(
    folder: Path, bundle: Bundle, provider: ActiveProvider, requested: Literal["auto"] | Precision
) -> Kind:
    """The kind of the model that a server with this --precision runs.

    Raises:
        BundleError: the bundle has no such variant.
    """
    precision = choose_precision(bundle, provider, requested, f"{bundle.model}/{folder.name}")
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
    bundle: Bundle, provider: ActiveProvider, requested: Literal["auto"] | Precision, where: str
) -> Precision:
    """Which of a bundle's models to run: the requested one, or the one that suits the provider.

    Raises:
        BundleError: the bundle has no such variant.
    """
    held: set[Precision] = {"fp32", *bundle.variants}
    if requested == "auto":
        return PREFERRED[provider] if PREFERRED[provider] in held else "fp32"
    if requested not in held:
        raise BundleError(
            f"{where}: has no {requested} variant, only {', '.join(sorted(held))}; publish a "
            "version that has one, or serve with --precision auto"
        )
    return requested
