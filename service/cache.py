"""A cache of answers, keyed by image content; off by default."""

import hashlib
from collections import OrderedDict
from datetime import datetime

from registry.images import Float32Array

Key = tuple[str, int, datetime, int, bytes]


class Cache:
    """An LRU cache of up to `max_entries` answers.

    Versions are immutable and part of the key, so nothing is ever stale. The key also has the time
    when the version was made: a model that is deleted and published again starts at version 1
    again. Used from the event loop only.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._answers: OrderedDict[Key, Float32Array] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    @staticmethod
    def key(model: str, version: int, made: datetime, n_views: int, content: bytes) -> Key:
        """The key of an answer; `content` is the encoded image, or its pixels."""
        return model, version, made, max(1, n_views), hashlib.sha256(content).digest()

    def get(self, key: Key) -> Float32Array | None:
        """Probabilities [classes], or None on a miss."""
        if key in self._answers:
            self._answers.move_to_end(key)
        return self._answers.get(key)

    def put(self, key: Key, probabilities: Float32Array) -> None:
        """Adds an answer, and evicts the least recently used one if the cache is full."""
        # a copy: a row of a batch would keep the whole batch in memory
        self._answers[key] = probabilities.copy()
        if len(self._answers) > self._max_entries:
            self._answers.popitem(last=False)
