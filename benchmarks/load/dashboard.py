"""Renders a Grafana dashboard with matplotlib, well enough to look at."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from load.prometheus import Series

Panel = dict[str, Any]
Found = Sequence[tuple[str, Series]]  # each with its legend

INCH_PER_COLUMN, INCH_PER_ROW = 0.6, 0.3
DOTS_PER_INCH = 80
MOST_IN_LEGEND = 8
STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float) -> str:
    for size, letter in STEPS:
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def seconds(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if abs(value) < 120 else f"{value / 60:.3g} min"


UNITS: dict[str, Callable[[float], str]] = {
    "none": number,
    "s": seconds,
    "decbytes": lambda value: f"{number(value)}B",
    "percentunit": lambda value: f"{100 * value:.3g} %",
    "percent": lambda value: f"{value:.3g} %",
    "ops": lambda value: f"{number(value)}/s",
    "reqps": lambda value: f"{number(value)}/s",
}


def legend_of(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template).strip()


def draw(path: Path, panels: Sequence[Panel], found: Mapping[int, Found], begin: float) -> None:
    """Plots every panel at its place on the dashboard; `found` has the series by panel id."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(24 * INCH_PER_COLUMN, rows * INCH_PER_ROW))
    for panel in panels:
        if panel["type"] == "row":
            at = panel["gridPos"]
            figure.text(0.008, 1 - (at["y"] + 0.6) / rows, panel["title"], size=12, weight="bold")
            continue
        axes = place(figure, panel["gridPos"], rows)
        axes.set_title(panel["title"], loc="left", size=9)
        series = found[panel["id"]]
        if not series:
            axes.text(0.5, 0.5, "No data", ha="center", color="red", transform=axes.transAxes)
        else:
            DRAW[panel["type"]](axes, panel, series, begin)
    figure.text(0.99, 0.999, "time in seconds since the load began", size=8, ha="right", va="top")
    figure.savefig(path, dpi=DOTS_PER_INCH)
    pyplot.close(figure)


def place(figure: Figure, at: dict[str, int], rows: int) -> Axes:
    left, bottom = at["x"] / 24, 1 - (at["y"] + at["h"]) / rows
    return figure.add_axes(
        (
            left + 1.1 / 24,
            bottom + 2.2 / rows,
            (at["w"] - 1.4) / 24,
            (at["h"] - 3.2) / rows,
        )
    )


def draw_stat(axes: Axes, panel: Panel, found: Found, begin: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    values = [(legend, series.values[-1]) for legend, series in found]
    lines = [
        f"{UNITS[defaults['unit']](value)}" + (f"  {legend}" if len(values) > 1 else "")
        for legend, value in values
    ]
    steps = [one for one in defaults["thresholds"]["steps"] if (one["value"] or 0) <= values[0][1]]
    axes.axis("off")
    size = 20 if len(lines) == 1 else 10
    axes.text(0, 0.9, "\n".join(lines), size=size, color=steps[-1]["color"], va="top")


def draw_table(axes: Axes, panel: Panel, found: Found, begin: float) -> None:
    newest = max(series.times[-1] for _, series in found)
    now = [series.labels for _, series in found if series.times[-1] == newest]
    names = sorted({name for labels in now for name in labels})
    axes.axis("off")
    cells = [[labels.get(name, "") for name in names] for labels in now]
    table = axes.table(cells, colLabels=names, loc="upper left", edges="horizontal")
    table.set_fontsize(9)


def draw_lines(axes: Axes, panel: Panel, found: Found, begin: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    if defaults["custom"]["stacking"]["mode"] == "normal":
        times = sorted({at for _, series in found for at in series.times})
        heights = [np.interp(times, one.times, one.values, left=0, right=0) for _, one in found]
        labels = [legend for legend, _ in found]
        axes.stackplot([at - begin for at in times], *heights, labels=labels, alpha=0.7)
    else:
        for legend, series in found:
            axes.plot([at - begin for at in series.times], series.values, label=legend, lw=1)
    if "thresholds" in defaults:
        axes.axhline(defaults["thresholds"]["steps"][-1]["value"], color="red", lw=0.8, ls="--")
    axes.set_ylim(0, defaults.get("max"))
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: UNITS[defaults["unit"]](y)))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[:MOST_IN_LEGEND],
        labels[:MOST_IN_LEGEND],
        fontsize=6.5,
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.13),
        ncol=4,
        frameon=False,
        handlelength=1,
        columnspacing=1,
        labelspacing=0.2,
    )


DRAW: dict[str, Callable[[Axes, Panel, Found, float], None]] = {
    "stat": draw_stat,
    "table": draw_table,
    "timeseries": draw_lines,
}
