"""The sections of a report on the predictions: how good they are, and which are wrong."""

from collections.abc import Mapping, Sequence

from registry.counted import counted
from training import plots
from training.evaluation.calibration import Reliability
from training.evaluation.intervals import Interval, sign_test
from training.evaluation.per_class import ClassFigures, Pair
from training.report.findings import Findings
from training.report.page import Section, chart, folded, paragraph, table
from training.report.thumbnails import tile_grid
from training.tiles import Tile

PAIRS = 15  # of confused classes that are listed
OPEN = 15  # classes that are shown unfolded
LISTED = 500  # classes in a table; the JSON has all

GALLERIES = {
    "most_incorrect": "Most incorrect",
    "most_uncertain": "Most uncertain",
    "most_entropy": "Most uncertain among all classes (entropy)",
    "most_correct": "Most correct",
}


def results(findings: Findings) -> Section:
    """The metrics, with one view and with several."""
    low, high = findings.interval
    plain, tta = findings.plain, findings.tta
    rows = [
        ["", plain.metric, "log loss"],
        ["one view", f"{plain.value:.4f}\n{_range((low, high), 3)}", f"{plain.log_loss:.4f}"],
    ]
    if findings.n_views > 1:
        rows.append([f"{findings.n_views} views", f"{tta.value:.4f}", f"{tta.log_loss:.4f}"])
    if plain.label_accuracy is not None:
        shares = (f"{each.label_accuracy:.4f}" for each in (plain, tta))
        rows = [[*row, last] for row, last in zip(rows, ("label accuracy", *shares), strict=False)]
    n = findings.n_images
    uses = {"judge": "model selection", "calibrate": "calibration"}
    apart = [f", {n[name]} for {use}" for name, use in uses.items() if n[name]]
    said = (
        f"{counted(n['train'], 'image')} for training{''.join(apart)}, {n['valid']} held out, "
        f"{len(findings.labels)} {'classes' if findings.task == 'single' else 'labels'}. Below a "
        "figure is its 95% interval."
    )
    return Section("Results", paragraph(said) + table(rows, caption="Results"))


def mistakes(findings: Findings, pictures: Mapping[str, bytes]) -> Section | None:
    """Which classes are confused; which labels are false positives."""
    pairs = findings.pairs
    if findings.task == "multi":
        said = "Labels predicted wrongly on images of another label."
        return Section("False positives", paragraph(said) + _pairs(pairs)) if pairs else None
    wrong = sum(pair.count for pair in pairs)
    alt = (
        f"Confusion matrix of {counted(len(findings.rows), 'held-out image')}, {wrong} of them "
        "wrong"
    )
    numbered = len(findings.labels) > plots.MANY_LABELS
    said = "Rows are true classes, columns predicted ones"
    parts = [
        paragraph(said + (", numbered in the order of labels in report.json." if numbered else "."))
    ]
    parts.append(chart(pictures["confusion.png"], alt))
    if len(findings.labels) > 2 and pairs:
        parts += ["<h3>Most confused</h3>", _pairs(pairs)]
    return Section("Mistakes", "".join(parts))


def _pairs(pairs: Sequence[Pair]) -> str:
    rows = [["true", "predicted", "images", "share of true"]]
    rows += [[pair.true, pair.said, str(pair.count), f"{pair.share:.0%}"] for pair in pairs[:PAIRS]]
    listed = table(rows, "names", caption="Most confused")
    more = f"The {PAIRS} most frequent of {len(pairs)} pairs."
    return (paragraph(more) if len(pairs) > PAIRS else "") + listed


def classes(findings: Findings) -> Section:
    """A table of all classes, the worst first; most of many are folded."""
    multi = findings.task == "multi"
    head = [
        "label" if multi else "class",
        "images",
        "precision",
        "recall",
        f"F{findings.beta:g}" if multi else "F1",
    ]
    head += ["threshold"] if multi else []
    rows = [_row(one) for one in findings.classes[:LISTED]]
    said = (
        f"The worst {head[4]} first. Precision: the share of right ones among the images predicted "
        "as this class. Recall: the share of the images of this class that was found."
    )
    body = paragraph(said) + table([head, *rows[:OPEN]], caption="Classes")
    if len(rows) > OPEN:
        more = len(findings.classes) - LISTED
        end = paragraph(f"… and {more} more, in report.json.") if more > 0 else ""
        rest = table([head, *rows[OPEN:]], caption="The other classes") + end
        body += folded(f"The other {len(findings.classes) - OPEN}", rest)
    return Section("Labels" if multi else "Classes", body)


