"""A foreign model's answers to images, and the proof that the wrapped one gives the same."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from registry.bundle import Task
from registry.counted import counted
from registry.errors import BadRequest
from registry.images import Float32Array, UInt8Array
from training.export.runtime import PARITY_BATCHES, RUNTIME, answering, open_session
from training.foreign.graph import is_quantized
from training.foreign.model import Foreign
from training.foreign.wrap import Activation, Pixels

Scores = npt.NDArray[np.float64]

# Largest difference in any probability; where a network computes in integers, the last bit of a
# pixel can tip a rounding.
PARITY = {"float32": 1e-4, "float16": 5e-3, "quantized": 2e-2}
SUM = 0.01  # how far the probabilities of an image may be from 1 together


def precision(foreign: Foreign) -> str:
    """How exactly it computes, a key of `PARITY`."""
    if is_quantized(foreign.proto):
        return "quantized"
    halves = any(one.data_type == TensorProto.FLOAT16 for one in foreign.proto.graph.initializer)
    return "float16" if halves or foreign.dtype == TensorProto.FLOAT16 else "float32"


def foreign_scores(foreign: Foreign, pixels: Pixels, images: UInt8Array) -> Scores:
    """What the model itself says of each image, asked one by one: [n,s,s,3] -> [n,classes].

    A model of a fixed batch is given the image first and black ones after it.

    Raises:
        BadRequest: ONNX Runtime cannot open or run it, or its answer is not a row of numbers.
    """
    n = foreign.batch if isinstance(foreign.batch, int) else 1
    try:
        session = open_session(str(foreign.path))
        rows = []
        for image in images:
            batch = np.zeros((n, *image.shape), np.uint8)
            batch[0] = image
            feeds = {foreign.input: pixels.apply(foreign, batch)}
            rows.append(session.run([foreign.output], feeds)[0])
    except Exception as error:  # the runtime has a dozen kinds, all meaning this
        raise BadRequest(f"{foreign.path}: {RUNTIME} cannot run it: {error}") from error
    return np.concatenate([_row(answer, n, foreign) for answer in rows])


def _row(answer: np.ndarray, n: int, foreign: Foreign) -> Scores:
    shape = answer.shape
    if len(shape) < 2 or shape[0] != n or max(shape[1:]) != np.prod(shape[1:]):
        raise BadRequest(
            f"{foreign.path}: output {foreign.output} has shape {list(shape)} for "
            f"{counted(n, 'image')}, not [{n},classes]; choose another with --output, or export "
            "the model with its pooling"
        )
    row: Scores = answer.reshape(n, -1)[:1].astype(np.float64)
    if not np.isfinite(row).all():
        raise BadRequest(
            f"{foreign.path}: gives numbers that are not finite; are --scale, --mean and --std "
            "those it was trained with?"
        )
    return row


def choose_activation(
    scores: Scores, said: str | None, task: Task, path: Path
) -> tuple[Activation, list[str]]:
    """What turns these scores into probabilities, and remarks on them.

    Args:
        said: "logits" or "probabilities", what the model is said to give.

    Raises:
        BadRequest: they are not what was said, or nothing was said.
    """
    are_probabilities = _within_one(scores) and (task == "multi" or _sum_to_one(scores))
    if said is None:
        like = "probabilities" if are_probabilities else "logits"
        raise BadRequest(
            f"{path}: say --logits or --probabilities, what the model gives; {_look(scores)}, "
            f"which looks like {like}"
        )
    if said == "probabilities" and not are_probabilities:
        raise BadRequest(f"{path}: these are no probabilities: {_look(scores)}; try --logits")
    if said == "logits" and are_probabilities and task == "single":
        raise BadRequest(
            f"{path}: these are probabilities already: {_look(scores)}; say --probabilities"
        )
    notes = []
    if said == "logits" and are_probabilities:
        notes.append(f"{_look(scores)}: if these are probabilities already, say --probabilities")
    if len(scores) > 1 and np.ptp(scores, axis=0).max() < 1e-6:
        notes.append("every image got the same answer; are --scale, --mean and --std right?")
    if said == "probabilities":
        return "Identity", notes
    return ("Sigmoid" if task == "multi" else "Softmax"), notes


def _within_one(scores: Scores) -> bool:
    return bool(scores.min() >= -1e-6 and scores.max() <= 1 + 1e-6)


def _sum_to_one(scores: Scores) -> bool:
    return bool(np.abs(scores.sum(axis=1) - 1).max() <= SUM)


def _look(scores: Scores) -> str:
    sums = scores.sum(axis=1)
    return (
        f"on {len(scores)} images its outputs lie between {scores.min():.3g} and "
        f"{scores.max():.3g}, and an image's sum between {sums.min():.3g} and {sums.max():.3g}"
    )


def to_probabilities(scores: Scores, activation: Activation) -> Scores:
    """In NumPy: the other witness of what `wrap` appends."""
    if activation == "Identity":
        return scores
    if activation == "Sigmoid":
        return np.asarray(1 / (1 + np.exp(-scores)))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Proof:
    answers: Float32Array  # of the wrapped model to each image alone, [n,classes]
    difference: float  # largest, of any probability, in any batch
    one_only: str = ""  # why it cannot run several images at once, if it cannot


def prove(model: bytes, truth: Scores, images: UInt8Array, allowed: float, path: Path) -> Proof:
    """Checks that the wrapped model answers as the foreign one did (`truth`), to each image alone
    and in batches of 2 and 7.

    Raises:
        BadRequest: it does not; or an answer depends on the images beside it.
    """
    answer = answering(model)
    answers = np.concatenate([answer(image[None]) for image in images])
    difference = _difference(answers, truth)
    if not difference <= allowed:
        raise BadRequest(
            f"{path}: does not repeat its answers: {difference:.1e} apart, allowed {allowed:.0e}; "
            "was it exported in evaluation mode?"
        )
    for n in PARITY_BATCHES:
        try:
            together = answer(images[:n])
        except Exception as error:  # the runtime has a dozen kinds, all meaning this
            return Proof(answers, difference, str(error).strip().splitlines()[-1])
        if together.shape != (n, truth.shape[1]):
            return Proof(
                answers,
                difference,
                f"for {counted(n, 'image')} it gives the shape {list(together.shape)}",
            )
        apart = _difference(together, truth)
        if not apart <= allowed:
            raise BadRequest(
                f"{path}: answers an image otherwise among {n} than alone, {apart:.1e} apart; "
                "was it exported in evaluation mode?"
            )
        difference = max(difference, apart)
    return Proof(answers, difference)


def _difference(answers: Float32Array, truth: Scores) -> float:
    return float(np.abs(answers - truth[: len(answers)]).max())
