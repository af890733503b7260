"""Steady load: a client that sends a few requests a second, whatever the server is doing."""

import itertools
import threading
import time
from pathlib import Path

from unfreeze.client import Client
from unfreeze.demo.errors import DemoError
from unfreeze.errors import UnfreezeClientError

PAUSE_S = 0.25


class SteadyCaller:
    """Sends one image at a time from `__enter__` to `__exit__`, and counts the answers."""

    def __init__(self, address: str, model: str, images: list[Path]) -> None:
        self.served = 0
        self.failures: list[str] = []
        self.versions: set[int] = set()
        self._address, self._model, self._images = address, model, images
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, name="steady-caller")

    def wait_for_version(self, version: int, timeout_s: float = 30) -> None:
        """Waits until `version` has answered a request.

        Raises:
            DemoError: it did not within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while version not in self.versions:
            if time.monotonic() > deadline:
                raise DemoError(f"version {version} did not answer within {timeout_s:.0f} s")
            time.sleep(PAUSE_S)

    def __enter__(self) -> "SteadyCaller":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask_on(self) -> None:
        # a single attempt per request, so that no failure is hidden by a retry
        with Client(self._address, attempts=1) as client:
            for image in itertools.cycle(self._images):
                try:
                    (prediction,) = client.classify(image, model=self._model)
                    self.versions.add(prediction.version or 0)
                    self.failures += [str(prediction.error)] if prediction.error else []
                    self.served += prediction.error is None
                except UnfreezeClientError as error:
                    self.failures.append(str(error))
                if self._stop.wait(PAUSE_S):
                    return
