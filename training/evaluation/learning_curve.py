"""The learning curve: heads trained on more and more of the cached activations."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from registry.bundle import Task
from registry.counted import counted
from registry.errors import TrainingError
from registry.images import Float32Array
from training.bench import Bench
from training.data.dataset import Rows
from training.fit.activations import Activations, Parts
from training.fit.balance import draw_shares
from training.fit.batches import ActivationBatches
from training.fit.epoch import Diverged, Stage, Tally, train_epoch
from training.fit.lr_finder import untouched
from training.fit.optimizer import Optimizer
from training.fit.passes import settle, validate_head
from training.fit.plan import plan_head
from training.network.head import make_head
from training.overrides import advice_on_rate

SHARES = (1 / 8, 1 / 4, 1 / 2, 1)  # of the training images
MOST_STEPS = 500  # of one fit, however many images there are
FEWEST = 2  # images per class on average, for the curve to make sense

Curve = Mapping[int, Sequence[float]]  # images -> metric on the held-out part, one value per draw


def measure_learning_curve(bench: Bench, activations: Parts, rate: float, n_draws: int) -> Curve:
    """The metric of heads trained on an eighth, a quarter, half and all of the images, `n_draws`
    times each; network and random-number generators are restored.

    Every fit takes the same number of steps. The curve is only reported; nothing is chosen by it.
    The backbone is frozen: what fine-tuning gains from more images is another question.

    Raises:
        TrainingError: the loss is not finite; says at which learning rate, and what to lower.
    """
    bench.stages.begin("learning curve", 0)
    try:
        curve = _measure(bench, activations, rate, n_draws)
    except Diverged as error:
        raise TrainingError(f"{error}; {advice_on_rate(bench, 'head', rate)}") from error
    if curve:
        bench.note("learning_curve", describe_curve(curve))
    bench.results.learning_curve = curve
    return curve


def _measure(bench: Bench, activations: Parts, rate: float, n_draws: int) -> dict[int, list[float]]:
    settings, targets = bench.settings, bench.targets("train")
    weighted = bench.learning_targets()
    n_features, n_classes = activations.train.features.shape[1], targets.shape[1]
    n_steps = len(bench.activation_batches(activations.train)) * settings.head_epochs
    sizes = curve_sizes(len(targets), n_classes)
    curve: dict[int, list[float]] = {}
    with untouched(bench.network.head):
        for draw in range(n_draws):
            random = np.random.default_rng([settings.seed, draw])
            order = stratified_order(targets.numpy(), bench.dataset.task, random)
            for size in sizes:
                torch.manual_seed(settings.seed + draw)
                fresh = make_head(
                    n_features, n_classes, settings.hidden, settings.dropout, settings.epsilon
                )
                bench.network.head.load_state_dict(fresh.state_dict())
                batches = _subset(bench, activations.train.features, weighted, order[:size])
                _fit(bench, batches, rate, min(n_steps, MOST_STEPS))
                _, value = validate_head(bench, activations.valid.features)
                curve.setdefault(size, []).append(value)
    return curve


def curve_sizes(n_images: int, n_classes: int) -> list[int]:
    """Numbers of training images, ascending; none if there would be too few to tell."""
    sizes = {round(n_images * share) for share in SHARES}
    enough = sorted(size for size in sizes if size >= FEWEST * n_classes)
    return enough if len(enough) > 1 else []


def stratified_order(targets: Float32Array, task: Task, random: np.random.Generator) -> Rows:
    """A random order of [n,classes] targets in which every prefix is stratified, starting with one
    image of each class. So a draw's smaller sets are subsets of its larger ones. In a multi-label
    task it is just random."""
    order = random.permutation(len(targets))
    if task == "multi":
        return order
    progress = np.empty(len(targets))  # of each image, which share of its class comes before it
    classes = targets.argmax(axis=1)
    for number in np.unique(classes):
        members = order[classes[order] == number]
        progress[members] = np.arange(len(members)) / len(members)
    return order[np.argsort(progress[order], kind="stable")]


def describe_curve(curve: Curve) -> str:
    """One line for people, without extrapolating to more images."""
    half, everything = sorted(curve)[-2:]
    gain = float(np.mean(curve[everything]) - np.mean(curve[half]))
    points = ", ".join(
        f"{counted(size, 'image')} {_mean_and_spread(curve[size])}" for size in sorted(curve)
    )
    return (
        f"the head alone, trained on {points}; the last step, from {half} to {everything} "
        f"images, changed it by {gain:+.3f}"
    )


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _subset(bench: Bench, features: Tensor, targets: Tensor, chosen: Rows) -> ActivationBatches:
    balanced = bench.settings.balance == "sampling"
    return ActivationBatches(
        Activations(features[chosen], ""),
        targets[chosen],
        bench.settings.batch_size,
        bench.settings.seed,
        draw_shares(targets[chosen].numpy()) if balanced else None,
        bench.device,
    )


def _fit(bench: Bench, batches: ActivationBatches, rate: float, n_steps: int) -> None:
    """Trains the head for about `n_steps`, and recomputes its batch statistics."""
    n_epochs = max(1, round(n_steps / len(batches)))
    settings = bench.settings.model_copy(update={"head_epochs": n_epochs})
    plan, head = plan_head(settings, len(batches)), bench.network.head
    stage = Stage("learning curve", head, bench.training_loss(), batches, [rate], plan)
    optimizer = Optimizer([list(head.parameters())], settings.optimizer_spec())
    for number in range(n_epochs):
        head.train()
        train_epoch(stage, optimizer, Tally(number))
    settle(bench, [features for features, _ in batches.epoch(0)])
