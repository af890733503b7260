"""Galleries: images side by side with their captions, for a report and for a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.images import UInt8Array
from training.report.picture import RED, Picture, short

COLUMNS = 4  # images in a row
TILE, LINE, GAP = 1.7, 0.15, 0.15  # of a gallery, in inches


@dataclass(frozen=True)
class Tile:
    """An image of a gallery, with its caption."""

    pixels: UInt8Array  # [s,s,3]
    caption: tuple[str, ...]  # short lines
    wrong: bool = False
    overlay: UInt8Array | None = None  # the image under its Grad-CAM heat map, [s,s,3]


def gallery(tiles: Sequence[Tile]) -> Picture:
    """Images with their captions, and the overlay beside each image that has one."""
    double = any(tile.overlay is not None for tile in tiles)
    across, side = (2 * TILE if double else TILE), TILE
    n_lines = max((len(tile.caption) for tile in tiles), default=0)
    step = side + n_lines * LINE + GAP
    rows = max(-(-len(tiles) // COLUMNS), 1)
    # one set of axes for all, in inches: laying out many takes half a second
    figure = Picture(figsize=(COLUMNS * (across + GAP), rows * step))
    axis = figure.add_axes((0, 0, 1, 1))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, COLUMNS)
        left, top = column * (across + GAP) + GAP / 2, (rows - row) * step - GAP / 2
        below = top - n_lines * LINE
        for number, image in enumerate([tile.pixels, tile.overlay]):
            if image is not None:
                begin = left + number * side
                axis.imshow(image, extent=(begin, begin + side, below - side, below))
        for line, words in enumerate(tile.caption):
            axis.text(left, top - line * LINE, short(words), va="top", fontsize=8,
                      color=RED if tile.wrong else "black", parse_math=False)  # fmt: skip
    axis.set(xlim=(0, COLUMNS * (across + GAP)), ylim=(0, rows * step))
    axis.axis("off")
    return figure


def images(pixels: UInt8Array) -> Picture:
    """Images side by side, without captions; [n,s,s,3]."""
    return gallery([Tile(image, ()) for image in pixels])
