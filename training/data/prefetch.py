"""Prefetches pixels while a GPU works on the previous batch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from training.data.dataset import Rows
from training.data.decoded import Decoded
from training.fit.device import page_locked


def read_each(decoded: Decoded, parts: Sequence[Rows], device: torch.device) -> Iterator[Tensor]:
    """Pixels of each part, uint8 [n,s,s,3], in order; not yet on `device`.

    For a CPU they are read on demand, as prefetching would only take cores from the computation;
    for any other device a thread reads the next part meanwhile.
    """

    def read(rows: Rows) -> Tensor:
        return page_locked(torch.from_numpy(decoded.pixels[rows]), device)

    return map(read, parts) if device.type == "cpu" else _ahead(read, parts)


def _ahead(read: Callable[[Rows], Tensor], parts: Sequence[Rows]) -> Iterator[Tensor]:
    coming: Future[Tensor] | None = None
    with ThreadPoolExecutor(1) as pool:
        for rows in parts:
            come, coming = coming, pool.submit(read, rows)
            if come:
                yield come.result()
        if coming:
            yield coming.result()
