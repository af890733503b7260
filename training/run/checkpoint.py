"""The file from which a training that was killed goes on, as if nothing had happened.

It is written between two steps, whole or not at all: weights, optimizer, random numbers, where the
training is, and whatever else has been registered.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from training.fit.epoch import Tally
from training.run.journal import check_same
from training.run.state_file import read_state, write_state
from training.run.whole_files import discard_left

FORMAT = "2"  # of the file; another one when the same steps would do something else
WORK_SHARE = 20  # times as long as writing a checkpoint took, none is written


class Stateful(Protocol):
    """What can be put into a checkpoint: modules, optimizers, and ours."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


class Checkpoint:
    """Keeps a file up to date while a training runs, and knows how far an earlier process came.

    Before it is opened it keeps nothing, as suits a notebook.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._every_s = 0.0
        self._note: Callable[[str], None] = lambda text: None
        self._key: dict[str, str] = {}
        self._found: dict[str, Any] = {"over": [], "stage": "", "parts": {}}
        self._always: dict[str, Stateful] = {}
        self._over: list[str] = []
        self._stage = ""
        self._parts: dict[str, Stateful] = {}
        self._saved_at, self._took_s = 0.0, 0.0
        self._fails = False

    def open(
        self,
        path: Path,
        key: Mapping[str, str],
        every_s: float,
        *,
        writes: bool = True,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """From now on `path` is kept up to date; what it holds already is gone on with.

        Args:
            key: what a training depends on, by name.
            every_s: least time between two checkpoints of a stage; 0: one after every batch.
            writes: False: another process does.
            note: told when it can no longer be written, as when the disk is full.

        Raises:
            Conflict: the file belongs to another training; says what differs.
        """
        if writes:
            discard_left(path.parent)
        self._path, self._every_s = path if writes else None, every_s
        self._note = note
        self._key = dict(key) | {"format": FORMAT}
        if found := read_state(path):
            _check_key(path, found["key"], self._key)
            self._found = found

    def register(self, name: str, part: Stateful) -> None:
        """`part` is in every checkpoint from now on, and is now as it was in the one found."""
        self._always[name] = part
        self._restore({name: part})

    def begin(self, stage: str) -> bool:
        """Whether anything of a stage is left to do; all before it is over."""
        if self._stage:
            self._over.append(self._stage)
        self._stage = stage
        if stage not in self._found["over"]:
            return True
        self._found["over"].remove(stage)
        return False

    def enter(self, parts: Mapping[str, Stateful | None]) -> Tally:
        """Where to begin the stage that has begun; `parts`, which are in its checkpoints, and the
        random numbers are as they were there."""
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self._parts["random"] = RandomNumbers()
        self._saved_at = time.monotonic()
        if self._stage != self._found["stage"]:
            return Tally()
        self._found["stage"] = ""  # once
        self._restore(self._parts)
        return Tally(**self._found["tally"])

    def save_if_due(self, tally: Tally, *, at_once: bool = False) -> None:
        waited_s = time.monotonic() - self._saved_at
        at_once = at_once or not self._every_s
        if at_once or waited_s >= max(self._every_s, WORK_SHARE * self._took_s):
            self.save(tally)

    def save(self, tally: Tally) -> None:
        """The file holds the training as it is now, on the disk; or as it was, if it cannot be
        written, and the training goes on."""
        if self._path is None:
            return
        began = time.monotonic()
        try:
            write_state(self._path, self._state(tally))
            self._fails = False
        except OSError as error:  # a disk that is full, perhaps for a moment
            if not self._fails:
                self._note(f"no checkpoint: {error}; training goes on and tries again")
            self._fails = True
        self._saved_at = time.monotonic()
        self._took_s = self._saved_at - began

    def _state(self, tally: Tally) -> dict[str, Any]:
        parts = self._always | self._parts
        return {
            "key": self._key,
            "over": self._over,
            "stage": self._stage,
            "tally": asdict(tally),
            "parts": {name: part.state_dict() for name, part in parts.items()},
        }

    def _restore(self, parts: Mapping[str, Stateful]) -> None:
        for name, part in parts.items():
            if name in self._found["parts"]:
                part.load_state_dict(self._found["parts"].pop(name))


class RandomNumbers:
    """Torch's generators; every other of a training is made anew from its seed and the epoch."""

    def state_dict(self) -> dict[str, Any]:
        gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "gpu": gpu}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        torch.set_rng_state(state["cpu"])
        for generator in state["gpu"]:
            torch.cuda.set_rng_state(generator)


def _check_key(path: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    check_same(path.parent, differing)
