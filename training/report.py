"""The evaluation report: pictures (PNG), figures (JSON), and one page that shows both."""

import html
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from registry.images import Float32Array, UInt8Array
from training.audit import Audit
from training.audit_page import figures as audit_figures
from training.audit_page import overview, problem_list
from training.data import Dataset
from training.decoded import Decoded
from training.evaluate import Measures, confusions
from training.finder import RateSearch
from training.fit import Epoch
from training.galleries import SHOWN, galleries
from training.overfitting import overfitting
from training.page import page, picture, table
from training.preview import preview
from training.schedule import Shares

BLUE, RED, GREY = "#2563a8", "#c2402d", "#6b7280"
SKIP_FIRST, SKIP_LAST = 10, 5  # of the finder's points: the noisy start and the leap at the end
MANY_LABELS = 30  # above this a confusion matrix goes without names and numbers


@dataclass(frozen=True)
class Findings:
    """Everything a report tells."""

    model: str
    dataset: Dataset
    searches: dict[str, RateSearch]  # by stage
    schedules: dict[str, Shares]
    history: Sequence[Epoch]
    rows: npt.NDArray[np.int64]  # held-out
    probabilities: Float32Array  # of those rows
    plain: Measures
    tta: Measures
    n_views: int
    gained: int  # answers that the views made right
    lost: int  # and wrong
    facts: dict[str, str]  # provenance
    views: UInt8Array  # augmented training images, [n,s,s,3]
    audit: Audit


