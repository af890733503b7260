"""The summary at the top of a report: how good the model is, where it fails, what to look at."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from registry.counted import counted
from training.evaluation.intervals import sign_test
from training.evaluation.overfitting import has_risen, last_stage, lowest
from training.fit.epoch import Epoch
from training.fit.keeping import KEPT
from training.learnt_before import FACT
from training.report.findings import Findings

FEW = 20  # a class with fewer held-out images has figures that say little
CALIBRATED = 0.05  # calibration error up to which probabilities count as calibrated
CHANCE = 0.05  # significance level
NAMED = 3  # examples that a sentence names


@dataclass(frozen=True)
class Remark:
    topic: str
    text: str
    concern: bool = False  # shown in red: something to act on


def in_words(findings: Findings) -> list[Remark]:
    """The findings in the order in which an engineer asks for them."""
    remarks = [
        _score(findings),
        _learnt_before(findings),
        _confusions(findings),
        _weakest(findings),
        _overfitting(findings),
        _views(findings),
        _served(findings),
        _calibration(findings),
        _doubts(findings),
        _data(findings),
        _few(findings),
    ]
    return [remark for remark in remarks if remark]


def _score(findings: Findings) -> Remark:
    plain = findings.plain
    low, high = findings.interval
    text = (
        f"{plain.value:.3f} on {counted(len(findings.rows), 'held-out image')} "
        f"(95% interval {low:.3f} to {high:.3f})."
    )
    if findings.task == "multi":
        return Remark(plain.metric.capitalize(), text)
    counts = findings.targets.sum(axis=0)
    usual, share = findings.labels[int(counts.argmax())], float(counts.max() / counts.sum())
    text += f" Always predicting “{usual}” would score {share:.3f}."
    if plain.value <= share:
        text += " The model is no better than that."
    elif low <= share:
        text += " The interval does not rule out that the model is no better."
    return Remark(plain.metric.capitalize(), text, concern=low <= share)


def _learnt_before(findings: Findings) -> Remark | None:
    text = findings.facts.get(FACT)
    return Remark("Not held out", f"{text}.", concern=True) if text else None


def _confusions(findings: Findings) -> Remark | None:
    pairs = findings.pairs[:NAMED]
    if findings.task == "multi":
        confused = [
            f"“{each.said}” on images of “{each.true}” {_times(each.count)}" for each in pairs
        ]
        return Remark("False positives", f"{'; '.join(confused)}.") if confused else None
    confused = [
        f"“{each.true}” predicted as “{each.said}” {_times(each.count)} ({each.share:.0%} of them)"
        for each in pairs
    ]
    if not confused:
        return Remark("Confusions", "none: every held-out image is classified correctly.")
    return Remark("Confusions", f"{'; '.join(confused)}.")


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _weakest(findings: Findings) -> Remark | None:
    known = [one for one in findings.classes if one.recall is not None and one.n >= FEW]
    if len(findings.labels) < 3 or not known:
        return None
    worst = min(known, key=lambda one: one.recall or 0)
    if worst.hits == worst.n:
        return None
    low, high = worst.recall_interval
    return Remark(
        "Weakest class",
        f"“{worst.label}”: recall {worst.recall:.0%}, {worst.hits} of {worst.n} images "
        f"(95% interval {low:.0%} to {high:.0%}).",
    )


def _overfitting(findings: Findings) -> Remark | None:
    history, kept = findings.history, findings.facts.get(KEPT)
    if len(history) < 2:
        return None
    if findings.overfit:
        text = f"{findings.overfit.text}."
        advice = "Fewer epochs, more augmentation or keep=best would help."
    else:
        text, advice = _rise(history), "A lower learning rate may help."
    if text and kept:  # the losses are not those of the weights that were kept
        return Remark("Overfitting", f"{text} The network has the {kept} instead of the last.")
    if text:
        return Remark("Overfitting", f"{text} {advice}", concern=True)
    last = f"it ends at {history[-1].valid_loss:.3f}, training at {history[-1].train_loss:.3f}"
    return Remark("Overfitting", f"none seen: the held-out loss has not turned up; {last}.")


def _rise(history: Sequence[Epoch]) -> str:
    """Where the held-out loss was lower, although this is no overfitting; empty if nowhere."""
    place, last = lowest(history), history[-1]
    best = history[place]
    if not has_risen(best, last):
        return ""
    said = "none, as the training loss has not fallen either; but the network was better"
    if place < len(history) - len(last_stage(history)):
        said = "none in the last stage, but the network was better before it"
    return (
        f"{said}: the held-out loss was {best.valid_loss:.3f} after epoch {place + 1} "
        f"({best.stage}) and {last.valid_loss:.3f} at the end."
    )


def _views(findings: Findings) -> Remark | None:
    if findings.n_views < 2:
        return None
    gained, lost = findings.n_turned
    if not gained and not lost:
        return Remark("Views", f"averaging {findings.n_views} views changes no prediction.")
    chance = sign_test(gained, lost)
    text = (
        f"averaging {findings.n_views} views corrects {counted(gained, 'prediction')} and spoils "
        f"{lost}"
    )
    if chance >= CHANCE:
        return Remark("Views", f"{text}, which may be chance (p = {chance:.2g}): not worth it.")
    if gained > lost:
        return Remark("Views", f"{text} (p = {chance:.2g}): it helps, at {findings.n_views} times "
                      "the work.")  # fmt: skip
    return Remark("Views", f"{text} (p = {chance:.2g}): it does harm, use one.", concern=True)


def _served(findings: Findings) -> Remark | None:
    """Which of the figures are those of a service, if not those of one view."""
    n = json.loads(findings.facts.get("settings", "{}")).get("serve_tta_views", 1)
    if n < 2:
        return None
    text = f"a service averages {n} views unless a request says otherwise"
    if n == findings.n_views:
        return Remark("Served", f"{text}: its figures are those of {n} views, not of one.")
    return Remark(
        "Served", f"{text}, whose figures are not on this page; tta_views={n} shows them."
    )


def _calibration(findings: Findings) -> Remark:
    error, bins = findings.reliability.error, findings.reliability.bins
    n = sum(one.n for one in bins)
    sure = sum(one.n * one.confidence for one in bins) / n
    right = sum(one.n * one.accuracy for one in bins) / n
    text = f"probabilities are off by {error:.1%} on average (expected calibration error)"
    if error <= CALIBRATED:
        return Remark("Calibrated", f"yes: {text}.")
    if abs(sure - right) < error / 2:
        return Remark("Calibrated", f"no: {text}.", concern=True)
    how = "overconfident" if sure > right else "underconfident"
    text += f"; the network is {how}: mean confidence {sure:.2f}, accuracy {right:.2f}"
    return Remark("Calibrated", f"no: {text}.", concern=True)


def _doubts(findings: Findings) -> Remark | None:
    noise = findings.noise
    if noise is None or not noise.images:
        return None
    if not noise.suspects:
        return Remark("Labels", f"none of {noise.images} seems to be wrong.")
    text = f"about {noise.expected} of {noise.images} may be wrong; the most suspect are below."
    if not noise.expected:
        text = f"hardly any of {noise.images} seems wrong; the most doubtful are below."
    return Remark("Labels", text)


def _data(findings: Findings) -> Remark | None:
    severe = [problem for problem in findings.audit.problems if problem.severe]
    if severe:
        shown = "; ".join(problem.text for problem in severe[:NAMED])
        return Remark("Data", f"{shown}.", concern=True)
    remarks = "; ".join(problem.text for problem in findings.audit.problems[:NAMED])
    return Remark("Data", f"{remarks}." if remarks else "no problems found.")


def _few(findings: Findings) -> Remark | None:
    few = [one for one in findings.classes if one.n < FEW]
    if not few:
        return None
    names = ", ".join(f"“{one.label}” ({one.n})" for one in few[:NAMED])
    more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
    return Remark(
        "Little evidence",
        f"fewer than {FEW} held-out images: {names}{more}; their figures say little.",
    )
