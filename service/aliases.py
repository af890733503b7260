"""What the registry says of every model, read in one go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from registry.errors import BundleError, UnfreezeError
from registry.pointers import Candidate, Cleared, Pointer
from registry.store import NAME, Registry

P = TypeVar("P")


@dataclass(frozen=True)
class Aliases:
    """The pointers in force with their numbers, or why they cannot be read; None: there is none."""

    promoted: tuple[int, Pointer] | BundleError | None
    candidate: tuple[int, Candidate | Cleared] | BundleError | None

    @property
    def numbers(self) -> tuple[int, int]:
        """Of the pointers to the promoted version and to the candidate; 0 where there is none."""
        promoted, candidate = self.promoted, self.candidate
        return (
            promoted[0] if isinstance(promoted, tuple) else 0,
            candidate[0] if isinstance(candidate, tuple) else 0,
        )


def read_aliases(registry: Registry) -> dict[str, Aliases]:
    """By model; a damaged pointer of one does not hide the others.

    Raises:
        OSError: the registry is not there now.
    """
    names = [path.name for path in registry.root.iterdir()] if registry.root.is_dir() else []
    return {name: _aliases(registry, name) for name in names if _is_name(name)}


def _aliases(registry: Registry, name: str) -> Aliases:
    return Aliases(
        _attempt(name, lambda: registry.promoted(name)),
        _attempt(name, lambda: registry.candidates(name).in_force()),
    )


def _attempt(name: str, read: Callable[[], P]) -> P | BundleError:
    try:
        return read()
    except BundleError as error:
        return error
    except (UnfreezeError, OSError) as error:
        return BundleError(f"{name}: its pointers cannot be read: {error}")


def _is_name(name: str) -> bool:
    return NAME.fullmatch(name) is not None
