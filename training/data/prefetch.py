"""Prefetches pixels while a GPU works on the previous batch."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from registry.images import UInt8Array
from training.data.dataset import Rows
from training.data.decoded import Decoded


def read_each(
    decoded: Decoded, parts: Sequence[Rows], device: torch.device
) -> Iterator[UInt8Array]:
    """Pixels of each part, [n,s,s,3], in order.

    On a CPU they are read on demand, as prefetching would only take cores from the computation; for
    any other device a thread reads the next part meanwhile.
    """
    if device.type == "cpu":
        return (decoded.pixels[rows] for rows in parts)
    return _ahead(decoded, parts)


def _ahead(decoded: Decoded, parts: Sequence[Rows]) -> Iterator[UInt8Array]:
    coming: Future[UInt8Array] | None = None
    with ThreadPoolExecutor(1) as pool:
        for rows in parts:
            read, coming = coming, pool.submit(decoded.pixels.__getitem__, rows)
            if read:
                yield read.result()
        if coming:
            yield coming.result()
