"""What waits to be decoded or run, in the order of urgency."""

import heapq
import itertools
import math
from dataclasses import dataclass

from registry.images import UInt8Array
from service.work import Image


@dataclass(slots=True, eq=False)
class View:
    """Pixels [1,s,s,3] that can run now, or None where the image must be decoded first."""

    image: Image
    number: int = 0
    pixels: UInt8Array | None = None
    ready_at: float = 0


class Queue:
    """Views, the most urgent one first; of equally urgent ones the first that came."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, View]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, view: View) -> None:
        heapq.heappush(self._heap, (view.image.work.urgency, next(self._order), view))

    def push_front(self, view: View) -> None:
        heapq.heappush(self._heap, (-math.inf, next(self._order), view))

    def first(self) -> View:
        return self._heap[0][2]

    def pop(self) -> View:
        return heapq.heappop(self._heap)[2]
