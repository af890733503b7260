"""What a training does on a device that poses as a GPU: `python on_posed.py FOLDER WHAT`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import photos
import torch
from benches import opened
from posed import DEVICE, Pose, check_that_it_mixes_with_nothing
from safetensors.torch import load_file

from registry.errors import TrainingError
from training import opening
from training.distributed import collectives
from training.distributed.parallel import ALONE
from training.fit.epoch import Stage, Tally, train_epoch
from training.fit.optimizer import Optimizer
from training.fit.plan import Plan
from training.fit.schedule import constant
from training.fit.stage import LAST_GOOD
from training.recipe import train_network

# Whatever a training does on a device: each setting has steps of its own.
EVERYTHING = {
    "precision": "float32",
    "label_noise": "true",
    "learning_curve": "1",
    "ema": "0.9",
    "judge_share": "0.3",
    "sam": "0.05",
    "policy": "trivial",
    "erasing": "0.5",
    "mixup": "0.4",
    "balance": "weights",
    "freeze_batchnorm": "false",
    "head_epochs": "1",
    "augmented_epochs": "1",
}


def learns(folder: Path, pose: Pose) -> dict[str, Any]:
    """Whatever a training does on a device, from the first step to the last."""
    check_that_it_mixes_with_nothing()
    data = photos.folder(folder / "data", per_class=14)
    train_network(photos.assignment(folder, data, **EVERYTHING), lambda event: None, ALONE)
    return dict(pose.met)


def steps(folder: Path, pose: Pose) -> dict[str, Any]:
    """An epoch on images: how many steps it has, and how often a GPU would be waited for."""
    bench = opened(
        folder, photos.folder(folder / "data", per_class=20), photos.QUICK | {"batch_size": "2"}
    )
    batches = bench.image_batches()
    plan = Plan(constant(len(batches), 1), None, None, (1,))
    loss = bench.training_loss()
    stage = Stage("all layers", bench.network, loss, batches, [0.01] * 3, plan)
    optimizer = Optimizer(bench.network.learning_groups(), bench.settings.optimizer_spec())
    pose.met.clear()
    train_epoch(stage, optimizer, Tally())
    return {"steps": len(batches), "waits": pose.met["waits"]}


def shares(folder: Path, pose: Pose) -> dict[str, Any]:
    """Normalisation over the shares of several processes, of which this is the only one."""
    collectives.all_reduce = lambda tensor: tensor
    norm = torch.nn.BatchNorm2d(3).to(DEVICE)
    features = torch.rand(4, 3, 2, 2, device=DEVICE)
    pose.met.clear()
    collectives._normalise(norm, features)
    return {"waits": pose.met["waits"]}


def diverges(folder: Path, pose: Pose) -> dict[str, Any]:
    """A training whose first steps spoil its weights: what it says, and whether those it has left
    are good."""
    data = photos.folder(folder / "data", per_class=14)
    told = photos.assignment(folder, data, **EVERYTHING, learning_rate="1e36", clip_norm="")
    try:
        train_network(told, lambda event: None, ALONE)
    except TrainingError as error:
        left = load_file(told.run / LAST_GOOD)
        good = all(bool(tensor.isfinite().all()) for tensor in left.values())
        return {"error": str(error), "good": good}
    raise AssertionError("it does not diverge")


def publishes(folder: Path, pose: Pose) -> dict[str, Any]:
    """From Python: where the network is after it was exported, which is done on the CPU."""
    learner = photos.learner(folder, per_class=14, precision="float32")
    before = learner.bench.device
    torch.__future__.set_swap_module_params_on_conversion(False)  # `load_state_dict` cannot
    learner.publish(folder / "registry", "photos")
    return {"before": str(before), "after": str(learner.bench.device)}


WHAT: dict[str, Callable[[Path, Pose], dict[str, Any]]] = {
    "learns": learns,
    "steps": steps,
    "shares": shares,
    "diverges": diverges,
    "publishes": publishes,
}


def main(folder: Path, what: str) -> None:
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(…, device=…)` is seen by the mode
    torch.__future__.set_swap_module_params_on_conversion(True)  # `to` keeps parameters, as CUDA's
    opening.pick_device = lambda: DEVICE
    with Pose() as pose:
        found = WHAT[what](folder, pose)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
