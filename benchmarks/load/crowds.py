"""Starts, reads, stops and kills processes that run many clients each."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

from load.server import MODULES
from load.tally import Tally, from_json, total

HOME_WITHIN_S = 90
KILLED_WITHIN_S = 60


class Crowd:
    """One process with many clients; `tallies` has the counts that it printed last."""

    def __init__(self, address: str, pace: float, weights: dict[str, int], errors: Path) -> None:
        self.tallies: dict[str, Tally] = {}
        command = [sys.executable, "-m", "load.crowd", address, str(pace)]
        command += [f"{kind}={weight}" for kind, weight in weights.items()]
        with errors.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | MODULES,
            )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.tallies = {kind: from_json(found) for kind, found in json.loads(line).items()}

    def send_home(self) -> int:
        """Stops it once all of its requests have been answered; returns its exit code."""
        assert self.process.stdin
        self.process.stdin.close()
        code = self.process.wait(HOME_WITHIN_S)
        self._listener.join()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listener.join()


class Killed:
    """Crowds that never stop, each killed in the middle of a request and replaced by the next."""

    def __init__(self, address: str, pace: float, every_s: float, errors: Path) -> None:
        self.kills = 0
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(address, pace, errors))
        self._thread.start()

    def _work(self, address: str, pace: float, errors: Path) -> None:
        while not self._ended.is_set():
            crowd = Crowd(address, pace, {"crash": 4}, errors)
            until = time.monotonic() + 30
            while not _asking(crowd) and time.monotonic() < until and not self._ended.is_set():
                time.sleep(0.05)
            self._ended.wait(random.uniform(0, self._every_s))
            self.kills += _asking(crowd)
            crowd.kill()

    def stop(self) -> None:
        """Ends it, after at least one kill."""
        until = time.monotonic() + KILLED_WITHIN_S
        while not self.kills and time.monotonic() < until:
            time.sleep(0.05)
        self._ended.set()
        self._thread.join()


def begun(crowds: list[Crowd]) -> bool:
    """Whether every kind of client has had an answer."""
    return all(
        crowd.tallies and all(tally.answered for tally in crowd.tallies.values())
        for crowd in crowds
    )


def _asking(crowd: Crowd) -> bool:
    return bool(crowd.tallies) and crowd.tallies["crash"].answered > 0


def add_up(crowds: list[Crowd]) -> dict[str, Tally]:
    """The counts by kind, over all crowds."""
    kinds = sorted({kind for crowd in crowds for kind in crowd.tallies})
    return {
        kind: total(crowd.tallies[kind] for crowd in crowds if kind in crowd.tallies)
        for kind in kinds
    }
