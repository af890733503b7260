"""What an executor reports of its work, for metrics."""

from typing import Protocol


class Observer(Protocol):
    """Every method is called in the thread that did the work."""

    def decoded(self, seconds: float) -> None:
        """One image was decoded."""

    def ran(self, n_images: int, queue_s: float, compute_s: float) -> None:
        """A batch ran; its oldest image had been queued for `queue_s`."""

    def dropped(self, reason: str, n_images: int) -> None:
        """Images were not run: `cancelled` by their caller, or `expired` in the queue."""

    def rejected(self, reason: str) -> None:
        """A request was rejected because of a limit."""
