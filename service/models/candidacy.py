"""A version on trial: which requests it is tried on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from registry.pointers import Mode
from service.models.comparison import Comparison
from service.models.loaded import Loaded
from service.models.shadow import DrawFor, Sample, Shadow

SAMPLE = 1 << 16  # bytes from either end of the first image; the event loop does the hashing

Content = Sequence[bytes | memoryview]  # images, encoded or as flat pixels


@dataclass
class Candidacy:
    """The candidate of a model while this server tries it."""

    beside: int  # number of the promotion that it is tried beside
    mode: Mode
    percent: float
    live: Loaded
    loaded: Loaded
    comparison: Comparison
    shadow: Shadow

    @property
    def same_size(self) -> bool:
        """It takes pixels that were prepared for the live version."""
        return self.loaded.bundle.image.size == self.live.bundle.image.size

    @property
    def same_shape(self) -> bool:
        """Whoever knows the shapes of the live version's input and output can use it."""
        labels = len(self.loaded.bundle.labels), len(self.live.bundle.labels)
        return self.same_size and labels[0] == labels[1]

    def answers(self, content: Callable[[], Content]) -> bool:
        """The request with these images, which are read only for this, is one of those that it
        answers."""
        return self.mode == "split" and self._draws(content())

    def sample(self, content: Content, draw: DrawFor, n_views: int) -> Sample | None:
        """The request with these images, if it is one of those on which it is compared."""
        if self.mode == "shadow" and self._draws(content):
            return self.shadow.sample(draw, n_views)
        return None

    def _draws(self, content: Content) -> bool:
        return bool(content) and 100 * draw_lot(content, self.loaded.version) < self.percent


def draw_lot(content: Content, version: int) -> float:
    """A number from 0 to 1 that depends on the images and the version alone.

    So a repeated request meets the same version, also on another replica, and a request that was
    drawn at some percentage is drawn at every larger one.
    """
    digest = hashlib.blake2b(f"{version}/{len(content)}".encode(), digest_size=8)
    for end in ends(content[0]):
        digest.update(end)
    return int.from_bytes(digest.digest()) / 2**64


def ends(content: Any) -> tuple[Any, Any]:
    """The first and the last SAMPLE of a sequence; of a shorter one the second has what is left."""
    return content[:SAMPLE], content[max(SAMPLE, len(content) - SAMPLE) :]
