"""The charts of a training, each drawn from plain values: for a report, and inline in a notebook.

They are narrow, so that text stays legible on a phone, and lines differ by more than their colour,
so that they can be told apart in print.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from training.evaluation.calibration import Bin
from training.fit.epoch import Epoch
from training.fit.lr_finder import RateSearch
from training.fit.schedule import Shares
from training.report.picture import BLUE, GREY, PALE, RED, Picture, short

SKIP_FIRST, SKIP_LAST = 10, 5  # of the finder's points: the noisy start, the divergence at the end
MANY_LABELS = 24  # above this a confusion matrix has no names and numbers
FEW_LABELS = 4  # up to this it shows its zeros
BESIDE = 28  # letters of a confusion matrix's names that fit side by side
STYLES = ("-", "--", "-.", ":")


def learning_rate(search: RateSearch, stage: str = "") -> Picture:
    """The range test: loss against learning rate, and the rate chosen."""
    figure, axis = _figure(5.2, 3.2)
    end = max(len(search.rates) - SKIP_LAST, min(3, len(search.rates)))
    begin = min(SKIP_FIRST, end // 3)
    axis.plot(search.rates[begin:end], search.losses[begin:end], color=BLUE)
    axis.axvline(search.suggestion, color=RED, linestyle="--")
    axis.annotate(
        f" chosen: {search.suggestion:.1e} ",
        (search.suggestion, 1.0),
        xycoords=("data", "axes fraction"),
        color=RED,
        va="bottom",
        ha="center",
    )
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    if stage:
        axis.set_title(stage, loc="left", fontsize=10, pad=20)
    return figure


def schedule(schedules: Mapping[str, Shares]) -> Picture:
    """The learning rate of each batch relative to its group's highest, stage after stage."""
    figure, axis = _figure(5.2, 2.6 + 0.18 * len(schedules))
    start = 0
    for (stage, shares), style in zip(schedules.items(), cycle(STYLES), strict=False):
        places = np.arange(start, start + len(shares))
        axis.plot(places, shares, style, label=stage, markersize=3 if len(shares) == 1 else 0)
        start += len(shares)
    axis.set(xlabel="batch", ylabel="share of the peak rate", ylim=(0, 1.05))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(frameon=False, fontsize=9, loc="outside lower left")
    return figure


def losses(history: Sequence[Epoch], overfit_from: int | None = None) -> Picture:
    """Training and held-out loss of each epoch.

    Args:
        overfit_from: the epoch, counted from 1, since which the network overfits; it is marked.
    """
    spans = _stages(history)
    figure, axis = _figure(5.2, 3 + 0.17 * len(spans))
    places = np.arange(1, len(history) + 1)
    axis.plot(places, [epoch.train_loss for epoch in history], "o-", color=BLUE, label="training")
    held_out = [epoch.valid_loss for epoch in history]
    axis.plot(places, held_out, "s--", color=RED, label="held-out")
    for number, (begin, end, stage) in enumerate(spans):
        axis.axvspan(begin - 0.5, end + 0.5, color=PALE if number % 2 else "white", zorder=-2)
        axis.annotate(  # on separate lines, so that short stages do not overlap
            f"{stage}: {begin}–{end}" if end > begin else f"{stage}: {begin}",  # noqa: RUF001
            (0, 1),
            (0, 4 + 11 * (len(spans) - 1 - number)),
            xycoords="axes fraction",
            textcoords="offset points",
            color=GREY,
            fontsize=8,
        )
    if overfit_from:
        axis.axvline(overfit_from, color=GREY, linestyle=":")
        axis.annotate(" overfitting from here", (overfit_from, 0.02), color=GREY, fontsize=8,
                      xycoords=("data", "axes fraction"))  # fmt: skip
    axis.set(xlabel="epoch", ylabel="loss", xlim=(0.5, max(len(history), 1) + 0.5))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(frameon=False, fontsize=9, ncols=2, loc="outside lower left")
    return figure


def learning_curve(curve: Mapping[int, Sequence[float]], metric: str) -> Picture:
    """The metric against the number of training images: a point per draw, a line through means."""
    figure, axis = _figure(5.2, 3.2)
    sizes = sorted(curve)
    for size in sizes:
        axis.plot([size] * len(curve[size]), curve[size], "o", color=GREY, alpha=0.6, markersize=4)
    axis.plot(sizes, [float(np.mean(curve[size])) for size in sizes], color=BLUE)
    axis.set(xscale="log", xlabel="training images", ylabel=f"{metric}, held-out images")
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    return figure


def confusion(counts: npt.NDArray[np.int64], labels: Sequence[str]) -> Picture:
    """True class by row, predicted class by column, shaded by the share of the row. Up to 24
    classes have names and numbers.

    Args:
        counts: [classes,classes].
    """
    n = len(counts)
    side = 2.6 + 0.2 * min(n, MANY_LABELS)
    figure, axis = _figure(side + 0.5, side)
    figure.set_layout_engine("compressed")  # with a square plot, others cut off the left label
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    # the root of the shares, so that one mistake in a hundred is still visible
    axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    axis.spines[:].set_visible(False)
    axis.set(xlabel="predicted", ylabel="true")
    if n > MANY_LABELS:
        return figure
    names = [short(label) for label in labels]
    wide = n * max(map(len, names)) > BESIDE
    axis.set_xticks(range(n), names, rotation=90 if wide else 0, parse_math=False)
    axis.set_yticks(range(n), names, parse_math=False)
    size = 10 if n <= 8 else 7
    for row, column in np.ndindex(n, n) if n <= FEW_LABELS else np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.3 else "black"
        axis.text(column, row, str(counts[row, column]), fontsize=size, color=colour,
                  ha="center", va="center")  # fmt: skip
    return figure


def reliability(bins: Sequence[Bin], before: Sequence[Bin] = ()) -> Picture:
    """A reliability diagram: accuracy against confidence, with the number of predictions below.

    Args:
        before: the same without temperature scaling.
    """
    figure = Picture(figsize=(5.2, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    for each, colour, style, marker, label in (
        (before, GREY, "--", "x", "uncalibrated"),
        (bins, BLUE, "-", "o", "calibrated"),
    ):
        places = [one.confidence for one in each]
        shares = [one.accuracy for one in each]
        most = max((one.n for one in each), default=1)
        areas = [15 + 100 * one.n / most for one in each]
        upper.plot(places, shares, style, color=colour, linewidth=0.8)
        # whole also at 1.0, where the largest usually is
        upper.scatter(
            places, shares, areas, colour, marker=marker, label=label, clip_on=False, zorder=3
        )
    if before:
        upper.legend(frameon=False, fontsize=9, loc="upper left")
    for one in bins:
        lower.bar(one.low, one.n, one.high - one.low, align="edge", color=BLUE, edgecolor="white")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    lower.set(xlabel="confidence", ylabel="predictions")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axis in (upper, lower):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _figure(width: float, height: float) -> tuple[Picture, Axes]:
    with matplotlib.rc_context({"font.size": 10}):
        figure = Picture(figsize=(width, height), layout="constrained")
        axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _stages(history: Sequence[Epoch]) -> list[tuple[int, int, str]]:
    """First and last epoch of each stage, counted from 1."""
    starts = [1] if history else []
    pairs = enumerate(pairwise(history), start=2)
    starts += [place for place, (before, after) in pairs if before.stage != after.stage]
    ends = [start - 1 for start in starts[1:]] + [len(history)]
    return [
        (start, end, history[start - 1].stage) for start, end in zip(starts, ends, strict=False)
    ]
