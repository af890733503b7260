"""A version on trial (canary or shadow), and the requests that it is tried on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from registry.labels import label_changes
from registry.pointers import Mode
from registry.store import TENSOR_SUFFIX
from service.models.comparison import Comparison
from service.models.loaded_version import LoadedVersion
from service.models.shadow import DecodeViewsFor, Sample, Shadow

SAMPLE = 1 << 16  # bytes to hash at either end of the first image; hashing blocks the event loop

Content = Sequence[bytes | memoryview]  # images, encoded or as flat pixels


@dataclass
class Trial:
    """A candidate, and the live version that it is tried beside."""

    beside: int  # number of the promotion pointer that it is tried beside
    mode: Mode
    percent: float
    live: LoadedVersion
    candidate: LoadedVersion
    comparison: Comparison
    shadow: Shadow

    @property
    def same_size(self) -> bool:
        """Whether the candidate takes pixels that were prepared for the live version."""
        return self.candidate.bundle.image.size == self.live.bundle.image.size

    @cached_property
    def label_changes(self) -> str:
        """What the candidate changes about the live version's labels or their order, for people;
        empty if nothing."""
        return label_changes(self.live.bundle.labels, self.candidate.bundle.labels)

    @property
    def note(self) -> str:
        """What the candidate has otherwise than the live version, and which requests it does not
        answer for that; empty if nothing."""
        live, changes = f"version {self.live.version}", self.label_changes
        splits, notes = self.mode == "split", []
        if changes:
            notes.append(f"its labels differ from those of {live} ({changes})")
        if changes and splits:
            notes.append(f"{live} answers the Open Inference Protocol alone")
        if not self.same_size:
            size, live_size = self.candidate.bundle.image.size, self.live.bundle.image.size
            notes.append(f"its images have {size} pixels a side, those of {live} {live_size}")
        if not self.same_size and not (changes and splits):
            verb = "answers" if splits else "gets"
            notes.append(f"{live} alone {verb} requests to {self.live.model}{TENSOR_SUFFIX}")
        return "; ".join(notes)

    def answers(
        self, content: Callable[[], Content], *, same_labels: bool = False, same_size: bool = False
    ) -> bool:
        """Whether the candidate answers the request with these images.

        Args:
            content: is called only if it matters.
            same_labels: not if it has other labels than the live version, or in another order.
            same_size: not if its images have another size.
        """
        if self.mode != "split" or (same_labels and self.label_changes):
            return False
        return (self.same_size or not same_size) and self._selects(content())

    def sample(self, content: Content, decode: DecodeViewsFor, n_views: int) -> Sample | None:
        """A sample of the request with these images, if the candidate is to be compared on it."""
        if self.mode == "shadow" and self._selects(content):
            return self.shadow.sample(decode, n_views)
        return None

    def _selects(self, content: Content) -> bool:
        return bool(content) and 100 * hash_fraction(content, self.candidate.version) < self.percent


def hash_fraction(content: Content, version: int) -> float:
    """A hash from 0 to 1 that depends only on the images and the version.

    So a repeated request gets the same version, on every replica, and a request that is selected at
    some percentage is selected at every larger one.
    """
    digest = hashlib.blake2b(f"{version}/{len(content)}".encode(), digest_size=8)
    for end in ends(content[0]):
        digest.update(end)
    return int.from_bytes(digest.digest()) / 2**64


def ends(content: Any) -> tuple[Any, Any]:
    """The first and last SAMPLE elements of a sequence, without overlap if it is shorter."""
    return content[:SAMPLE], content[max(SAMPLE, len(content) - SAMPLE) :]
