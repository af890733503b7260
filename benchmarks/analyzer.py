"""Runs Triton's perf_analyzer against a real server, in every mode but HTTP and shared memory.

    benchmarks/setup.sh peers analyzer
    .venv/bin/python benchmarks/analyzer.py --peers peers [--registry PATH --model NAME] [--write]

Without a registry it uses a tiny model. perf_analyzer reads the metadata, configuration and
statistics of a model, sends matching requests, and fails if a server does not answer as Triton
would.
"""

import argparse
import base64
import csv
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tritonclient.grpc as triton

from bench.flags import absolute
from bench.results import markdown, write_section
from load.debian import fetched
from load.section import add_write, section
from load.server import ServerProcess
from load.truth import tiny
from load.verdict import Check

ENOUGH = 50  # requests in each of the three windows whose spread it judges
STABLE = 999  # percent: this tests whether it works, not whether the machine is quiet
WITHIN_S = 300
COLUMNS = ("Inferences/Second", "p50 latency", "p99 latency")
SERVER = ("Server Queue", "Server Compute Input", "Server Compute Infer", "Server Compute Output")
JPEG = tiny.noise(1, size=(500, 375), format="JPEG")


@dataclass(frozen=True)
class Case:
    """One run of perf_analyzer."""

    name: str
    suffix: str  # of the model's name
    arguments: Sequence[str]


CASES = (
    Case("pixels", "-tensor", ("--concurrency-range", "4")),
    Case("pixels, one to three in flight", "-tensor", ("--concurrency-range", "1:3")),
    Case("pixels, four a request", "-tensor", ("-b", "4", "--concurrency-range", "2")),
    Case("pixels, version 1", "-tensor", ("-x", "1", "--concurrency-range", "2")),
    Case("pixels, asynchronously", "-tensor", ("-a", "--concurrency-range", "4")),
    Case("pixels, a stream", "-tensor", ("--streaming", "--concurrency-range", "4")),
    Case("pixels, at random 20 times a second", "-tensor", ("-a", "--request-rate-range", "20",
         "--request-distribution", "poisson")),
    Case("files", "", ("--concurrency-range", "2")),
    Case("files, two a request", "", ("-b", "2", "--concurrency-range", "2")),
    Case("files, three views each", "", ("--request-parameter", "tta_views:3:int",
         "--concurrency-range", "2")),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=absolute, required=True, help="the DIR given to setup.sh")
    parser.add_argument("--registry", type=absolute, help="to serve instead of a tiny model")
    parser.add_argument("--model", default=tiny.MODEL_NAME)
    add_write(parser, "perf_analyzer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.registry is None:
            tiny.publish(folder / "registry", promote=True)
        server = ServerProcess(options.registry or folder / "registry", folder)
        try:
            rows = [
                row
                for case in CASES
                for row in measure(case, options.peers, server, options.model, folder)
            ]
            failed = failures(server.address, options.model)
        finally:
            server.stop()
    head = ["sent", "in flight, or requests per s", "images per s", "p50 ms", "p99 ms"]
    table = markdown([[*head, "mean time in the server, ms"], *rows])
    print(table)
    print(f"\nfailed requests, as counted by the server: {failed}")
    if options.write:
        write_section(options.write, "perf_analyzer", document(options.registry, table, failed))
    return 1 if failed else 0


def document(registry: Path | None, table: str, failed: int) -> str:
    """What was run, the measurements and the condition, for RESULTS.md."""
    what = (
        "Triton's `perf_analyzer` against a server with "
        f"{'a tiny model' if registry is None else 'a model of its own registry'}, on the same "
        "cores, in every mode but HTTP and shared memory. It ends with an error if the server does "
        "not answer as Triton would. Latencies are of the whole request; the last column is the "
        "mean that the server reports. This tests compatibility: the figures of a busy machine "
        "are not compared with others. Written by `benchmarks/analyzer.py --write`."
    )
    wanted = "0, as counted by the server"
    checks = [Check("failed requests", not failed, str(failed), wanted)]
    return f"{section(what, checks)}\n\n{table}"


def measure(
    case: Case, peers: Path, server: ServerProcess, model: str, folder: Path
) -> list[list[str]]:
    """A row for each load level that perf_analyzer tried.

    Raises:
        SystemExit: perf_analyzer failed; with its output.
    """
    table = folder / "table.csv"
    table.unlink(missing_ok=True)
    command = [peers / "analyzer" / "bin" / "perf_analyzer", "-m", model + case.suffix]
    command += ["-i", "grpc", "-u", server.address, "-f", table, *case.arguments]
    command += ["--measurement-mode", "count_windows", "--measurement-request-count", ENOUGH]
    command += ["--stability-percentage", STABLE]
    if not case.suffix:
        command += ["--input-data", input_data(folder)]
    ended = subprocess.run(
        [str(word) for word in command],
        env=environment(peers),
        timeout=WITHIN_S,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ended.returncode or not table.exists():
        raise SystemExit(
            f"{case.name}: perf_analyzer exited with {ended.returncode}\n{ended.stdout}"
        )
    with table.open() as lines:
        return sorted(row_of(case, found) for found in csv.DictReader(lines))


def row_of(case: Case, found: dict[str, str]) -> list[str]:
    """A line of its CSV file, whose times are in microseconds."""
    per_s, p50, p99 = (float(found[column]) for column in COLUMNS)
    inside = sum(float(found[column]) for column in SERVER)
    load = found.get("Concurrency") or found["Request Rate"]
    return [case.name, load, f"{per_s:,.1f}", *(f"{us / 1000:.2f}" for us in (p50, p99, inside))]


def input_data(folder: Path) -> Path:
    """The JPEG as an element of a BYTES tensor for perf_analyzer: length-prefixed, in base64."""
    element = struct.pack("<I", len(JPEG)) + JPEG
    content = {"image": {"b64": base64.b64encode(element).decode(), "shape": [1]}}
    path = folder / "input.json"
    path.write_text(json.dumps({"data": [content]}))
    return path


def environment(peers: Path) -> dict[str, str]:
    """With the paths of two libraries that perf_analyzer needs and few machines have."""
    base64_library = fetched("libb64-0d", peers / "analyzer") / "usr/lib/x86_64-linux-gnu"
    (cuda,) = (peers / "analyzer").glob("lib/python*/site-packages/nvidia/cuda_runtime/lib")
    return os.environ | {"LD_LIBRARY_PATH": f"{base64_library}:{cuda}"}


def failures(address: str, model: str) -> int:
    """How many requests to both names of the model failed."""
    with triton.InferenceServerClient(address) as client:
        found = client.get_inference_statistics(model)
        return sum(int(one.inference_stats.fail.count) for one in found.model_stats)


if __name__ == "__main__":
    raise SystemExit(main())
