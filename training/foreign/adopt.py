"""From a foreign model to a sealed bundle: wrapped, proven, with golden answers."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx

from registry.bundle import GOLDEN, MODEL, Bundle, Task
from registry.errors import BadImage, BadRequest
from registry.files import sha256_file
from registry.golden import write_golden
from registry.images import ImageSpec, prepare
from training.export.publishing import TOLERANCES, seal_stage
from training.export.runtime import PARITY_BATCHES, RUNTIME
from training.foreign.graph import all_nodes
from training.foreign.labels import check_width
from training.foreign.model import Foreign
from training.foreign.pictures import draw_pictures
from training.foreign.proof import (
    PARITY,
    Proof,
    choose_activation,
    foreign_scores,
    precision,
    prove,
    to_probabilities,
)
from training.foreign.simplify import described, simplify
from training.foreign.wrap import Pixels, wrap

THRESHOLD = 0.5  # of a multi-label answer; nothing is known of better ones
# Golden answers may differ by this on any processor, beyond what `TOLERANCES` allows.
COARSE = {"float32": 0.0, "float16": 1e-2, "quantized": 5e-2}


@dataclass(frozen=True)
class Adopted:
    """A sealed bundle, and what is to be said of it."""

    bundle: Bundle
    difference: float  # from the foreign model, the largest in any probability
    notes: tuple[str, ...]


def adopt(
    foreign: Foreign,
    pixels: Pixels,
    spec: ImageSpec,
    *,
    model: str,
    labels: tuple[str, ...],
    task: Task,
    gives: str | None,
    golden: Sequence[Path],
    flags: str,
    stage: Path,
    as_is: bool = False,
) -> Adopted:
    """Makes `stage` a bundle whose model answers as the foreign one does, with its graph simplified
    where that changes no answer.

    Args:
        gives: "logits" or "probabilities".
        golden: images whose answers travel with the bundle; none: drawn ones.
        flags: how this was asked for; kept in the provenance.
        as_is: the graph is not simplified.

    Raises:
        BadRequest: the model is not what it is said to be, or its answers differ once wrapped.
    """
    encoded = [_read(path, spec) for path in golden] or draw_pictures()
    images = np.stack([prepare(one, spec) for one in _enough(encoded)])
    scores = foreign_scores(foreign, pixels, images)
    check_width(labels, scores.shape[1], foreign.path)
    activation, notes = choose_activation(scores[: len(encoded)], gives, task, foreign.path)
    exactness = precision(foreign)
    draft = Bundle(
        fixed_batch=foreign.batch if isinstance(foreign.batch, int) else None,
        model=model,
        created_at=datetime.now(UTC),
        task=task,
        labels=labels,
        image=spec,
        thresholds=(THRESHOLD,) * len(labels) if task == "multi" else (),
        tolerances={key: max(value, COARSE[exactness]) for key, value in TOLERANCES.items()},
        files=dict.fromkeys((MODEL, GOLDEN), "0" * 64),
    )
    truth = to_probabilities(scores, activation)
    allowed = PARITY[exactness]

    def proven(source: Foreign, bundle: Bundle) -> tuple[bytes, Proof]:
        content = wrap(source, pixels, activation, bundle)
        found = prove(content, truth, images, allowed, foreign.path)
        if found.one_only and source is not foreign:
            raise BadRequest(f"then it would take one image at a time: {found.one_only}")
        return content, found

    content, proof = proven(foreign, draft)
    if proof.one_only:
        notes.append(f"takes one image at a time, whatever its graph says: {proof.one_only}")
        given = draft.model_dump(exclude={"schema_version"})
        draft = Bundle.model_validate(given | {"fixed_batch": 1})
        content, proof = proven(foreign, draft)
    simple = None
    if not as_is:
        try:
            if simple := simplify(foreign):
                content, proof = proven(simple, draft)
        except Exception as error:  # of onnxslim and ONNX Runtime, each with a dozen kinds
            simple = None
            reason = str(error).strip() or type(error).__name__
            notes.append(f"its graph is not simplified: {reason.splitlines()[0]:.300}")
    (stage / MODEL).write_bytes(content)
    write_golden(stage / GOLDEN, encoded, proof.answers[: len(encoded)])
    facts = _provenance(foreign, simple, as_is, flags) | {
        "parity": f"{proof.difference:.2e} (allowed {allowed:.0e})"
    }
    return Adopted(
        seal_stage(stage, draft, metrics={}, provenance=facts), proof.difference, tuple(notes)
    )


def _read(path: Path, spec: ImageSpec) -> bytes:
    try:
        encoded = path.read_bytes()
        prepare(encoded, spec)
    except (OSError, BadImage) as error:
        raise BadRequest(f"{path}: cannot be a golden image: {error}") from error
    return encoded


def _enough(encoded: Sequence[bytes]) -> list[bytes]:
    """The images and, where they are too few for the largest parity batch, drawn ones."""
    missing = max(0, max(PARITY_BATCHES) - len(encoded))
    return [*encoded, *draw_pictures()[:missing]]


def _provenance(
    foreign: Foreign, simple: Foreign | None, as_is: bool, flags: str
) -> dict[str, str]:
    proto = foreign.proto
    weights = ", ".join(f"{path.name} {sha256_file(path)}" for path in foreign.weights)
    opsets = ", ".join(f"{one.domain or 'ai.onnx'} {one.version}" for one in proto.opset_import)
    return {
        "backbone": f"imported, {_architecture(foreign, as_is)}",
        "source": foreign.path.name,
        "source_sha256": sha256_file(foreign.path),
        **({"source_weights_sha256": weights} if weights else {}),
        "producer": f"{proto.producer_name} {proto.producer_version}".strip() or "unknown",
        "opset": opsets,
        "ir_version": str(proto.ir_version),
        **({"simplified": described(foreign, simple)} if simple else {}),
        "flags": flags,
        "versions": f"python {platform.python_version()}, onnx {onnx.__version__}, {RUNTIME}",
    }


def _architecture(foreign: Foreign, as_is: bool) -> str:
    """Equal for models that differ in their weights alone: those run best under the same plan."""
    digest = hashlib.sha256(f"{foreign.batch} {foreign.dtype} {foreign.layout} {as_is}".encode())
    for node in all_nodes(foreign.proto):
        digest.update(node.op_type.encode())
    for tensor in foreign.proto.graph.initializer:
        digest.update(f"{tensor.data_type}{list(tensor.dims)}".encode())
    return digest.hexdigest()[:16]
