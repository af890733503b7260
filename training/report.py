"""The evaluation report: pictures (PNG), figures (JSON), and one page that shows both."""

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from registry.images import Float32Array, UInt8Array
from training import plots
from training.audit import Audit
from training.audit_page import figures as audit_figures
from training.audit_page import overview, problem_list
from training.data import Dataset
from training.decoded import Decoded
from training.evaluate import Measures, confusions
from training.finder import RateSearch
from training.fit import Epoch
from training.galleries import galleries
from training.overfitting import overfitting
from training.page import page, picture, table
from training.schedule import Shares


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
    curve: Mapping[int, Sequence[float]]  # images learnt from -> metric, a value a draw


def write_report(findings: Findings, decoded: Decoded, folder: Path) -> None:
    """`folder` holds index.html (self-contained), report.json and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Figure] = {
        f"learning_rate_{stage}.png": plots.learning_rate(search, stage)
        for stage, search in findings.searches.items()
    }
    pictures["losses.png"] = plots.losses(findings.history)
    pictures["schedule.png"] = plots.schedule(findings.schedules)
    pictures["augmented.png"] = plots.images(findings.views)
    if findings.dataset.task == "single":
        pictures["confusion.png"] = plots.confusion(_counts(findings), findings.dataset.labels)
        for name, places in _chosen(findings).items():
            if len(places):
                tiles = [_tile(findings, decoded, place) for place in places]
                pictures[f"{name}.png"] = plots.gallery(tiles)
    if findings.curve:
        pictures["learning_curve.png"] = plots.learning_curve(findings.curve, findings.plain.metric)
    pictures["audit.png"] = overview(findings.audit)
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=plots.DPI)
    figures = json.dumps(_figures(findings), indent=2)
    (folder / "report.json").write_text(figures, encoding="utf-8")
    page = _page(findings, [folder / name for name in pictures])
    (folder / "index.html").write_text(page, encoding="utf-8")


def _counts(findings: Findings) -> npt.NDArray[np.int64]:
    return confusions(findings.probabilities, findings.dataset.targets[findings.rows])


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


def _tile(findings: Findings, decoded: Decoded, place: int) -> plots.Tile:
    told = _told(findings, place)
    return plots.Tile(
        np.asarray(decoded.pixels[findings.rows[place]]),
        (told["file"], f"is {told['is']}", f"said {told['said']} {told['probability']:.2f}"),
        wrong=told["said"] != told["is"],
    )


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
        "confusion": _counts(findings).tolist() if findings.dataset.task == "single" else None,
        "galleries": {
            name: [_told(findings, place) for place in places]
            for name, places in _chosen(findings).items()
        },
        "learning_curve": [
            {"images": size, "values": values} for size, values in sorted(findings.curve.items())
        ],
        "audit": audit_figures(findings.audit),
        "provenance": findings.facts,
    }


TITLES = {
    "learning_rate_head.png": "Learning rate of the head: how the loss answers, and the choice",
    "learning_rate_unfrozen.png": "Learning rate of all layers, once unfrozen",
    "losses.png": "Losses: a held-out loss that turns up while training falls is overfitting",
    "schedule.png": "Schedule",
    "augmented.png": "Training images as the network meets them",
    "confusion.png": "Confusion matrix (held-out images)",
    "most_incorrect.png": "Most incorrect",
    "most_uncertain.png": "Most uncertain",
    "most_correct.png": "Most correct",
    "most_entropy.png": "Most uncertain among all classes (entropy)",
    "learning_curve.png": "How many images: the head alone, learnt from ever more of them",
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
