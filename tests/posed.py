"""A device that poses as a GPU: `python posed.py FOLDER WHAT` has a network learn on it.

What it computes is computed on the CPU, but as on a GPU its tensors mix with none of the CPU's, and
nothing gets there or back unless it is copied.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import photos
import torch
from benches import opened
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

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

_setup_privateuseone_for_python_backend("posed")  # for this process, hence one of its own
DEVICE = torch.device("posed", 0)
COPIES = torch.ops.aten._to_copy.default
# as with CUDA: these copy, and places to look at may be numbers on the CPU
MIXING = {
    torch.ops.aten.copy_.default,
    torch.ops.aten._foreach_copy_.default,
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
}
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


class Posed(torch.Tensor):
    """On the device, for all that it says of itself; `numbers` are on the CPU."""

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> "Posed":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return compute(op, args, kwargs or {})


class Pose(TorchDispatchMode):
    """Within it, what is to be made on the device is; `met` counts copies there and back,
    and how often a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.met: Counter[str] = Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        answer = compute(op, args, kwargs or {})
        if op is COPIES:
            self.met["up" if isinstance(answer, Posed) else "down"] += 1
        self.met["waits"] += waits(op, args, kwargs or {}, answer)
        return answer


def compute(op: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What `op` gives, on the device if its tensors are there or it is told to.

    Raises:
        RuntimeError: some tensors are there and others are not, as CUDA has it.
    """
    flat, form = tree_flatten((args, kwargs))
    tensors = [one for one in flat if isinstance(one, torch.Tensor)]
    posed = [one for one in tensors if isinstance(one, Posed)]
    # a single number may come from anywhere
    others = [one for one in tensors if not isinstance(one, Posed) and one.dim()]
    if posed and others and op not in MIXING:
        raise RuntimeError(f"{op}: tensors on two devices, {DEVICE} and cpu")
    there = bool(posed)
    if (asked := kwargs.get("device")) is not None:
        there = torch.device(asked).type == DEVICE.type
    plain = [one.numbers if isinstance(one, Posed) else one for one in flat]
    args, kwargs = tree_unflatten(plain, form)
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    answer = op(*args, **kwargs)
    if op is COPIES and answer is args[0]:
        answer = answer.clone()
    known = {id(one.numbers): one for one in posed}  # an operation in place gives what it was given

    def pose(one: Any) -> Any:
        if not isinstance(one, torch.Tensor):
            return one
        return known[id(one)] if id(one) in known else Posed(one)

    return tree_map(pose, answer) if there else answer


def waits(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], answer: Any) -> bool:
    """Whether CUDA would only return once the device has done all that it was given."""
    if op is torch.ops.aten._local_scalar_dense.default:  # a number is read
        return isinstance(args[0], Posed)
    if op is COPIES:
        crosses = isinstance(args[0], Posed) is not isinstance(answer, Posed)
        return crosses and not kwargs.get("non_blocking")
    if op is torch.ops.aten.copy_.default:
        crosses = isinstance(args[0], Posed) is not isinstance(args[1], Posed)
        return crosses and not any(args[2:])
    return False


def check_that_it_mixes_with_nothing() -> None:
    here = torch.ones(3)
    there = here.to(DEVICE)
    assert (there.device, (there + there).cpu().tolist()) == (DEVICE, [2, 2, 2])
    try:
        there + here
    except RuntimeError:
        return
    raise AssertionError("a device that mixes with the CPU shows nothing")


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


WHAT = {"learns": learns, "steps": steps, "shares": shares, "diverges": diverges}


def main(folder: Path, what: str) -> None:
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(…, device=…)` is seen by the mode
    torch.__future__.set_swap_module_params_on_conversion(True)  # `to` keeps parameters, as CUDA's
    opening.pick_device = lambda: DEVICE
    with Pose() as pose:
        found = WHAT[what](folder, pose)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
