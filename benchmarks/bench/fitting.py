"""Runs a training in a process of its own and times it by the events that it emits."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import cpu_s, family
from bench.record import Measures
from bench.runs import RunFailed
from registry.bundle import Bundle
from registry.store import Registry

ROOT = Path(__file__).parents[2]
MODEL = "cells"
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
FITTED = "export and verify"  # the stage that begins when training proper is over


@dataclass(frozen=True)
class Trained:
    """A bundle, and how long it took to make."""

    folder: Path
    bundle: Bundle
    measures: Measures


@contextmanager
def trained(
    table: Path, settings: Mapping[str, str], seed: int, *, work: Path, cache: Path | None
) -> Iterator[Trained]:
    """Trains on `table`; its bundle is deleted afterwards.

    Args:
        cache: a shared cache of decoded images and activations; None: a cold one of its own.

    Raises:
        RunFailed: it produced no bundle; the message has its output.
    """
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=work) as name:
        folder = Path(name)
        command = [sys.executable, "-m", "training", "--json", "--model", MODEL]
        command += ["--data", str(table), "--registry", str(folder / "registry")]
        command += ["--cache", str(cache or folder / "cache"), "--run", str(folder / "run")]
        for key, value in {**settings, "seed": str(seed)}.items():
            command += ["--set", f"{key}={value}"]
        measures = watch(command, folder / "log.txt")
        registry = Registry(folder / "registry")
        bundle = registry.bundle(MODEL, 1)
        measures |= {name: float(value) for name, value in bundle.metrics.items()}
        yield Trained(registry.folder(MODEL, 1), bundle, measures)


def watch(command: list[str], log: Path) -> Measures:
    """Wall and CPU seconds of a training: until it is fitted, until its end, and at each epoch."""
    began = time.perf_counter()
    measures: Measures = {"epochs": []}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            cwd=ROOT,
            preexec_fn=end_with_parent,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                note(measures, json.loads(line), time.perf_counter() - began, process.pid)
        except BaseException:
            process.kill()
            raise
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RunFailed(log.read_text()[-600:].strip())
    seconds = time.perf_counter() - began
    return measures | {"seconds": seconds, "cpu_s": used.ru_utime + used.ru_stime}


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def note(measures: Measures, event: Mapping[str, Any], seconds: float, pid: int) -> None:
    """Adds what `event` reports to the measures."""
    if event["kind"] == "stage_started" and event["stage"] == FITTED:
        measures |= {"fitted_s": seconds, "fitted_cpu_s": cpu_s(family(pid))}
    if event["kind"] == "epoch_finished":
        kept = ("stage", "epoch", "train_loss", "valid_loss", "metric_value")
        epoch = {name: event[name] for name in kept}
        measures["epochs"].append(epoch | {"seconds": seconds, "cpu_s": cpu_s(family(pid))})


def reached(measures: Measures, accuracy: float) -> float | None:
    """Seconds from the start to the first epoch that was as good on the held-out images."""
    for epoch in measures["epochs"]:
        if epoch["metric_value"] >= accuracy:
            return float(epoch["seconds"])
    return None
