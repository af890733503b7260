"""The sections of a report on the training: its data, its course, and its provenance."""

import json
from collections.abc import Mapping, Sequence

from registry.counted import counted
from training.report.audit_page import class_table, problem_list
from training.report.audit_pictures import AUDIT_PICTURES
from training.report.findings import Findings
from training.report.page import Section, chart, charts, folded, paragraph, table
from training.report.thumbnails import tile_grid
from training.tiles import Tile

MANY_EPOCHS = 12  # above this their table is folded
MANY_CLASSES = 8
CONFUSIONS = 10  # kinds of doubted labels that are listed


def training(findings: Findings, pictures: Mapping[str, bytes]) -> Section:
    """Learning rates, schedule, losses, and every epoch."""
    figures = [
        chart(
            pictures[rate_picture(stage)],
            f"Learning-rate range test, {stage}: loss against rate; chosen {search.suggestion:.1e}",
            f"{stage}: {search.reason}",
        )
        for stage, search in findings.searches.items()
    ]
    figures.append(chart(pictures["losses.png"], _losses_alt(findings)))
    if "schedule.png" in pictures:
        figures.append(chart(pictures["schedule.png"], "Learning rate of each batch"))
    if "learning_curve.png" in pictures:
        alt = "Learning curve: the head alone, trained on more and more of the images"
        figures.append(chart(pictures["learning_curve.png"], alt, alt))
    epochs = _epochs(findings)
    if len(findings.history) > MANY_EPOCHS:
        epochs = folded(f"All {len(findings.history)} epochs", epochs)
    flag = paragraph(findings.overfit.text, "severe") if findings.overfit else ""
    return Section("Training", flag + charts(figures) + epochs)


def rate_picture(stage: str) -> str:
    """The file name of a stage's learning-rate curve."""
    return f"learning_rate_{'_'.join(stage.split()).replace('/', '_')}.png"


def _losses_alt(findings: Findings) -> str:
    if not findings.history:
        return "No epochs"
    last = findings.history[-1]
    return (
        f"Losses of {counted(len(findings.history), 'epoch')}; at the end {last.train_loss:.3f} in "
        f"training and {last.valid_loss:.3f} held out"
    )


def _epochs(findings: Findings) -> str:
    rows = [["epoch", "stage", "training", "held-out", findings.plain.metric]]
    rows += [
        [
            str(number),
            epoch.stage,
            f"{epoch.train_loss:.4f}",
            f"{epoch.valid_loss:.4f}",
            f"{epoch.metric_value:.4f}",
        ]
        for number, epoch in enumerate(findings.history, start=1)
    ]
    return table(rows, "names", caption="Epochs")


def data(
    findings: Findings, pictures: Mapping[str, bytes], tiles: Mapping[str, Sequence[Tile]]
) -> Section:
    """The audit, and some augmented images."""
    counts = class_table(findings.audit)
    if len(findings.audit.counts) > MANY_CLASSES:
        counts = folded("Images of each class", counts, printed=False)
    parts = [
        problem_list(findings.audit),
        charts([chart(pictures[name], alt) for name, alt in AUDIT_PICTURES.items()]),
        counts,
    ]
    if tiles.get("augmented"):
        parts += ["<h3>Training images as augmented</h3>"]
        parts += [tile_grid(tiles["augmented"])]
    return Section("Data", "".join(parts))


def doubts(findings: Findings, tiles: Mapping[str, Sequence[Tile]]) -> Section | None:
    """Labels that may be wrong."""
    noise = findings.noise
    if noise is None or not noise.suspects:
        return None
    said = (
        f"By confident learning: {noise.images} images were classified by heads that were not "
        f"trained on them. They disagree with {counted(len(noise.suspects), 'label')}, of which "
        f"{f'an estimated {noise.expected} are' if noise.expected else 'hardly any is'} wrong. "
        "Nothing was deleted."
    )
    parts = [paragraph(said)]
    if tiles.get("suspects"):
        parts.append(tile_grid(tiles["suspects"]))
    # others are estimated to occur, but in no image that can be shown
    if found := [each for each in noise.confusions if each.images]:
        rows = [["label", "seems to be", "images"]]
        rows += [[each.given, each.suggested, str(each.images)] for each in found[:CONFUSIONS]]
        parts.append(table(rows, "names", caption="Doubted labels"))
    return Section("Doubted labels", "".join(parts))


def provenance(findings: Findings) -> Section:
    """The provenance of the model, and all settings."""
    facts = {name: value for name, value in findings.facts.items() if name != "settings"}
    body = table([["fact", "value"], *map(list, facts.items())], "facts", caption="Provenance")
    if "settings" in findings.facts:
        settings = json.loads(findings.facts["settings"]).items()
        rows = [["setting", "value"], *([name, json.dumps(value)] for name, value in settings)]
        body += folded(
            f"All {len(settings)} settings", table(rows, "facts", caption="Settings"), printed=False
        )
    return Section("Provenance", body)
