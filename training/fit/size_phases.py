"""Progressive resizing: at which sizes to train, and what to train at each.

As in the course of 2018 (lesson 2: dog breeds at 224, then 299; satellites at 64, 128 and 256):
small first, where a step costs a fraction, and finally the size that is served, keeping the
weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.errors import BadRequest

SMALLEST, LARGEST = 2, 1024  # pixels


@dataclass(frozen=True)
class SizePhase:
    """What is trained at one size, after the head was trained on activations."""

    size: int
    head_epochs: int  # of the head alone, on augmented images
    epochs: range  # of all layers: the part of the schedule that this phase runs
    suffix: str  # of the stages' names; empty: there is only one size
    first: bool
    last: bool  # only epochs at the size that is served are selected from and averaged


def plan_phases(
    size: int,
    sizes: Sequence[int],
    size_epochs: Sequence[int],
    *,
    head_epochs: int,
    n_epochs: int,
) -> tuple[SizePhase, ...]:
    """One phase for each of `sizes`; without them, one at `size`.

    Without `size_epochs` each phase is that of 2018: the head on augmented images, the backbone
    frozen again, then all layers for the whole schedule. With them the one schedule of all layers
    is divided among them, and the head has its epochs at the first size.

    Raises:
        BadRequest: sizes that do not end with `size`, or epochs that do not add up.
    """
    if not sizes:
        _refuse_if(bool(size_epochs), "size_epochs need sizes; say both, or neither")
        return (SizePhase(size, head_epochs, range(n_epochs), "", first=True, last=True),)
    _check(size, sizes, size_epochs, n_epochs)
    _refuse_if(not head_epochs + n_epochs, "sizes need augmented_epochs or cycles to train at")
    ends = [sum(size_epochs[: place + 1]) for place in range(len(size_epochs))]
    return tuple(
        SizePhase(
            size=pixels,
            head_epochs=head_epochs if place == 0 or not ends else 0,
            epochs=range(ends[place] - size_epochs[place], ends[place])
            if ends
            else range(n_epochs),
            suffix=f" at {pixels} pixels",
            first=place == 0,
            last=place == len(sizes) - 1,
        )
        for place, pixels in enumerate(sizes)
    )


def _check(size: int, sizes: Sequence[int], size_epochs: Sequence[int], n_epochs: int) -> None:
    _refuse_if(
        sizes[-1] != size, f"sizes end with {sizes[-1]} and size is {size}; make them the same"
    )
    _refuse_if(
        not all(SMALLEST <= pixels <= LARGEST for pixels in sizes) or len(set(sizes)) < len(sizes),
        f"sizes are different numbers from {SMALLEST} to {LARGEST}",
    )
    if size_epochs:
        _refuse_if(
            len(size_epochs) != len(sizes) or min(size_epochs) < 1,
            f"{len(sizes)} sizes need as many size_epochs, each at least 1",
        )
        _refuse_if(
            sum(size_epochs) != n_epochs,
            f"size_epochs add up to {sum(size_epochs)}, and cycles, cycle_len and cycle_mult to "
            f"{n_epochs}; make them the same",
        )


def _refuse_if(wrong: bool, what: str) -> None:
    if wrong:
        raise BadRequest(f"settings: {what}")
