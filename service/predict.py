"""Encoded images to probabilities: decode, views, execution plan, mean."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Pool
from dataclasses import dataclass

import numpy as np

from registry.errors import BadImage
from registry.images import Float32Array, UInt8Array, prepare
from registry.tta import tta_views
from service.loader import Loaded


@dataclass(frozen=True)
class Answer:
    """What became of one image: probabilities [classes], or why there are none."""

    probabilities: Float32Array | None = None
    error: BadImage | None = None
    decode_s: float = 0
    queue_s: float = 0
    compute_s: float = 0


class Predictor:
    """Answers requests with whatever version it is handed."""

    def __init__(
        self, pool: Pool, max_pixels: int, observe_decode: Callable[[str, float], None]
    ) -> None:
        """`observe_decode` is told a model and the seconds that one of its images took."""
        self._pool = pool
        self._max_pixels = max_pixels
        self._observe_decode = observe_decode

    async def predict(self, loaded: Loaded, images: Sequence[bytes], n_views: int) -> list[Answer]:
        """An answer for each image, in order; a bad image does not touch the others.

        Raises:
            Overloaded: there is no room in the queue; nothing was done.
        """
        with loaded.executor.admit(len(images) * max(1, n_views)):
            if len(images) == 1:
                return [await self._one(loaded, images[0], n_views)]
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._one(loaded, image, n_views)) for image in images
                    ]
            except* Exception as errors:
                raise errors.exceptions[0] from None
            return [task.result() for task in tasks]

    async def _one(self, loaded: Loaded, encoded: bytes, n_views: int) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            views, decode_s = await loop.run_in_executor(
                self._pool, self._decode, loaded, encoded, n_views
            )
        except BadImage as error:
            return Answer(error=error)
        self._observe_decode(loaded.model, decode_s)
        ran = await loaded.executor.run(views)
        mean: Float32Array = ran.probabilities.mean(axis=0)
        return Answer(mean, None, decode_s, ran.queue_s, ran.compute_s)

    def _decode(self, loaded: Loaded, encoded: bytes, n_views: int) -> tuple[UInt8Array, float]:
        started = time.perf_counter()
        pixels = prepare(encoded, loaded.bundle.image, self._max_pixels)
        views = tta_views(pixels, encoded, loaded.bundle.tta, n_views)
        return views, time.perf_counter() - started


def top(probabilities: Float32Array, k: int) -> list[int]:
    """Indices of the `k` largest, largest first; of equal ones the first in the list of labels."""
    order = np.argsort(-probabilities, kind="stable")
    return [int(i) for i in order[:k]]
