"""From a trained network to a sealed bundle: exported, verified, with golden outputs and report."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from registry.bundle import GOLDEN, MODEL, Bundle
from registry.jobs import Assignment
from training.bench import Bench
from training.data.split import write_split
from training.evaluation.compare import SPLIT
from training.evaluation.evaluate import Evaluation, Measures
from training.evaluation.gradcam import heat_maps
from training.evaluation.predict_test_part import measure_tests, write_answers
from training.evaluation.suspects import write_suspects
from training.evaluation.trust import Trust, trust_metrics
from training.export.golden import write_golden_answers
from training.export.publishing import TOLERANCES, seal_stage
from training.export.runtime import PARITY_BATCHES
from training.export.to_onnx import TOLERANCE, export
from training.fit.device import pick_device
from training.network.backbone import Backbone
from training.network.saving import NETWORK
from training.network.summary import summarise
from training.report.build import write_report
from training.report.findings import Findings
from training.report.preview import augmented
from training.run.provenance import machine_facts, seconds_each


@dataclass(frozen=True)
class Exported:
    """A verified ONNX model, and its manifest, not yet complete."""

    path: Path
    draft: Bundle
    exporter: str
    difference: float  # largest of any probability from torch's
    outcomes: dict[str, str] = field(default_factory=dict)  # of the variants, for the provenance


def export_and_verify(assignment: Assignment, bench: Bench) -> Exported:
    """Writes the ONNX model to `assignment.stage` and the torch weights to `assignment.run`.

    Raises:
        TrainingError: the ONNX model's outputs differ from the network's; it is not written.
    """
    bench.stages.begin("export and verify", 0)
    settings, dataset = bench.settings, bench.dataset
    stage = assignment.stage
    stage.mkdir(parents=True, exist_ok=True)
    bench.network.cpu().eval()
    bench.save(NETWORK)
    draft = Bundle(
        model=assignment.model,
        created_at=datetime.now(UTC),
        task=dataset.task,
        labels=dataset.labels,
        image=settings.image_spec(),
        tta=settings.tta_spec(),
        thresholds=bench.label_thresholds,
        tolerances=TOLERANCES,
        files=dict.fromkeys((MODEL, GOLDEN), "0" * 64),
    )
    difference, exporter = export(
        bench.network,
        dataset.task,
        _parity_pixels(bench),
        draft.onnx_metadata(),
        stage / MODEL,
    )
    bench.stages.note(f"ONNX by {exporter}; differs from torch by {difference:.1e} at most")
    return Exported(stage / MODEL, draft, exporter, difference)


def seal_bundle(
    assignment: Assignment,
    bench: Bench,
    exported: Exported,
    evaluation: Evaluation,
    trust: Trust,
    backbone: Backbone,
) -> Bundle:
    """Completes the bundle in `assignment.stage`: golden outputs, report and manifest."""
    stage = assignment.stage
    report = stage / "report"
    report.mkdir(exist_ok=True)
    write_golden_answers(bench, exported.path, stage)
    facts = _provenance(bench, backbone, exported) | exported.outcomes | bench.results.facts
    write_split(bench.dataset.items, bench.dataset.root, stage / SPLIT)
    if evaluation.tests is not None and bench.dataset.tests:
        limits = bench.label_thresholds
        separator = bench.settings.label_separator or " "
        write_answers(report / "test.csv", bench.dataset, evaluation.tests, limits, separator)
    layers = [asdict(layer) for layer in summarise(bench.network, bench.settings.size)]
    (report / "network.json").write_text(json.dumps(layers, indent=1), encoding="utf-8")
    if noise := bench.results.label_noise:
        write_suspects(report / "label_issues.csv", bench.dataset, noise)
    findings = _findings(assignment.model, bench, evaluation, trust, facts)
    write_report(findings, bench.decoded, report)
    metrics = _metrics(bench, evaluation) | trust_metrics(trust)
    for picture in sorted(report.glob("*.png")):
        bench.event_file.picture(bench.results.n_batches, picture)
    bench.event_file.outcome(bench.results.n_batches, bench.settings.model_dump(), metrics)
    return seal_stage(stage, exported.draft, metrics=metrics, provenance=facts)


def _metrics(bench: Bench, evaluation: Evaluation) -> dict[str, float]:
    test = None
    if evaluation.tests is not None:
        test = measure_tests(
            bench.dataset, evaluation.tests, bench.label_thresholds, bench.settings.beta
        )
    return {
        **_named(evaluation.plain_measures, ""),
        **_named(evaluation.tta_measures, "_tta"),
        "tta_views": float(bench.settings.tta_views),
        "images_train": float(bench.n_train),
        "images_valid": float(bench.n_valid),
        **(_named(test, "_test") if test else {}),
    }


def _named(measures: Measures, suffix: str) -> dict[str, float]:
    named = {measures.metric: measures.value, "log_loss": measures.log_loss}
    if measures.label_accuracy is not None:
        named["label_accuracy"] = measures.label_accuracy
    return {name + suffix: value for name, value in named.items()}


def _provenance(bench: Bench, backbone: Backbone, exported: Exported) -> dict[str, str]:
    return {
        "trained": f"{exported.draft.created_at:%Y-%m-%d %H:%M} UTC",
        "backbone": backbone.name,
        "weights": backbone.weights,
        "weights_sha256": backbone.digest,
        "data": str(bench.dataset.root),
        "data_sha256": bench.dataset.fingerprint,
        "settings": bench.settings.model_dump_json(),
        "learning_rates": ", ".join(f"{stage} {rate:.2e}" for stage, rate in _rates(bench).items()),
        "exporter": exported.exporter,
        "parity": f"{exported.difference:.2e} (allowed {TOLERANCE:.0e})",
        "seed": str(bench.settings.seed),
        "durations": seconds_each(bench.stages.durations),
        **machine_facts(pick_device()),
    }


def _rates(bench: Bench) -> dict[str, float]:
    """Each stage's learning rate, found or given."""
    searched = {stage: search.suggestion for stage, search in bench.results.searches.items()}
    given = bench.settings.unfrozen_learning_rate
    return searched | {"unfrozen": given} if given and bench.settings.cycles else searched


def _parity_pixels(bench: Bench) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Held-out images, repeated if there are not enough for the largest parity batch."""
    rows = bench.dataset.rows("valid")[: max(PARITY_BATCHES)]
    places = np.resize(rows, max(PARITY_BATCHES))
    return np.array(bench.decoded.pixels[places])


def _findings(
    model: str, bench: Bench, evaluation: Evaluation, trust: Trust, facts: Mapping[str, str]
) -> Findings:
    return Findings(
        model=model,
        dataset=bench.dataset,
        searches=bench.results.searches,
        schedules=bench.results.schedules,
        history=bench.results.history,
        rows=evaluation.rows,
        probabilities=evaluation.plain,
        plain=evaluation.plain_measures,
        tta_probabilities=evaluation.tta,
        tta=evaluation.tta_measures,
        n_views=bench.settings.tta_views,
        facts=dict(facts),
        views=augmented(bench.image_batches()),
        audit=bench.audit,
        curve=bench.results.learning_curve,
        thresholds=bench.label_thresholds,
        beta=bench.settings.beta,
        looked=partial(heat_maps, bench.network, task=bench.dataset.task),
        temperature=trust.calibrated.temperature if trust.calibrated else None,
        uncalibrated=trust.before,
        sets=trust.sets,
        sets_from=trust.sets_from,
        abstention=trust.abstention,
        noise=bench.results.label_noise,
        n_selection=len(bench.selection_rows),
        n_calibration=len(bench.calibration_rows),
    )
