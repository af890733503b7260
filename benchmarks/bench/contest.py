"""Measures contestants in turns: A, B, C, A, B, C, …, so that a slow minute affects all alike."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import client, limit
from bench.record import Measures, Record
from bench.servers import ENVIRONMENT, ROOT, Server

PAUSE_S = 60  # timeout of a measurement, beyond its own duration


@dataclass(frozen=True)
class Pace:
    """How often and for how long everything is measured."""

    rounds: int
    warm_s: float
    seconds: float


Open = Callable[[], AbstractContextManager[Server]]


@dataclass(frozen=True)
class Asked:
    """A contestant that speaks the protocol: a server, and what to send it."""

    server: str  # contestants that name the same one share it
    open: Open
    model: str
    inputs: Path
    more: Mapping[str, Any]  # further fields of `client.Load`


@dataclass(frozen=True)
class Direct:
    """The in-process limit."""

    load: limit.Load


Contestant = Asked | Direct


def contest(row: str, contestants: Mapping[str, Contestant], pace: Pace, record: Record) -> None:
    """Measures every contestant in every round; measurements in the record are not repeated."""
    wanted = [(number, name) for number in range(pace.rounds) for name in contestants]
    missing = [(number, name) for number, name in wanted if not record.has(row, name, number)]
    if not missing:
        return
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for one in contestants.values():
            if isinstance(one, Asked) and one.server not in servers:
                servers[one.server] = stack.enter_context(one.open())
        for number, name in missing:
            one = contestants[name]
            measures = (
                ask(one, servers[one.server], pace) if isinstance(one, Asked) else direct(one)
            )
            record.add(row, name, number, measures)
            print(f"{row}  round {number + 1}  {name}: {describe(measures)}", flush=True)


def ask(one: Asked, server: Server, pace: Pace) -> Measures:
    """One measurement by a client in a process of its own."""
    load = client.Load(
        url=server.url,
        model=one.model,
        inputs=str(one.inputs),
        warm_s=pace.warm_s,
        seconds=pace.seconds,
        pid=server.pid,
        **one.more,
    )
    return _in_process("bench.client", asdict(load), pace.warm_s + pace.seconds)


def direct(one: Direct) -> Measures:
    """One measurement without any server."""
    return _in_process("bench.limit", asdict(one.load), one.load.warm_s + one.load.seconds)


def describe(measures: Measures) -> str:
    """A measurement as a line of progress."""
    shown = [f"{measures['per_s']:.1f}/s"]
    if measures.get("p50_ms"):
        shown.append(f"p50 {measures['p50_ms']:.1f} ms, p99 {measures['p99_ms']:.1f} ms")
    bad = {name: n for name, n in measures.get("outcomes", {}).items() if name != "OK"}
    return ", ".join([*shown, *(f"{n} {name}" for name, n in bad.items())])


def _in_process(module: str, load: Mapping[str, Any], lasts_s: float) -> Measures:
    ran = subprocess.run(
        [sys.executable, "-m", module, json.dumps(load)],
        capture_output=True,
        text=True,
        timeout=lasts_s + PAUSE_S,
        cwd=ROOT,
        env=ENVIRONMENT,
        check=False,
    )
    if ran.returncode:
        raise SystemExit(f"{module} failed: {ran.stderr[-2000:]}")
    measures: Measures = json.loads(ran.stdout)
    return measures