def write_report(findings: Findings, decoded: Decoded, folder: Path) -> None:
    """`folder` holds index.html (self-contained), report.json and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"learning_rate.png": _rates(findings.searches)}
    pictures["losses.png"] = _losses(findings.history)
    pictures["schedule.png"] = _schedules(findings.schedules)
    pictures["augmented.png"] = preview(findings.views)
    if findings.dataset.task == "single":
        pictures["confusion.png"] = _confusion(findings)
        for name, places in _chosen(findings).items():
            if len(places):
                pictures[f"{name}.png"] = _gallery(findings, decoded, places)
    pictures["audit.png"] = overview(findings.audit)
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=110)
    figures = json.dumps(_figures(findings), indent=2)
    (folder / "report.json").write_text(figures, encoding="utf-8")
    page = _page(findings, [folder / name for name in pictures])
    (folder / "index.html").write_text(page, encoding="utf-8")


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _rates(searches: dict[str, RateSearch]) -> Figure:
    figure, axes = _figure(5 * len(searches), 3.6, len(searches))
    for axis, (stage, search) in zip(axes, searches.items(), strict=True):
        end = max(len(search.rates) - SKIP_LAST, min(3, len(search.rates)))
        begin = min(SKIP_FIRST, end // 3)
        axis.plot(search.rates[begin:end], search.losses[begin:end], color=BLUE)
        axis.axvline(search.suggestion, color=RED, linestyle="--")
        axis.annotate(
            f" {search.suggestion:.1e}",
            (search.suggestion, 0.97),
            xycoords=("data", "axes fraction"),
            color=RED,
            va="top",
        )
        axis.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=stage)
    return figure


def _losses(history: Sequence[Epoch]) -> Figure:
    figure, (axis,) = _figure(7, 3.6)
    places = np.arange(1, len(history) + 1)
    axis.plot(places, [epoch.train_loss for epoch in history], "o-", color=BLUE, label="training")
    axis.plot(places, [epoch.valid_loss for epoch in history], "o-", color=RED, label="held-out")
    for place, (before, after) in enumerate(pairwise(history), start=1):
        if before.stage != after.stage:
            axis.axvline(place + 0.5, color=GREY, linewidth=0.8, linestyle=":")
    firsts = [
        place
        for place, epoch in enumerate(history, start=1)
        if place == 1 or history[place - 2].stage != epoch.stage
    ]
    for line, place in enumerate(firsts):  # a line each, so that short stages do not overlap
        axis.annotate(
            history[place - 1].stage,
            (place - 0.4, 1.14 - 0.06 * line),
            xycoords=("data", "axes fraction"),
            color=GREY,
            fontsize=8,
        )
    # also one epoch has room: what is written outside the limits would squeeze the picture
    limits = (0.5, len(history) + 0.5)
    axis.set(xlabel="epoch", ylabel="loss", xticks=places, xlim=limits)
    axis.legend(frameon=False)
    return figure


def _schedules(schedules: dict[str, Shares]) -> Figure:
    figure, (axis,) = _figure(7, 2.6)
    start = 0
    for stage, shares in schedules.items():
        axis.plot(np.arange(start, start + len(shares)), shares, label=stage)
        start += len(shares)
    axis.set(xlabel="batch", ylabel="share of the rate")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _confusion(findings: Findings) -> Figure:
    counts = confusions(findings.probabilities, findings.dataset.targets[findings.rows])
    n = len(counts)
    side = min(4 + 0.35 * n, 12)
    figure, (axis,) = _figure(side + 0.6, side)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    if n <= MANY_LABELS:
        axis.set_xticks(range(n), findings.dataset.labels, rotation=45 if n > 4 else 0)
        axis.set_yticks(range(n), findings.dataset.labels)
        for row, column in np.ndindex(n, n):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    return figure


def _chosen(findings: Findings) -> dict[str, npt.NDArray[np.int64]]:
    """Places among the held-out rows; none in a multi-label task."""
    if findings.dataset.task == "multi":
        return {}
    return galleries(findings.probabilities, findings.dataset.targets[findings.rows])


def _told(findings: Findings, place: int) -> dict[str, Any]:
    answer, item = findings.probabilities[place], findings.dataset.items[findings.rows[place]]
    said = findings.dataset.labels[int(answer.argmax())]
    probability = round(float(answer.max()), 6)
    return {
        "file": os.path.relpath(item.path, findings.dataset.root),
        "is": item.labels[0],
        "said": said,
        "probability": probability,
    }


def _gallery(findings: Findings, decoded: Decoded, places: npt.NDArray[np.int64]) -> Figure:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = list(figure.subplots(2, SHOWN // 2).flat)
    for axis in axes:
        axis.axis("off")
    for axis, place in zip(axes, places, strict=False):
        row = findings.rows[place]
        answer = findings.probabilities[place]
        item = findings.dataset.items[row]
        axis.imshow(decoded.pixels[row])
        said = findings.dataset.labels[int(answer.argmax())]
        axis.set_title(
            f"{item.path.name}\nis {item.labels[0]}\nsaid {said} {answer.max():.2f}",
            fontsize=8,
            color=RED if said != item.labels[0] else "black",
        )
    return figure


def _figures(findings: Findings) -> dict[str, Any]:
    """The JSON of a report."""
    return {
        "model": findings.model,
        "labels": findings.dataset.labels,
        "images": {part: len(findings.dataset.rows(part)) for part in ("train", "valid")},
        "plain": asdict(findings.plain),
        "tta": asdict(findings.tta)
        | {"views": findings.n_views, "gained": findings.gained, "lost": findings.lost},
        "learning_rates": {stage: asdict(search) for stage, search in findings.searches.items()},
        "overfitting": overfitting(findings.history),
        "epochs": [asdict(epoch) for epoch in findings.history],
        "confusion": confusions(
            findings.probabilities, findings.dataset.targets[findings.rows]
        ).tolist()
        if findings.dataset.task == "single"
        else None,
        "galleries": {
            name: [_told(findings, place) for place in places]
            for name, places in _chosen(findings).items()
        },
        "audit": audit_figures(findings.audit),
        "provenance": findings.facts,
    }


TITLES = {
    "learning_rate.png": "Learning rate: how the loss answers, and the rate chosen (red)",
    "losses.png": "Losses: a held-out loss that turns up while training falls is overfitting",
    "schedule.png": "Schedule",
    "augmented.png": "Training images as the network meets them",
    "confusion.png": "Confusion matrix (held-out images)",
    "most_incorrect.png": "Most incorrect",
    "most_uncertain.png": "Most uncertain",
    "most_correct.png": "Most correct",
    "most_entropy.png": "Most uncertain among all classes (entropy)",
    "audit.png": "Data audit",
}


def _page(findings: Findings, pictures: Sequence[Path]) -> str:
    summary = [
        ["", findings.plain.metric, "log loss"],
        ["one view", f"{findings.plain.value:.4f}", f"{findings.plain.log_loss:.4f}"],
        [f"{findings.n_views} views", f"{findings.tta.value:.4f}", f"{findings.tta.log_loss:.4f}"],
    ]
    epochs = [["stage", "training loss", "held-out loss", findings.plain.metric, "images/s"]]
    epochs += [
        [
            epoch.stage,
            f"{epoch.train_loss:.4f}",
            f"{epoch.valid_loss:.4f}",
            f"{epoch.metric_value:.4f}",
            f"{epoch.images_per_second:.0f}",
        ]
        for epoch in findings.history
    ]
    name = html.escape(findings.model)
    train, valid = (len(findings.dataset.rows(part)) for part in ("train", "valid"))
    parts = [
        f"<h1>{name}</h1>",
        f"<p>{train} images to learn from, {valid} held out, "
        f"{len(findings.dataset.labels)} classes. Averaging {findings.n_views} views made "
        f"{findings.gained} answers right and {findings.lost} wrong.</p>",
        table(summary),
    ]
    if sign := overfitting(findings.history):
        parts.append(f'<p class="severe">{html.escape(sign)}</p>')
    for path in pictures:
        title = html.escape(TITLES[path.name])
        parts.append(f"<h2>{title}</h2>{picture(path.read_bytes(), 'png', TITLES[path.name])}")
    parts += [problem_list(findings.audit)]
    parts += ["<h2>Epochs</h2>", table(epochs), "<h2>Provenance</h2>"]
    parts.append(
        table([["", ""], *([key, value] for key, value in findings.facts.items())], "facts")
    )
    return page(findings.model, parts)
