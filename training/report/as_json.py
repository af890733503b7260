"""The JSON of a report: every number of it, and the files behind its pictures."""

from dataclasses import asdict
from typing import Any

from training.evaluation.intervals import sign_test
from training.evaluation.suspects import figures as noise_figures
from training.report.audit_page import figures as audit_figures
from training.report.findings import Findings
from training.report.galleries import Places
from training.report.words import in_words

PAIRS = 100  # of classes that are taken for one another
MANY = 500  # classes, above which the confusion matrix is left to the list of pairs
COLUMNS = ("epoch", "train", "valid")  # and the metric


def to_json(findings: Findings) -> dict[str, Any]:
    """Plain values, for `json.dumps`."""
    interval = findings.interval
    single = findings.task == "single"
    return {
        "model": findings.model,
        "task": findings.task,
        "labels": findings.labels,
        "images": findings.n_images,
        "in_words": [asdict(remark) for remark in in_words(findings)],
        "plain": asdict(findings.plain) | {"interval": interval},
        "tta": asdict(findings.tta) | _views(findings),
        "learning_rates": {stage: asdict(search) for stage, search in findings.searches.items()},
        "schedules": {stage: shares.tolist() for stage, shares in findings.schedules.items()},
        "overfitting": {"flag": findings.overfit is not None}
        | (asdict(findings.overfit) if findings.overfit else {}),
        "history": _history(findings),
        "epochs": [asdict(epoch) for epoch in findings.history],
        "confusion": findings.counts.tolist() if single and len(findings.labels) <= MANY else None,
        "confused_pairs": [asdict(pair) for pair in findings.pairs[:PAIRS]],
        "classes": [asdict(one) for one in findings.classes],
        "galleries": {
            name: [_prediction(findings, place) for place in places]
            for name, places in findings.galleries.items()
        },
        "calibration": asdict(findings.reliability)
        | {
            "temperature": findings.temperature,
            "before": asdict(findings.uncalibrated) if findings.uncalibrated else None,
        },
        "conformal": _conformal(findings),
        "label_noise": noise_figures(findings.noise, findings.dataset) if findings.noise else None,
        "learning_curve": [
            {"images": size, "values": values} for size, values in sorted(findings.curve.items())
        ],
        "audit": audit_figures(findings.audit),
        "provenance": dict(findings.facts),
    }


def _conformal(findings: Findings) -> dict[str, Any] | None:
    if not findings.sets_from:
        return None
    sets = [
        asdict(each)
        | {"coverage_of_class": dict(zip(findings.labels, each.coverage_of_class, strict=True))}
        for each in findings.sets
    ]
    alone = asdict(findings.abstention) if findings.abstention else None
    return {"from": findings.sets_from, "sets": sets, "alone": alone}


def _history(findings: Findings) -> dict[str, Any]:
    """What the library of 2018 printed: a row an epoch, counted from 1."""
    rows = [
        [number, epoch.train_loss, epoch.valid_loss, epoch.metric_value]
        for number, epoch in enumerate(findings.history, start=1)
    ]
    return {"columns": [*COLUMNS, findings.plain.metric], "rows": rows}


def _views(findings: Findings) -> dict[str, Any]:
    gained, lost = findings.turned
    return {
        "views": findings.n_views,
        "gained": len(gained),
        "lost": len(lost),
        "chance": sign_test(len(gained), len(lost)),
        "gained_files": _files(findings, gained),
        "lost_files": _files(findings, lost),
    }


def _files(findings: Findings, places: Places) -> list[str]:
    dataset = findings.dataset
    return [dataset.name(dataset.items[findings.rows[place]]) for place in places]


def _prediction(findings: Findings, place: int) -> dict[str, Any]:
    item, answer = findings.dataset.items[findings.rows[place]], findings.probabilities[place]
    truth = item.labels
    if findings.task == "single":
        said: Any = findings.labels[int(answer.argmax())]
        prediction = {"is": truth[0], "said": said, "probability": round(float(answer.max()), 6)}
    else:
        said = {
            label: round(float(value), 6)
            for label, value, chosen in zip(
                findings.labels, answer, findings.said[place], strict=True
            )
            if chosen
        }
        prediction = {"is": list(truth), "said": said}
    return {"file": findings.dataset.name(item)} | prediction
