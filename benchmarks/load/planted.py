"""The real server with injected faults: `python -m load.planted FAULT[,FAULT] FLAGS...`.

A soak that passes with this server is worthless. Nothing here is part of the product.
"""

import os
import sys
import threading
from typing import Any

import numpy as np

from service.__main__ import main
from service.execution.session import Session
from service.models.loaded_version import LoadedVersion
from service.models.loader import Loader

LEAKED_BYTES = 8 << 20  # for each version that is loaded
WRONG_EVERY = 100  # runs of a session, so that a version passes its check before it goes live
kept: list[object] = []


def keep_memory() -> None:
    kept.append(np.ones(LEAKED_BYTES, np.uint8))


def keep_file() -> None:
    os.open(__file__, os.O_RDONLY)


def keep_thread() -> None:
    for _ in range(3):  # enough to stand out from noise, however few versions there is time for
        threading.Thread(target=threading.Event().wait, daemon=True).start()


LEAKS = {"memory": keep_memory, "files": keep_file, "threads": keep_thread}
ANSWERS = "answers"


def leak(*names: str) -> None:
    """From now on, every version that is loaded leaks something."""
    load = Loader.load

    def load_and_leak(self: Loader, *arguments: Any) -> LoadedVersion:
        for name in names:
            LEAKS[name]()
        return load(self, *arguments)

    Loader.load = load_and_leak  # type: ignore[method-assign, assignment]


def answer_wrong() -> None:
    """Now and then, swaps classes, as if the batches of two versions had been mixed up."""
    run, runs = Session.run, dict[int, int]()

    def sometimes_wrong(self: Session, images: Any) -> Any:
        runs[id(self)] = runs.get(id(self), 0) + 1
        answers = run(self, images)
        return answers[:, ::-1] if runs[id(self)] % WRONG_EVERY == 0 else answers

    Session.run = sometimes_wrong  # type: ignore[method-assign]


if __name__ == "__main__":
    faults = set(sys.argv[1].split(","))
    leak(*faults - {ANSWERS})
    if ANSWERS in faults:
        answer_wrong()
    raise SystemExit(main(sys.argv[2:]))
