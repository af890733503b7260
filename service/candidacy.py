"""A version on trial: which requests it is tried on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from registry.pointers import Mode
from service.comparison import Comparison
from service.loader import Loaded

SAMPLE = 1 << 16  # bytes from either end of the first image; the event loop does the hashing


@dataclass
class Candidacy:
    """The candidate of a model while this server tries it."""

    number: int  # of its pointer
    beside: int  # number of the promotion that it is tried beside
    mode: Mode
    percent: float
    loaded: Loaded
    comparison: Comparison

    def answers(self, content: Sequence[bytes]) -> bool:
        """The request with these images is one of its share."""
        return self.mode == "split" and self._draws(content)

    def shadows(self, content: Sequence[bytes]) -> bool:
        return self.mode == "shadow" and self._draws(content)

    def _draws(self, content: Sequence[bytes]) -> bool:
        return bool(content) and 100 * draw(content, self.loaded.version) < self.percent


def draw(content: Sequence[bytes], version: int) -> float:
    """A number from 0 to 1 that depends on the images and the version alone.

    So a repeated request meets the same version, also on another replica, and a request that was
    drawn at some percentage is drawn at every larger one.
    """
    digest = hashlib.blake2b(f"{version}/{len(content)}".encode(), digest_size=8)
    digest.update(content[0][:SAMPLE])
    digest.update(content[0][-SAMPLE:])
    return int.from_bytes(digest.digest()) / 2**64
