"""What cached activations are worth: a head epoch with them, and the same epoch without.

    .venv/bin/python benchmarks/activations.py [--images 512] [--rounds 5]

Both train the same head on the same batches; without the cache, each batch goes through the frozen
backbone first. Rounds are interleaved; the ratio is taken round by round.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from training.activations import Activations, precompute, to_device
from training.backbone import load_backbone
from training.batches import ActivationBatches
from training.data import Rows, read_dataset
from training.decoded import decode
from training.device import autocast
from training.fit import Stage, Tally, train_epoch
from training.network import Network, build_network
from training.optimizer import Optimizer
from training.plan import Plan
from training.schedule import cosine_restarts
from training.settings import OptimizerSpec, Settings
from unfreeze.demo.photographs import lay_out

WANTED = 50  # times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    settings, device = Settings(), torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        dataset = read_dataset(lay_out(cache / "data").all)
        decoded = decode(dataset.items, settings.image_spec(), cache, lambda n: None)
        backbone = load_backbone("efficientnet_lite0")
        network = build_network(backbone, 2, size=224, hidden=(512,), dropout=(0.25, 0.5))
        network.freeze_to(2)
        rows = dataset.rows("train")[:: len(dataset.rows("train")) // options.images]
        rows = rows[: options.images]
        activations = precompute(network, backbone.digest, decoded, rows, cache, device)
        targets = torch.from_numpy(dataset.targets[rows])
        batches = ActivationBatches(activations, targets, settings.batch_size, seed=0)
        # the same batches, by row number instead of by features
        numbers = by_number(batches, rows)

        def uncached(places: Tensor) -> Tensor:
            pixels = to_device(decoded.pixels[places.flatten().long().numpy()], device)
            with torch.no_grad(), autocast(device, backward=False):
                features = network.features(pixels)
            logits: Tensor = network.head(features.float())
            return logits

        print(f"efficientnet_lite0 at 224, {len(rows)} images, {torch.get_num_threads()} threads")
        ratios = []
        for number in range(options.rounds):
            with_cache = seconds(network, network.head, batches)
            without = seconds(network, uncached, numbers)
            ratios.append(without / with_cache)
            print(f"round {number + 1}: {with_cache:.3f} s cached, {without:.2f} s not")
    median = statistics.median(ratios)
    print(f"ratio: median {median:.0f}, from {min(ratios):.0f} to {max(ratios):.0f} (>= {WANTED})")
    return 0 if median >= WANTED else 1


def by_number(batches: ActivationBatches, rows: Rows) -> ActivationBatches:
    """The batches of `batches`, each input a row number of the decoded images."""
    features = torch.from_numpy(rows).double()[:, None]
    return ActivationBatches(
        Activations(features, "numbers"), batches.targets, batches.batch_size, batches.seed
    )


def seconds(
    network: Network, forward: Callable[[Tensor], Tensor], batches: ActivationBatches
) -> float:
    """Time of one epoch."""
    groups = [list(network.head.parameters())]
    plan = Plan(cosine_restarts(len(batches), [1]), None, None, (1,))
    stage = Stage("head", forward, nn.CrossEntropyLoss(), batches, [1e-2], plan)
    network.train_unfrozen(freeze_batchnorm=True)
    began = time.perf_counter()
    train_epoch(stage, Optimizer(groups, OptimizerSpec()), Tally())
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())
