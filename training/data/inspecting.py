"""Reads every file of a data set once: its digest and header, or what is wrong with it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from registry.errors import BadImage
from registry.images import ImageSpec, image_info, prepare
from training.data.items import Facts, Item

SMALL = ImageSpec(size=32, crop="squash")  # cheap to decode to, where pixels are not wanted
THREADS = 4  # reading is mostly I/O, and Pillow releases the GIL


def inspect(
    items: Sequence[Item],
    advance: Callable[[int], None] = lambda n: None,
    damaged: Mapping[Path, str] = MappingProxyType({}),
) -> tuple[list[Item], list[str]]:
    """Items with their digest and facts, and a line for each file that is not an image."""

    def look(item: Item) -> Item | str:
        return damaged.get(item.path) or _inspect(item)

    good, bad = [], []
    with ThreadPoolExecutor(THREADS) as pool:
        for item, seen in zip(items, pool.map(look, items), strict=True):
            if isinstance(seen, str):
                bad.append(f"{item.path}: {seen}")
            else:
                good.append(seen)
            advance(1)
    return good, bad


def find_damaged(items: Sequence[Item]) -> list[str]:
    """A line for each image that is truncated or damaged behind its header; decodes all of them."""

    def look(item: Item) -> str:
        try:
            prepare(item.path.read_bytes(), SMALL)
        except (OSError, BadImage) as error:
            return f"{item.path}: {error}"
        return ""

    with ThreadPoolExecutor(THREADS) as pool:
        return [line for line in pool.map(look, items) if line]


def _inspect(item: Item) -> Item | str:
    try:
        return identify(item, item.path.read_bytes())
    except (OSError, BadImage) as error:
        return str(error)


def identify(item: Item, encoded: bytes) -> Item:
    """The item with its digest and facts.

    Raises:
        BadImage: it does not have an image's header.
    """
    facts = Facts(*image_info(encoded), n_bytes=len(encoded))
    return replace(item, sha256=hashlib.sha256(encoded).hexdigest(), facts=facts)
