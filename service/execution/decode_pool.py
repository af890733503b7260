"""Decodes what is queued in a pool of threads, and not far ahead of the network: decoded views take
memory."""

import threading
from collections.abc import Sequence
from concurrent.futures import Executor as Pool

from service.execution.decoding import Decoder
from service.execution.queue import Queue, View


class DecodePool:
    """Images to be decoded for one version, in a pool that all versions share. Thread-safe."""

    def __init__(self, pool: Pool, decoder: Decoder, ready: Queue, max_decoded: int) -> None:
        """While `max_decoded` decoded views wait in `ready`, decoding is deferred."""
        self.queue = Queue()
        self._pool = pool
        self._decoder = decoder
        self._ready = ready
        self._max_decoded = max_decoded
        self._n_deferred = 0
        self._lock = threading.Lock()

    def submit(self, views: Sequence[View]) -> None:
        """Queues views of encoded images.

        Raises:
            Unavailable: the queue is closed.
        """
        self.queue.push(views)
        for _ in views:  # each task takes whatever is most urgent when it runs
            self._pool.submit(self._decode_one)

    def resume(self, n_images: int) -> None:
        """Resubmits up to `n_images` that were deferred, as far as the limit allows. Call it after
        anything that may have taken decoded views."""
        with self._lock:  # or an image could be deferred because of views that were just taken
            free = self._max_decoded - self._ready.n_decoded
            n = max(0, min(n_images, self._n_deferred, free))
            self._n_deferred -= n
        for _ in range(n):
            self._pool.submit(self._decode_one)

    def _decode_one(self) -> None:
        """Decodes an image, or defers it if enough views are waiting to run."""
        with self._lock:
            if self._ready.n_decoded >= self._max_decoded:
                self._n_deferred += 1
                return
        self._decoder.decode_one(self.queue)
        self.resume(1)
