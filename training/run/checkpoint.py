"""The checkpoint from which a killed training resumes, with the same result as without the kill.

It is written atomically, between two steps: weights, optimizer, random-number generators, the
position in the training, and whatever else has been registered.
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

FORMAT = "3"  # of the file; to be changed when the same steps would give other results
WORK_SHARE = 20  # train at least this many times as long as writing the last checkpoint took


class Stateful(Protocol):
    """What can be put into a checkpoint: modules, optimizers, and classes of ours."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


class Checkpoint:
    """Keeps the checkpoint file up to date, and knows how far an earlier process came.

    Until it is opened it does nothing, as in a notebook.
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
        """From now on `path` is kept up to date; if it exists, the training resumes from it.

        Args:
            key: what a training depends on, by name.
            every_s: shortest time between two checkpoints of a stage; 0: one after every batch.
            writes: False if another process writes the file.
            note: called when it cannot be written, for example because the disk is full.

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
        """Adds `part` to every checkpoint from now on, and restores it from the one found."""
        self._always[name] = part
        self._restore({name: part})

    def begin(self, stage: str) -> bool:
        """Whether a stage is still to be done, at least in part; all earlier ones are over."""
        if self._stage:
            self._over.append(self._stage)
        self._stage = stage
        if stage not in self._found["over"]:
            return True
        self._found["over"].remove(stage)
        return False

    def enter(self, parts: Mapping[str, Stateful | None]) -> Tally:
        """Where to start in the current stage. Restores `parts`, which its checkpoints include, and
        the random-number generators."""
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
        """Writes the current state durably. If that fails, the previous file stays and the training
        goes on."""
        if self._path is None:
            return
        began = time.monotonic()
        try:
            write_state(self._path, self._state(tally))
            self._fails = False
        except OSError as error:  # a full disk, perhaps only for a moment
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
    """Torch's generators; all others in a training are created from the seed and the epoch."""

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
