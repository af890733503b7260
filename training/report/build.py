"""The evaluation report: one self-contained page, with its charts (PNG) and all of its numbers
(JSON) beside it.

Its content is in `findings.py`, its sections in `answer_sections.py` and `training_sections.py`,
the summary at its top in `words.py`, the charts in `training/plots.py`. However many classes and
images there are, the page stays below 3 MB: it limits the number of thumbnails and of rows.
"""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from training import plots
from training.data.decoded import Decoded
from training.report import answer_sections as answers
from training.report import training_sections
from training.report.as_json import to_json
from training.report.audit_pictures import draw_audit
from training.report.findings import Findings
from training.report.galleries import SHOWN, caption_name, describe, in_question, tiles
from training.report.page import document, paragraph
from training.report.picture import save
from training.report.words import in_words
from training.tiles import Tile, gallery

Tiles = dict[str, list[Tile]]


def write_report(findings: Findings, decoded: Decoded, folder: Path) -> None:
    """Writes index.html (self-contained), report.json and the charts into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = collect_tiles(findings, decoded)
    for name, figure in draw(findings, shown).items():
        save(figure, folder / name)
    pictures = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    text = json.dumps(to_json(findings), indent=2)
    (folder / "report.json").write_text(text, encoding="utf-8")
    (folder / "index.html").write_text(
        to_page(findings, pictures, shown), "utf-8", "backslashreplace"
    )


def to_page(
    findings: Findings, pictures: Mapping[str, bytes], shown: Mapping[str, Sequence[Tile]]
) -> str:
    """The whole page; sections without content are left out."""
    sections = [
        answers.results(findings),
        answers.mistakes(findings, pictures),
        answers.classes(findings),
        answers.images(findings, shown),
        answers.calibration(findings, pictures),
        answers.sets(findings),
        answers.views(findings, shown),
        training_sections.training(findings, pictures),
        training_sections.data(findings, pictures, shown),
        training_sections.doubts(findings, shown),
        training_sections.provenance(findings),
    ]
    lead = [_origin(findings), _lead(findings)]
    return document(findings.model, lead, [each for each in sections if each])


def draw(findings: Findings, shown: Mapping[str, Sequence[Tile]]) -> dict[str, Figure]:
    """Every picture by its file name."""
    pictures: dict[str, Figure] = {
        training_sections.rate_picture(stage): plots.learning_rate(search, stage)
        for stage, search in findings.searches.items()
    }
    overfit_from = findings.overfit.epoch if findings.overfit else None
    pictures["losses.png"] = plots.losses(findings.history, overfit_from)
    if findings.schedules:
        pictures["schedule.png"] = plots.schedule(findings.schedules)
    if findings.curve:
        pictures["learning_curve.png"] = plots.learning_curve(findings.curve, findings.plain.metric)
    if findings.task == "single":
        pictures["confusion.png"] = plots.confusion(findings.counts, findings.labels)
    before = findings.uncalibrated.bins if findings.uncalibrated else ()
    pictures["reliability.png"] = plots.reliability(findings.reliability.bins, before)
    pictures |= draw_audit(findings.audit)
    for name, each in shown.items():
        if each:
            pictures[f"{name}.png"] = gallery(each)
    return pictures


def collect_tiles(findings: Findings, decoded: Decoded) -> Tiles:
    """The images of each gallery, of predictions that test-time augmentation changed, of doubted
    labels, and some augmented ones."""
    shown = {
        name: _gallery(findings, decoded, places) for name, places in findings.galleries.items()
    }
    if findings.n_views > 1:
        for name, places in zip(("gained", "lost"), findings.turned, strict=True):
            shown[name] = _turned(findings, decoded, places[:SHOWN])
    if findings.noise:
        shown["suspects"] = [
            Tile(
                np.asarray(decoded.pixels[each.row]),
                (
                    caption_name(findings.dataset, each.row),
                    f"label: {each.given}",
                    f"seems: {each.suggested}",
                ),
            )
            for each in findings.noise.suspects[: 2 * SHOWN]
        ]
    shown["augmented"] = [Tile(view, ()) for view in findings.views]
    return shown


def _gallery(findings: Findings, decoded: Decoded, places: npt.NDArray[np.int64]) -> list[Tile]:
    """With heat maps of where the network looked."""
    rows, answered = findings.rows[places], findings.probabilities[places]
    heats = None
    if findings.looked and len(places):
        classes = in_question(answered, findings.targets[places], findings.task)
        heats = findings.looked(np.array(decoded.pixels[rows]), classes.tolist())
    return tiles(findings.dataset, decoded.pixels, rows, answered, findings.limits, heats)


def _turned(findings: Findings, decoded: Decoded, places: npt.NDArray[np.int64]) -> list[Tile]:
    """With the predictions for one view, and for several."""
    data, plain, viewed = findings.dataset, findings.probabilities, findings.tta_probabilities
    drawn = tiles(data, decoded.pixels, findings.rows[places], viewed[places], findings.limits)
    shown = []
    for tile, place in zip(drawn, places, strict=True):
        before, after = (describe(each[place], data, findings.limits) for each in (plain, viewed))
        captions = (f"1 view: {before}", f"{findings.n_views} views: {after}")
        shown.append(replace(tile, caption=(*tile.caption[:2], *captions)))
    return shown


def _origin(findings: Findings) -> str:
    """HTML: what identifies this version before it has a number."""
    known = [
        findings.facts[name] for name in ("trained", "backbone", "data") if name in findings.facts
    ]
    return paragraph(" · ".join(known))


def _lead(findings: Findings) -> str:
    """HTML: the summary in words."""
    lines = (
        f"<dt>{html.escape(remark.topic)}</dt>"
        f"<dd{' class=severe' if remark.concern else ''}>{html.escape(remark.text)}</dd>"
        for remark in in_words(findings)
    )
    return f'<dl class="words">{"".join(lines)}</dl>'
