"""What every picture of a training is: a figure that shows itself, and its colours.

Names of classes and files are drawn with `parse_math=False`: what they have between two dollar
signs is no mathematics, and may be none that Matplotlib can set. Powers of ten at an axis are some.
"""

import io
import warnings
from pathlib import Path
from typing import BinaryIO

from matplotlib.figure import Figure

from training.report.page import DPI

LONGEST = 28  # letters of a name
BLUE, RED, GREY, PALE = "#2563a8", "#b83220", "#5b6470", "#eef1f5"


class Picture(Figure):
    """A figure that a notebook shows as it is, whatever its backend."""

    def png(self) -> bytes:
        content = io.BytesIO()
        save(self, content)
        return content.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


def save(figure: Figure, to: Path | BinaryIO) -> None:
    """As PNG. A letter that no font has is drawn as a box; the terminal need not hear of each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(to, format="png", dpi=DPI)


def short(text: str) -> str:
    """A label or a file's name, cut off where it would not fit."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
