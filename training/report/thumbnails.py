"""Images in a page: small JPEGs, so that a page of many stays light."""

import io
from collections.abc import Sequence

from PIL import Image

from registry.images import UInt8Array
from training.report.page import breakable, picture
from training.tiles import Tile

SIDE = 160  # pixels; about 5 kB


def thumbnail(pixels: UInt8Array) -> bytes:
    """A JPEG of at most 160 pixels on a side."""
    content = io.BytesIO()
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    image.save(content, "JPEG", quality=80)
    return content.getvalue()


def tile_grid(tiles: Sequence[Tile]) -> str:
    """HTML: images with their captions, what the network looked at beside each."""
    double = " double" if any(tile.overlay is not None for tile in tiles) else ""
    return f'<div class="tiles{double}">{"".join(map(_tile, tiles))}</div>'


def _tile(tile: Tile) -> str:
    alt = ", ".join(tile.caption) or "image"
    images = picture(thumbnail(tile.pixels), "jpeg", alt)
    if tile.overlay is not None:
        images += picture(thumbnail(tile.overlay), "jpeg", f"{tile.caption[0]}: where it looked")
    lines = "".join(f"<span>{breakable(line)}</span>" for line in tile.caption)
    below = f"<figcaption>{lines}</figcaption>" if lines else ""
    kind = ' class="wrong"' if tile.wrong else ""
    return f'<figure{kind}><div class="pair">{images}</div>{below}</figure>'
