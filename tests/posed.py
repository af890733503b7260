"""A device that poses as a GPU.

What it computes is computed on the CPU, but as on a GPU its tensors mix with none of the CPU's, and
nothing gets there or back unless it is copied.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

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
