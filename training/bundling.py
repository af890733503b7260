"""From a trained network to a sealed bundle: exported, proven, with golden answers and report."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from registry.bundle import GOLDEN, MODEL, Bundle, files_of, seal
from registry.files import sha256_file
from registry.golden import write_golden
from registry.jobs import Assignment
from training.backbone import Backbone
from training.compare import SPLIT
from training.data import write_split
from training.evaluate import THRESHOLD
from training.export import PARITY_BATCHES, TOLERANCE, export, open_session
from training.network import save_network
from training.report import Findings, write_report
from training.steps import Bench, Evaluation

NETWORK = "network.safetensors"
GOLDEN_IMAGES = 8
# Largest difference from the golden answers: other CPUs round otherwise, and GPUs use TF32.
TOLERANCES = {f"{MODEL}/cpu": 1e-3, f"{MODEL}/cuda": 1e-2, f"{MODEL}/tensorrt": 1e-2}


def seal_bundle(
    assignment: Assignment, bench: Bench, evaluation: Evaluation, backbone: Backbone
) -> Bundle:
    """`assignment.stage` is the bundle and `assignment.run` has the torch weights.

    Raises:
        TrainingError: the ONNX model does not answer as the network does; nothing is sealed.
    """
    settings, dataset = bench.settings, bench.dataset
    model, run, stage = assignment.model, assignment.run, assignment.stage
    run.mkdir(parents=True, exist_ok=True)
    (stage / "report").mkdir(parents=True, exist_ok=True)
    bench.network.cpu().eval()
    save_network(
        bench.network,
        run / NETWORK,
        n_classes=len(dataset.labels),
        size=settings.size,
        task=dataset.task,
    )
    bundle = Bundle(
        model=model,
        created_at=datetime.now(UTC),
        task=dataset.task,
        labels=dataset.labels,
        image=settings.image_spec(),
        tta=settings.tta_spec(),
        thresholds=(THRESHOLD,) * len(dataset.labels) if dataset.task == "multi" else (),
        tolerances=TOLERANCES,
        metrics=_metrics(bench, evaluation),
        files=dict.fromkeys((MODEL, GOLDEN), "0" * 64),
    )
    difference, exporter = export(
        bench.network,
        dataset.task,
        _parity_pixels(bench),
        bundle.onnx_metadata(),
        stage / MODEL,
    )
    bench.stages.note(f"ONNX by {exporter}; differs from torch by {difference:.1e} at most")
    _write_golden(bench, stage)
    facts = _provenance(bench, backbone, exporter, difference)
    write_split(dataset, stage / SPLIT)
    write_report(_findings(model, bench, evaluation, facts), bench.decoded, stage / "report")
    digests = {name: sha256_file(stage / name) for name in sorted(files_of(stage))}
    sealed = bundle.model_copy(update={"provenance": facts, "files": digests})
    seal(stage, sealed)
    return sealed


def _metrics(bench: Bench, evaluation: Evaluation) -> dict[str, float]:
    plain, tta = evaluation.plain_measures, evaluation.tta_measures
    return {
        plain.metric: plain.value,
        "log_loss": plain.log_loss,
        f"{tta.metric}_tta": tta.value,
        "log_loss_tta": tta.log_loss,
        "tta_views": float(bench.settings.tta_views),
        "images_train": float(bench.n_train),
        "images_valid": float(bench.n_valid),
    }


def _provenance(
    bench: Bench, backbone: Backbone, exporter: str, difference: float
) -> dict[str, str]:
    return {
        "backbone": backbone.name,
        "weights": backbone.weights,
        "weights_sha256": backbone.digest,
        "data": str(bench.dataset.root),
        "data_sha256": bench.dataset.fingerprint,
        "settings": bench.settings.model_dump_json(),
        "learning_rates": ", ".join(
            f"{stage} {search.suggestion:.2e}" for stage, search in bench.searches.items()
        ),
        "exporter": exporter,
        "parity": f"{difference:.2e} (allowed {TOLERANCE:.0e})",
        "device": str(bench.device),
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}",
    }


def _parity_pixels(bench: Bench) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Real images, repeated if there are not enough for the largest parity batch."""
    rows = bench.dataset.rows("valid")[: max(PARITY_BATCHES)]
    places = np.resize(rows, max(PARITY_BATCHES))
    return np.array(bench.decoded.pixels[places])


def _write_golden(bench: Bench, stage: Path) -> None:
    rows = bench.dataset.rows("valid")
    chosen = rows[np.linspace(0, len(rows) - 1, min(GOLDEN_IMAGES, len(rows))).astype(int)]
    encoded = [bench.dataset.items[row].path.read_bytes() for row in chosen]
    session = open_session(str(stage / MODEL))
    pixels = np.array(bench.decoded.pixels[chosen])
    answers = session.run(["probabilities"], {"image": pixels})[0]
    write_golden(stage / GOLDEN, encoded, answers)


def _findings(
    model: str, bench: Bench, evaluation: Evaluation, facts: Mapping[str, str]
) -> Findings:
    return Findings(
        model=model,
        dataset=bench.dataset,
        searches=bench.searches,
        schedules=bench.schedules,
        history=bench.history,
        rows=evaluation.rows,
        probabilities=evaluation.plain,
        plain=evaluation.plain_measures,
        tta=evaluation.tta_measures,
        n_views=bench.settings.tta_views,
        gained=evaluation.gained,
        lost=evaluation.lost,
        facts=dict(facts),
    )
