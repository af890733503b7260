"""Curves, pictures and settings as event files, for whoever watches trainings in TensorBoard.

A training works without the package `tensorboard`; its setting of that name asks for it.
"""

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from registry.errors import BadRequest
from training.fit.epoch import Epoch, Step

EVENTS_FOLDER = "tensorboard"  # of a run
FORMAT = "brain.Event:2"  # the first record of every event file
RGB = 3


def tensorboard_wanted(setting: bool | None) -> bool:
    """Whether to write event files: as the setting says, or else where the package is installed.

    Raises:
        BadRequest: they are wanted, and it is not installed.
    """
    installed = importlib.util.find_spec("tensorboard") is not None
    if setting and not installed:
        raise BadRequest(
            "settings: tensorboard=true needs its package; pip install unfreeze[tensorboard]"
        )
    return installed if setting is None else setting


class EventFile:
    """Writes an event file, or nothing; places are batches, counted through all stages.

    Where a training was killed and goes on, its new file replaces what earlier ones have of the
    places that come again. The file is open only while something is written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file: Path | None = None
        if not folder:
            return
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._events, self._summaries = event_pb2, summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names
        self._file = folder / f"events.out.tfevents.{time.time_ns()}"

    def batch(self, place: int, step: Step) -> None:
        """Its loss, the learning rate of each group that learns, and the throughput."""
        if not self._file:
            return
        shown = {"batch/loss": step.loss, "batch/images per second": step.n_images / step.seconds}
        *body, head = step.rates  # the head learns in every stage, and comes last
        rates = {f"rate/body {number}": rate for number, rate in enumerate(body)}
        rates["rate/head"] = head
        self.scalars(place, shown | rates)

    def epoch(self, place: int, epoch: Epoch, metric: str) -> None:
        """Losses, metric and throughput, at the epoch's last batch."""
        shown = {
            "train loss": epoch.train_loss,
            "valid loss": epoch.valid_loss,
            metric: epoch.metric_value,
            "images per second": epoch.images_per_second,
        }
        self.scalars(place, {f"epoch/{name}": value for name, value in shown.items()})

    def scalars(self, place: int, values: Mapping[str, float]) -> None:
        if self._file:
            value = self._summaries.Summary.Value
            shown = [value(tag=tag, simple_value=number) for tag, number in values.items()]
            self._write(self._file, place, summary=self._summaries.Summary(value=shown))

    def picture(self, place: int, path: Path) -> None:
        """A PNG as it is, by the name of its file."""
        if not self._file:
            return
        with Image.open(path) as opened:
            width, height = opened.size
        image = self._summaries.Summary.Image(
            width=width, height=height, colorspace=RGB, encoded_image_string=path.read_bytes()
        )
        shown = self._summaries.Summary.Value(tag=f"report/{path.stem}", image=image)
        self._write(self._file, place, summary=self._summaries.Summary(value=[shown]))

    def outcome(
        self, place: int, settings: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Settings beside what they led to, for the page HPARAMS; what is no number is text."""
        if not self._file:
            return
        from torch.utils.tensorboard.summary import hparams

        plain = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in settings.items()
        }
        self.scalars(place, metrics)
        for summary in hparams(plain, dict(metrics)):  # type: ignore[no-untyped-call]
            self._write(self._file, place, summary=summary)

    def _write(self, file: Path, place: int, **what: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        event, log = self._events.Event, self._events.SessionLog
        events = [event(wall_time=time.time(), step=place, **what)]
        if not file.exists():
            begun = event(step=place, session_log=log(status=log.START))
            events = [event(file_version=FORMAT), begun, *events]
        with file.open("ab") as opened:
            for each in events:
                RecordWriter(opened).write(each.SerializeToString())