def _row(one: ClassFigures) -> list[str]:
    row = [
        one.label,
        str(one.n),
        _share(one.precision, one.precision_interval),
        _share(one.recall, one.recall_interval),
        "–" if one.f is None else f"{one.f:.3f}",  # noqa: RUF001
    ]
    return row if one.threshold is None else [*row, f"{one.threshold:.2f}"]


def _share(value: float | None, interval: Interval) -> str:
    return "–" if value is None else f"{value:.3f}\n{_range(interval, 2)}"  # noqa: RUF001


def _range(interval: Interval, digits: int) -> str:
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def images(findings: Findings, tiles: Mapping[str, Sequence[Tile]]) -> Section | None:
    """The galleries, with what the network looked at if that is known."""
    places = findings.galleries
    same = list(places.get("most_entropy", ())) == list(places["most_uncertain"])
    shown = [
        (title, tiles[name])
        for name, title in GALLERIES.items()
        if tiles.get(name) and not (same and name == "most_entropy")
    ]
    if not shown:
        return None
    if any(tile.overlay is not None for _, each in shown for tile in each):
        multi = findings.task == "multi"
        what = "the label that it is most wrong about" if multi else "its prediction"
        said = (
            f"Beside each image is a Grad-CAM heat map for {what}: the brighter a place, the more "
            "it spoke for it, compared with the rest of the image."
        )
    elif findings.looked:
        said = (
            "At this size of images, this network's features are not spatial, so there are no "
            "Grad-CAM heat maps."
        )
    else:
        said = "Held-out images."
    parts = [f"<h3>{title}</h3>{tile_grid(each)}" for title, each in shown]
    return Section("Images to look at", paragraph(said) + "".join(parts))


def views(findings: Findings, tiles: Mapping[str, Sequence[Tile]]) -> Section | None:
    """What averaging several views of an image changes."""
    if findings.n_views < 2:
        return None
    gained, lost = findings.n_turned
    if not gained and not lost:
        return None
    said = (
        f"Averaging {findings.n_views} views corrected {counted(gained, 'prediction')} and spoiled "
        f"{lost} (sign test: p = {sign_test(gained, lost):.2g})."
    )
    parts = [paragraph(said)]
    for name, title in (("lost", "Spoiled"), ("gained", "Corrected")):
        if tiles.get(name):
            parts.append(f"<h3>{title}</h3>{tile_grid(tiles[name])}")
    return Section("Views", "".join(parts))


def calibration(findings: Findings, pictures: Mapping[str, bytes]) -> Section:
    """Whether probabilities can be believed."""
    after, before = findings.reliability, findings.uncalibrated
    rows = [["", "ECE", "adaptive ECE", "log loss"]]
    if before:
        rows.append(["uncalibrated", *_errors(before)])
    name = f"temperature {findings.temperature:.2f}" if findings.temperature else "as predicted"
    rows.append([name, *_errors(after)])
    said = (
        "Of predictions made with a probability of 0.8, eight in ten should be right. The expected "
        "calibration error (ECE) is how far they are from that on average, in bins of equal width, "
        "or of equally many predictions (adaptive)."
    )
    if before:
        said += " The temperature was fitted on images that are not held out."
    alt = f"Reliability diagram: the calibration error is {after.error:.3f}"
    body = paragraph(said) + chart(pictures["reliability.png"], alt) + table(rows)
    return Section("Calibration", body)


def _errors(each: Reliability) -> list[str]:
    return [f"{each.error:.4f}", f"{each.adaptive_error:.4f}", f"{each.log_loss:.4f}"]


def sets(findings: Findings) -> Section | None:
    """Prediction sets, and when to abstain."""
    if not findings.sets_from:
        return None
    parts = [paragraph(findings.sets_from)]
    if findings.sets:
        rows = [["method", "guaranteed", "coverage", "mean size", "single label"]]
        rows += [
            [
                each.method.upper(),
                f"{1 - each.alpha:.0%}",
                f"{each.coverage:.1%}\n{_range(each.coverage_interval, 2)}",
                f"{each.mean_size:.2f}",
                f"{each.single:.0%}",
            ]
            for each in findings.sets
        ]
        said = (
            "Instead of one label a set of them, large enough to contain the true one as often as "
            "guaranteed (split conformal prediction)."
        )
        parts = [paragraph(said), *parts, table(rows, caption="Prediction sets")]
    if findings.abstention:
        found = findings.abstention
        said = f"At no confidence threshold are {found.wanted:.0%} of the predictions right."
        if found.least is not None:
            said = (
                f"If the model abstains below a confidence of {found.least:.3f}, it answers for "
                f"{found.answered:.0%} of the held-out images"
            )
            said += f", {found.right:.1%} of them correctly." if found.right is not None else "."
        parts += ["<h3>Abstention</h3>", paragraph(said)]
    return Section("Prediction sets", "".join(parts))
