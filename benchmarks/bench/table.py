"""The record as Markdown."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.contest import Pace
from bench.judge import limit_of
from bench.record import Record, spread
from bench.results import Condition, markdown, verdicts
from bench.rows import (
    GPU,
    IMAGES,
    IN_FLIGHT,
    IN_FLIGHT_GPU,
    IN_FLIGHT_PROTOCOL,
    OURS,
    OVERLOAD,
    OVERLOAD_DEADLINE_S,
    PLAN,
    PROTOCOL,
    SETTINGS,
    START,
    TENSORS,
    TTA,
)
from bench.runs import installed

TITLES = {
    IMAGES: f"images: JPEG files of 500x375, {IN_FLIGHT} in flight",
    TENSORS: f"tensors: pixels of 224x224, {IN_FLIGHT} in flight (uint8 for the limit and "
    "Unfreeze, float32 for the peers, as their network expects)",
    PROTOCOL: f"protocol: overhead of the protocol, {IN_FLIGHT_PROTOCOL} in flight (2x2 pixels and "
    "16 classes for Unfreeze, 16 numbers for the peers)",
    TTA: "TTA: test-time augmentation, 1 in flight",
    GPU: f"GPU: pixels of 224x224 on CUDA, {IN_FLIGHT_GPU} in flight",
}


def document(record: Record, judged: Sequence[Condition], pace: Pace, peers: Path | None) -> str:
    """All tables, the machine they were measured on, and the verdict."""
    parts = [facts(peers), _how(pace), plans(record)]
    for row, title in TITLES.items():
        if record.contestants(row):
            parts.append(f"### {title}\n\n{throughput(record, row)}")
    parts.append(
        f"### overload: peak throughput, and three times as many requests\n\n{overload(record)}"
    )
    parts.append(f"### start: startup and idle use, one model\n\n{starts(record)}")
    if tried := settings(record):
        heading = "### Peer settings that were tried: once, or near the fastest three times"
        parts.append(f"{heading}\n\n{tried}")
    if judged:
        parts.append(f"### Conditions\n\n{verdicts(judged)}")
    return "\n\n".join(parts)


def facts(peers: Path | None) -> str:
    """The machine and the versions."""
    cpu = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    names = ("onnxruntime", "pillow", "numpy", "grpcio", "tritonclient")
    ours = ", ".join(f"{name} {installed(name)}" for name in names)
    lines = [
        f"{cpu[0] if cpu else platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"Python {platform.python_version()}; {ours}."
    ]
    if peers:
        lines += [f"{peer} {_peer_version(peers, peer)}." for peer in ("kserve", "mlserver")]
    return " ".join(lines)


def plans(record: Record) -> str:
    """How Unfreeze ran each model, by its own benchmark."""
    found = [
        f"{bundle} {record.rounds(PLAN, bundle)[0]['plan']}" for bundle in record.contestants(PLAN)
    ]
    return f"Execution plans that Unfreeze chose (threads x runs x batch): {', '.join(found)}."


def throughput(record: Record, row: str) -> str:
    """A line per contestant: median over rounds, lowest and highest in parentheses."""
    head = ["", "per s", "p50 ms", "p99 ms", "over the limit", "Unfreeze over it"]
    lines = [[*head, "server CPU ms", "client CPU ms", "expected label"]]
    for name in record.contestants(row):
        limit = limit_of(record, row, name)
        lines.append(
            [
                name,
                _cell(record.values(row, name, "per_s"), 1),
                _cell(record.values(row, name, "p50_ms"), 1),
                _cell(record.values(row, name, "p99_ms"), 1),
                _cell(record.ratios(row, name, limit) if limit else [], 2),
                _cell(record.ratios(row, OURS, name) if name != OURS else [], 2),
                _cell(record.values(row, name, "server_cpu_ms"), 2),
                _cell(record.values(row, name, "client_cpu_ms"), 2),
                _share(record.values(row, name, "agreement")),
            ]
        )
    return markdown(lines)


def overload(record: Record) -> str:
    """Peak throughput in a closed loop, and the results at three times that rate."""
    lines = [["", "offered per s", f"answered within {OVERLOAD_DEADLINE_S:g} s, per s"]]
    lines[0] += ["p99 ms", "outcomes", "time to reject, ms", "server CPU ms per request"]
    lines[0] += ["client CPU ms per request", "resident MB at the end"]
    for name in record.contestants(OVERLOAD):
        outcomes: dict[str, int] = {}
        for measures in record.rounds(OVERLOAD, name):
            for outcome, n in measures["outcomes"].items():
                outcomes[outcome] = outcomes.get(outcome, 0) + n
        lines.append(
            [
                name,
                _cell(record.values(OVERLOAD, name, "offered_per_s"), 0),
                _cell(record.values(OVERLOAD, name, "per_s"), 1),
                _cell(record.values(OVERLOAD, name, "p99_ms"), 0),
                ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(outcomes.items())),
                _cell(record.values(OVERLOAD, name, "rejection_ms"), 1),
                _cell(record.values(OVERLOAD, name, "server_cpu_ms"), 2),
                _cell(record.values(OVERLOAD, name, "client_cpu_ms"), 2),
                _cell([one / 1e6 for one in record.values(OVERLOAD, name, "rss_end")], 0),
            ]
        )
    return markdown(lines)


def starts(record: Record) -> str:
    """Time to ready, memory, and CPU use of an idle server."""
    lines = [["", "exec to ready, s", "resident MB", "idle CPU, share of a core"]]
    for name in record.contestants(START):
        rss = [one / 1e6 for one in record.values(START, name, "rss")]
        ready, idle = (record.values(START, name, one) for one in ("ready_s", "idle_cpu"))
        lines.append([name, _cell(ready, 2), _cell(rss, 0), _cell(idle, 3)])
    return markdown(lines)


def settings(record: Record) -> str:
    """What was tried for each peer, in each row."""
    lines = [["row", "peer", "settings", "per s"]]
    for row in (IMAGES, TENSORS, PROTOCOL):
        for peer in SETTINGS:
            tried = f"{row}: settings of {peer}"
            for one in record.contestants(tried):
                lines.append([row, peer, one, _cell(record.values(tried, one, "per_s"), 1)])
    return markdown(lines) if len(lines) > 1 else ""


def _how(pace: Pace) -> str:
    return (
        "The model is EfficientNet-Lite0 in float32 at 224 pixels with ImageNet weights. The peers "
        "run its TorchScript export, and so does the limit (wrapped by `unfreeze import --as-is`, "
        "to take pixels). Unfreeze and the bare server run what `unfreeze import` makes of the "
        "same file: it simplifies the graph; the limit of that is another row. A limit calls ONNX "
        "Runtime from two threads of one process (after `registry.images.prepare` if files are "
        "sent), without a client on the same cores. The bare server makes the same two calls in "
        "two threads behind grpc.aio, and nothing else. "
        "Clients run in a process of their own on the same cores, through tritonclient and with "
        "gRPC's default settings. For overload, at the peak and at three times the peak, each "
        "request is encoded once and sent repeatedly by gRPC alone; a server has one model unless "
        "said otherwise, and the bare one refuses what exceeds as many requests in flight as "
        "Unfreeze admits. The images are 64 crops of scikit-learn's two colour photographs, as "
        "JPEG of quality 90. A peer as documented answers one request at a time and logs each "
        "one. A tuned peer logs none and leaves gRPC's sockets to one thread, as Unfreeze does, "
        "and its user has moved the work to threads or has mlserver start processes. Values are "
        "medians of "
        f"{pace.rounds} interleaved rounds of {pace.seconds:g} s, with the lowest and the highest "
        "in parentheses; ratios are computed round by round. Written by `benchmarks/serving.py "
        "--write`."
    )


def _peer_version(peers: Path, peer: str) -> str:
    code = f"from importlib.metadata import version as v; print(v('{peer}'), v('onnxruntime'))"
    python = str(peers / peer / "bin" / "python")
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    own, runtime = ran.stdout.split()
    return f"{own} on onnxruntime {runtime}"


def _cell(values: Sequence[float], digits: int) -> str:
    return spread(values).show(digits) if len(values) and np.isfinite(values).all() else ""


def _share(values: Sequence[float]) -> str:
    return f"{100 * min(values):.1f} %" if values else ""
