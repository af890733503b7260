"""A hundred hot swaps and twenty rollbacks under load: no request fails, nothing leaks.

    .venv/bin/python benchmarks/swaps.py [--swaps 100] [--rollbacks 20] [--registry PATH --model M]

Without a registry it uses four versions of a tiny model; with one, a copy of the versions of a
model in it. Before the load, each version is asked by number for its answers; during the load every
reply must match those of the version that it names.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from load.flat import Usage
from load.server import ServerProcess
from load.tally import Tally
from load.truth import GOOD, pictures, publish_models
from load.verdict import Check, check_flat, check_log
from registry.store import Registry
from unfreeze.v1 import admin_pb2, admin_pb2_grpc, classifier_pb2_grpc
from unfreeze.v1 import classifier_pb2 as pb

TIMEOUT_S = 60.0
TOLERANCE = 1e-3  # of a probability: the order of summation depends on the batch size
N_IMAGES = 3  # in a request
SETTLE_S = 0.3
TELL_EVERY = 20  # swaps
Said = dict[tuple[int, int], dict[str, float]]  # (version, picture) -> probability by label


@dataclass
class Load:
    """Clients in closed loops that check every reply."""

    stub: classifier_pb2_grpc.ClassifierStub
    model: str
    said: Said
    tally: Tally = field(default_factory=Tally)
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self) -> None:
        while not self.ended.is_set():
            numbers = random.choices(range(len(pictures())), k=N_IMAGES)
            began = time.perf_counter()
            try:
                response = ask(self.stub, self.model, numbers)
                problem = wrong(response, numbers, self.said)
            except grpc.RpcError as error:
                problem = f"{error.code()}: {error.details()}"
            with self.lock:
                if problem:
                    self.tally.add_failure(problem)
                else:
                    versions = {response.version: N_IMAGES}
                    self.tally.add_answer(time.perf_counter() - began, versions, 0, True)


def ask(
    stub: classifier_pb2_grpc.ClassifierStub,
    model: str,
    numbers: list[int],
    version: int | None = None,
) -> pb.ClassifyResponse:
    images = [pictures()[number].encoded for number in numbers]
    request = pb.ClassifyRequest(model=model, images=images, version=version, tta_views=1)
    response: pb.ClassifyResponse = stub.Classify(request, timeout=TIMEOUT_S)
    return response


def wrong(response: pb.ClassifyResponse, numbers: list[int], said: Said) -> str:
    """What is wrong with a reply; empty if it matches its version."""
    for number, result in zip(numbers, response.results, strict=True):
        right = said[response.version, number]
        for label in result.prediction.labels:
            if not np.isclose(label.probability, right.get(label.name, np.nan), atol=TOLERANCE):
                return f"version {response.version} said {result} and had said {right}"
    return ""


def what_versions_say(
    stub: classifier_pb2_grpc.ClassifierStub, model: str, versions: list[int]
) -> Said:
    said: Said = {}
    for version in versions:
        for number in range(len(pictures())):
            (result,) = ask(stub, model, [number], version).results
            labels = result.prediction.labels
            said[version, number] = {label.name: label.probability for label in labels}
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--rollbacks", type=int, default=20)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--registry", type=Path, help="with the model to swap; it is copied")
    parser.add_argument("--model", default=GOOD)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swaps-") as name:
        folder, registry = Path(name), Path(name) / "registry"
        if options.registry:
            shutil.copytree(options.registry, registry)
        else:
            registry.mkdir()
            publish_models(registry)
        versions = list(Registry(registry).versions(options.model))
        server = ServerProcess(registry, folder, ("--drain-seconds", "0"))
        try:
            checks = measure(server, options, versions)
        finally:
            server.process.kill()
    for check in checks:
        print(f"{'ok  ' if check.holds else 'FAIL'}  {check.name:<16}  {check.found}")
    return 0 if all(check.holds for check in checks) else 1


def measure(server: ServerProcess, options: argparse.Namespace, versions: list[int]) -> list[Check]:
    idle = server.usage()
    print(f"ready in {server.ready_s:.2f} s, idle at {idle.memory_mb:.0f} MB, versions {versions}")
    with grpc.insecure_channel(server.address) as channel:
        stub = classifier_pb2_grpc.ClassifierStub(channel)
        load = Load(stub, options.model, what_versions_say(stub, options.model, versions))
        threads = [threading.Thread(target=load.work) for _ in range(options.clients)]
        for thread in threads:
            thread.start()
        try:
            samples = swap(server, options, versions, load)
        finally:
            load.ended.set()
            for thread in threads:
                thread.join()
    exit_code, tally = server.stop(), load.tally
    found = f"{tally.answered} answered by {len(tally.versions)} versions, {tally.failed} failed; "
    found += f"p50 {tally.latency_ms(0.5):.1f} ms, p99 {tally.latency_ms(0.99):.1f} ms"
    return [
        Check("no request lost", not tally.failed, f"{found} {'; '.join(tally.problems)}"),
        Check("versions changed", len(tally.versions) > 1, f"images by version: {tally.versions}"),
        *check_flat(samples),
        check_log(server.events()),
        Check("ended well", exit_code == 0, f"exit code {exit_code}"),
    ]


def swap(
    server: ServerProcess, options: argparse.Namespace, versions: list[int], load: Load
) -> list[Usage]:
    """Swaps with rollbacks spread among them; yields the server's usage after each."""
    samples: list[Usage] = []
    every = max(1, options.swaps // max(1, options.rollbacks))
    rollbacks = 0
    with grpc.insecure_channel(server.admin_address) as channel:
        admin = admin_pb2_grpc.AdminStub(channel)
        for i in range(options.swaps):
            version = versions[(i + 1) % len(versions)]
            request = admin_pb2.PromoteRequest(model=options.model, version=version, reason="swap")
            assert admin.Promote(request, timeout=TIMEOUT_S).version == version
            samples.append(settled(server))
            if i % every == every - 1 and rollbacks < options.rollbacks:
                back = admin_pb2.RollbackRequest(model=options.model, reason="rollback")
                admin.Rollback(back, timeout=TIMEOUT_S)
                rollbacks += 1
                samples.append(settled(server))
            if i % TELL_EVERY == TELL_EVERY - 1:
                now = samples[-1]
                print(
                    f"{i + 1} swaps, {rollbacks} rollbacks: {load.tally.answered} answered, "
                    f"{load.tally.failed} failed, {now.memory_mb:.0f} MB, {now.threads} threads, "
                    f"{now.files} files",
                    flush=True,
                )
    return samples


def settled(server: ServerProcess) -> Usage:
    """The server's usage, once the version before the last has had time to be freed."""
    time.sleep(SETTLE_S)
    return server.usage()


if __name__ == "__main__":
    raise SystemExit(main())
