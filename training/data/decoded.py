"""Images decoded once into a memory map of pixels, keyed by their content."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.errors import BadImage, DataError
from registry.images import ImageSpec, UInt8Array, prepare
from training.data.cache_eviction import make_room, mark_used
from training.data.inspecting import THREADS
from training.data.items import Item
from training.data.read_again import read_again
from training.run.whole_files import written_whole


@dataclass(frozen=True)
class Decoded:
    """Pixels of a data set's images, [n,s,s,3] RGB uint8, row by row; read from disk as needed."""

    pixels: UInt8Array
    spec: ImageSpec
    key: str  # SHA-256 over what the pixels depend on


class Damaged(DataError):
    """Files that are truncated or damaged behind their header, with the reasons."""

    def __init__(self, files: dict[Path, str]) -> None:
        named = [f"{path}: {reason}" for path, reason in files.items()]
        more = f"; and {len(named) - 5} more" if len(named) > 5 else ""
        super().__init__(f"{'; '.join(named[:5])}{more}. Repair or remove them and start again")
        self.files = files


MARGIN = 1.15  # so that a view zoomed by 1.1 and rotated by 10 degrees is still sharp


def larger(spec: ImageSpec, side: int | None) -> ImageSpec:
    """The same images with more pixels, for augmentation: `side` of them, if given and larger."""
    size = math.ceil(spec.size * MARGIN) if side is None else max(spec.size, side)
    return spec.model_copy(update={"size": size})


def decode(
    items: Sequence[Item],
    spec: ImageSpec,
    cache: Path,
    advance: Callable[[int], None],
    note: Callable[[str], None] = lambda text: None,
) -> Decoded:
    """The prepared pixels of `items`, from the cache when the same images were decoded before.

    Args:
        advance: called with the number of images done since the last call.
        note: called with what was evicted from the cache.

    Raises:
        Damaged: names the files that are damaged behind their header.
        DataError: a file is gone, or has another content than `items` say.
    """
    digest = hashlib.sha256(spec.digest().encode())
    for item in items:
        digest.update(item.sha256.encode())
    key = digest.hexdigest()
    path = cache / f"decoded-{key}.u8"
    shape = (len(items), spec.size, spec.size, 3)
    while (pixels := _find(path, shape)) is None:  # again, if another removed it meanwhile
        make_room(cache, math.prod(shape), note)
        with written_whole(path) as file:
            _decode_into(file, shape, items, spec, advance)
    return Decoded(pixels, spec, key)


def _find(path: Path, shape: tuple[int, ...]) -> UInt8Array | None:
    """None: there is no such file, or it is truncated."""
    try:
        with path.open("rb") as file:
            mark_used(file)  # as long as the map lives, as it has a copy of the descriptor
            if os.fstat(file.fileno()).st_size != math.prod(shape):
                return None
            return np.memmap(file, dtype=np.uint8, mode="r", shape=shape)
    except (FileNotFoundError, NotADirectoryError):  # reported when the new file's folder is made
        return None


def _decode_into(
    path: Path,
    shape: tuple[int, ...],
    items: Sequence[Item],
    spec: ImageSpec,
    advance: Callable[[int], None],
) -> None:
    pixels = _new_map(path, shape)
    damaged: dict[Path, str] = {}

    def one(row: int) -> None:
        try:
            pixels[row] = prepare(read_again(items[row]), spec)
        except BadImage as error:
            damaged[items[row].path] = str(error)
        advance(1)

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(one, range(len(items))):
            pass
    if damaged:
        raise Damaged(dict(sorted(damaged.items())))
    pixels.flush()


def _new_map(path: Path, shape: tuple[int, ...]) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    """For writing; preallocated, so that a full disk is an error now rather than SIGBUS later."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))
    return np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
