"""Pixels are read while a GPU is at work on those before."""

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

    A CPU reads them when they are asked for, as nothing is gained by taking its cores from what it
    computes; for any other device the next part is read in a thread meanwhile.
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
