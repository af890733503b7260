"""A version on trial (canary or shadow), and the requests that it is tried on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from registry.pointers import Mode
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

    @property
    def same_shape(self) -> bool:
        """Whether the candidate's input and output have the shapes of the live version's."""
        labels = len(self.candidate.bundle.labels), len(self.live.bundle.labels)
        return self.same_size and labels[0] == labels[1]

    def answers(self, content: Callable[[], Content]) -> bool:
        """Whether the candidate answers the request with these images; `content` is called only if
        it matters."""
        return self.mode == "split" and self._selects(content())

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
