"""Answers that were given before, by the content of the image; off unless it is given room."""

import hashlib
from collections import OrderedDict
from datetime import datetime

from registry.images import Float32Array

Key = tuple[str, int, datetime, int, bytes]


class Cache:
    """The newest `max_entries` answers; what was asked for last stays longest.

    A version's answers never change, so what names it is part of the key and nothing is ever stale.
    So is when it was made: a model that is deleted and published again begins at version 1. Used
    from the event loop alone.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._answers: OrderedDict[Key, Float32Array] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    @staticmethod
    def key(model: str, version: int, made: datetime, n_views: int, content: bytes) -> Key:
        """Names an answer; `content` is the encoded image, or its pixels."""
        return model, version, made, max(1, n_views), hashlib.sha256(content).digest()

    def get(self, key: Key) -> Float32Array | None:
        """Probabilities [classes], if they are remembered."""
        if key in self._answers:
            self._answers.move_to_end(key)
        return self._answers.get(key)

    def put(self, key: Key, probabilities: Float32Array) -> None:
        """Remembers an answer, and forgets the one that was not asked for the longest."""
        # a copy: it may be one row of a batch, which would stay in memory with it
        self._answers[key] = probabilities.copy()
        if len(self._answers) > self._max_entries:
            self._answers.popitem(last=False)
