"""The charts of an audit: how many images each class has, and how large they are."""

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from training.data.audit import Audit

COLOURS = {"train": "#2563a8", "valid": "#c2402d", "test": "#6b7280", "not split": "#2563a8"}
AUDIT_PICTURES = {
    "audit_classes.png": "Images of each class in each part",
    "audit_sizes.png": "Width and height of the images in pixels",
}
WIDE = 100  # times the smallest side; from here on only powers of ten are named
MANY_CLASSES = 40  # above this the bars have no names


def draw_audit(audit: Audit, kind: type[Figure] = Figure) -> dict[str, Figure]:
    """How many images each class has in each part, and how large they are, by file name;
    figures of `kind`."""
    many = len(audit.counts) > MANY_CLASSES
    height = 4.5 if many else 2 + 0.2 * len(audit.counts)
    figures = {}
    for name, draw, tall in zip(AUDIT_PICTURES, (_bars, _sizes), (height, 3.2), strict=True):
        figures[name] = kind(figsize=(5.2, tall), layout="constrained")
        axis = figures[name].subplots()
        axis.spines[["top", "right"]].set_visible(False)
        draw(axis, audit)
    return figures


def _bars(axis: Axes, audit: Audit) -> None:
    labels = list(audit.counts)
    begun = np.zeros(len(labels))
    high = 0.8 if len(labels) <= MANY_CLASSES else 1  # with a gap between the bars, or without
    for part, colour in COLOURS.items():
        lengths = np.array([audit.counts[label][part] for label in labels], dtype=float)
        if lengths.any():
            axis.barh(range(len(labels)), lengths, high, left=begun, color=colour, label=part)
            begun += lengths
    axis.set(xlabel="images")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.invert_yaxis()
    if len(labels) <= MANY_CLASSES:
        axis.set_yticks(range(len(labels)), [label[:24] for label in labels], parse_math=False)
    else:
        axis.set_yticks([])
    if len(labels):
        figure = axis.get_figure()
        assert figure is not None
        figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside lower center")


def _sizes(axis: Axes, audit: Audit) -> None:
    counts = Counter((item.facts.width, item.facts.height) for item in audit.items if item.facts)
    axis.set(xlabel="width in pixels", ylabel="height in pixels")
    if not counts:
        return
    sizes = np.array(list(counts))
    areas = 12 + 200 * np.sqrt(np.array(list(counts.values())) / max(counts.values()))
    axis.scatter(sizes[:, 0], sizes[:, 1], s=areas, color=COLOURS["train"], alpha=0.35)
    if sizes.max() > 10 * sizes.min():
        axis.set(xscale="log", yscale="log")
        # 20, 50, 100 rather than powers of ten, as long as these fit side by side
        subs = (1, 2, 5) if sizes.max() < WIDE * sizes.min() else (1,)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(LogLocator(subs=subs))
            side.set_major_formatter(ScalarFormatter())
            side.set_minor_formatter(NullFormatter())
    if len(counts) == 1:
        axis.set_xticks(sizes[:, 0])
        axis.set_yticks(sizes[:, 1])
        axis.annotate(f"all are {sizes[0, 0]} x {sizes[0, 1]}", sizes[0], ha="center", va="top",
                      xytext=(0, -14), textcoords="offset points")  # fmt: skip
