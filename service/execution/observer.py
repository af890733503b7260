"""What an executor tells of its work, for those who count."""

from typing import Protocol


class Observer(Protocol):
    """Each is called in the thread that did the work."""

    def decoded(self, seconds: float) -> None:
        """One image has been decoded."""

    def ran(self, n_images: int, queue_s: float, compute_s: float) -> None:
        """A batch has run; its oldest image had waited `queue_s`."""

    def dropped(self, reason: str, n_images: int) -> None:
        """Images were not run: `cancelled` by their caller, or `expired` in the queue."""

    def rejected(self, reason: str) -> None:
        """A request was turned away at a limit."""
