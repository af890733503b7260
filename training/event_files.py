"""Curves, pictures and settings as event files, for whoever watches trainings in TensorBoard.

A training works without the package `tensorboard`; its setting of that name asks for it.
"""

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from registry.errors import BadRequest

FOLDER = "tensorboard"  # of a run
FORMAT = "brain.Event:2"  # the first record of every event file
RGB = 3


def wanted(asked: bool | None) -> bool:
    """Whether to write event files: as asked, or else where the package is installed.

    Raises:
        BadRequest: they are asked for, and it is not.
    """
    installed = importlib.util.find_spec("tensorboard") is not None
    if asked and not installed:
        raise BadRequest(
            "settings: tensorboard=true needs its package; pip install unfreeze[tensorboard]"
        )
    return installed if asked is None else asked


class Curves:
    """Writes an event file, or nothing; a step is a batch, counted through all stages."""

    def __init__(self, file: BinaryIO | None, step: int) -> None:
        self._met = time.perf_counter()
        self._file = file
        if not file:
            return
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._events, self._summaries = event_pb2, summary_pb2
        self._records = RecordWriter(file)
        self._write(0, file_version=FORMAT)
        # whoever reads forgets what earlier files have of this step and later ones
        self._write(step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def batch(self, step: int, loss: float, rates: Sequence[float], n_images: int) -> None:
        """Of a batch: its loss, each group's learning rate (0: frozen), and the throughput."""
        seconds, self._met = time.perf_counter() - self._met, time.perf_counter()
        shown = {"batch/loss": loss, "batch/images a second": n_images / seconds}
        self.scalars(step, shown | {f"rate/group {n}": rate for n, rate in enumerate(rates)})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self._file:
            value = self._summaries.Summary.Value
            shown = [value(tag=tag, simple_value=number) for tag, number in values.items()]
            self._write(step, summary=self._summaries.Summary(value=shown))

    def picture(self, step: int, path: Path) -> None:
        """A PNG as it is, by the name of its file."""
        if not self._file:
            return
        with Image.open(path) as opened:
            width, height = opened.size
        image = self._summaries.Summary.Image(
            width=width, height=height, colorspace=RGB, encoded_image_string=path.read_bytes()
        )
        shown = self._summaries.Summary.Value(tag=f"report/{path.stem}", image=image)
        self._write(step, summary=self._summaries.Summary(value=[shown]))

    def settings(self, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Settings beside what they led to, for the page HPARAMS; what is no number is text."""
        if not self._file:
            return
        from torch.utils.tensorboard.summary import hparams

        plain = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in settings.items()
        }
        self.scalars(0, metrics)
        for summary in hparams(plain, dict(metrics)):  # type: ignore[no-untyped-call]
            self._write(0, summary=summary)

    def _write(self, step: int, **what: Any) -> None:
        event = self._events.Event(wall_time=time.time(), step=step, **what)
        self._records.write(event.SerializeToString())
        self._records.flush()


@contextmanager
def curves(run: Path, step: int, *, on: bool) -> Iterator[Curves]:
    """What draws from `step` on, whatever earlier event files of the run say of it and later."""
    if not on:
        yield Curves(None, step)
        return
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    # TensorBoard reads the files of a folder in the order of their names
    with (folder / f"events.out.tfevents.{time.time_ns()}").open("xb") as file:
        yield Curves(file, step)
