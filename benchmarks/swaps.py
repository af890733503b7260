"""A hundred hot swaps and twenty rollbacks under load: no request fails, nothing leaks.

    .venv/bin/python benchmarks/swaps.py [--swaps 100] [--rollbacks 20] [--write]
    .venv/bin/python benchmarks/swaps.py --registry PATH --model M

Without a registry it uses four versions of a tiny model; with one, a copy of the versions of a
model in it. Before the load, each version is asked by number for its answers; during the load every
reply must match those of the version that it names. A second model, which is not swapped, is asked
all the time: its latency while a version is loaded must stay near that before the first load.
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

from bench.results import write_section
from load.flat import Usage
from load.loads import MOST_TIMES, Bystanders, Loads, check_latency
from load.section import add_write, section
from load.server import ServerProcess
from load.tally import Tally
from load.truth import GOOD, pictures, publish_models, tiny
from load.verdict import EXIT_0, NONE_FAILED, Check, check_flat, check_log
from registry.store import Registry
from unfreeze.v1 import admin_pb2, admin_pb2_grpc, classifier_pb2_grpc
from unfreeze.v1 import classifier_pb2 as pb

TIMEOUT_S = 60.0
TOLERANCE = 1e-3  # of a probability: the order of summation depends on the batch size
N_IMAGES = 3  # in a request
SETTLE_S = 0.3
OTHER = "other"  # the model that is not swapped
TELL_EVERY = 20  # swaps
Said = dict[tuple[int, int], dict[str, float]]  # (version, picture) -> probability by label


@dataclass
class Load:
    """Clients in closed loops that check every reply."""

    stub: classifier_pb2_grpc.ClassifierStub
    model: str
    said: Said
    tally: Tally = field(default_factory=Tally)
    bystanders: Bystanders | None = None  # of a model that is not swapped
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self) -> None:
        while not self.ended.is_set():
            numbers = random.choices(range(len(pictures())), k=N_IMAGES)
            loads_ended = self.bystanders.loads.ended if self.bystanders else 0
            began = time.perf_counter()
            try:
                response = ask(self.stub, self.model, numbers)
                problem = wrong(response, numbers, self.said)
            except grpc.RpcError as error:
                problem = f"{error.code()}: {error.details()}"
            took_s = time.perf_counter() - began
            with self.lock:
                if problem:
                    self.tally.add_failure(problem)
                    continue
                counted = [self.tally]
                if self.bystanders:
                    counted.append(self.bystanders.tally(loads_ended))
                for tally in counted:
                    tally.add_answer(took_s, {response.version: N_IMAGES}, 0, True)


@dataclass
class Swaps:
    """The swaps and rollbacks made, and the server's usage after each."""

    n_swaps: int = 0
    n_rollbacks: int = 0
    samples: list[Usage] = field(default_factory=list)


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
    options = read_options()
    with tempfile.TemporaryDirectory(prefix="swaps-") as name:
        folder, registry = Path(name), Path(name) / "registry"
        if options.registry:
            shutil.copytree(options.registry, registry)
        else:
            registry.mkdir()
            publish_models(registry)
        versions = list(Registry(registry).versions(options.model))
        tiny.publish(registry, model=OTHER, promote=True)
        server = ServerProcess(registry, folder, ("--drain-seconds", "0"))
        try:
            checks = measure(server, options, versions)
        finally:
            server.process.kill()
    for check in checks:
        print(f"{'ok  ' if check.holds else 'FAIL'}  {check.name:<16}  {check.found}")
    if options.write:
        write_section(
            options.write, "Hot swaps", section(what_ran(options, versions, server), checks)
        )
    return 0 if all(check.holds for check in checks) else 1


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--swaps", type=int, default=100)
    add("--rollbacks", type=int, default=20)
    add("--clients", type=int, default=3, help="of the model that is swapped")
    add("--seconds-before", type=float, default=20, help="of load before the first swap")
    add("--registry", type=Path, help="with the model to swap; it is copied")
    add("--model", default=GOOD)
    add_write(parser, "Hot swaps")
    options = parser.parse_args()
    if options.model == OTHER:
        parser.error(f"--model {OTHER} is the name of the model that is not swapped; use another")
    return options


def what_ran(options: argparse.Namespace, versions: list[int], server: ServerProcess) -> str:
    """The clients, the swaps and the times, for RESULTS.md."""
    model = f"the model `{options.model}`" if options.registry else "a tiny model"
    return (
        f"{options.swaps} swaps between {len(versions)} versions of {model}, with "
        f"{options.rollbacks} rollbacks among them, in {server.age_s():.0f} s in all. "
        f"{options.clients} clients in closed loops asked that model, and one a second, tiny model "
        f"that is not swapped, each with {N_IMAGES} images a request. The clients are threads of "
        "one process on the same cores. Every answer was compared with what its version had "
        "answered before the load. The latency of the second model before is that of the first "
        f"{options.seconds_before:g} s, under the same load without a swap; during loads it is "
        "that of the requests in flight while a swap or rollback was going on. A load computes on "
        "as many cores as the requests, so a fair scheduler may double a latency (p50 at most "
        f"{MOST_TIMES[0.5]:g}), and the slowest requests may wait for a time slice as well (p99 at "
        f"most {MOST_TIMES[0.99]:g}). Written by `benchmarks/swaps.py --write`."
    )


def measure(server: ServerProcess, options: argparse.Namespace, versions: list[int]) -> list[Check]:
    idle = server.usage()
    print(f"ready in {server.ready_s:.2f} s, idle at {idle.memory_mb:.0f} MB, versions {versions}")
    with grpc.insecure_channel(server.address) as channel:
        stub = classifier_pb2_grpc.ClassifierStub(channel)
        load = Load(stub, options.model, what_versions_say(stub, options.model, versions))
        bystanders = Bystanders(Loads())
        other = Load(stub, OTHER, what_versions_say(stub, OTHER, [1]), bystanders=bystanders)
        loops = [load] * options.clients + [other]
        threads = [threading.Thread(target=loop.work) for loop in loops]
        for thread in threads:
            thread.start()
        try:
            time.sleep(options.seconds_before)
            swaps = swap(server, options, versions, load, bystanders.loads)
        finally:
            for loop in loops:
                loop.ended.set()
            for thread in threads:
                thread.join()
    return [*check_answers(load, other), *check_swaps(server, options, swaps, bystanders)]


def check_answers(load: Load, other: Load) -> list[Check]:
    """No request to either model was lost, and the one that is swapped changed its version."""
    tally = load.tally
    found = f"{tally.answered} answered by {len(tally.versions)} versions, {tally.failed} failed; "
    found += f"p50 {tally.latency_ms(0.5):.1f} ms, p99 {tally.latency_ms(0.99):.1f} ms"
    beside = f"{other.tally.answered} answered, {other.tally.failed} failed"
    by_version = ", ".join(f"{number}: {n}" for number, n in sorted(tally.versions.items()))
    return [
        Check(
            "no request lost",
            tally.answered > 0 and not tally.failed,
            f"{found} {'; '.join(tally.problems)}",
            NONE_FAILED,
        ),
        Check(
            "another model: no request lost",
            other.tally.answered > 0 and not other.tally.failed,
            f"{beside} {'; '.join(other.tally.problems)}",
            NONE_FAILED,
        ),
        Check(
            "versions changed",
            len(tally.versions) > 1,
            f"images by version: {by_version}",
            "answers of more than 1 version",
        ),
    ]


def check_swaps(
    server: ServerProcess, options: argparse.Namespace, swaps: Swaps, bystanders: Bystanders
) -> list[Check]:
    """All swaps were made, without harm to another model or to the server; it is stopped here."""
    exit_code = server.stop()
    return [
        Check(
            "swapped",
            (swaps.n_swaps, swaps.n_rollbacks) == (options.swaps, options.rollbacks),
            f"{swaps.n_swaps} swaps, {swaps.n_rollbacks} rollbacks",
            f"{options.swaps} swaps, {options.rollbacks} rollbacks",
        ),
        *check_latency(bystanders.before, bystanders.during),
        *check_flat(swaps.samples),
        check_log(server.events()),
        Check("ended well", exit_code == 0, f"exit code {exit_code}", EXIT_0),
    ]


def swap(
    server: ServerProcess,
    options: argparse.Namespace,
    versions: list[int],
    load: Load,
    loads: Loads,
) -> Swaps:
    """Swaps, with rollbacks spread among them."""
    done = Swaps()
    every = max(1, options.swaps // max(1, options.rollbacks))
    with grpc.insecure_channel(server.admin_address) as channel:
        admin = admin_pb2_grpc.AdminStub(channel)
        for i in range(options.swaps):
            version = versions[(i + 1) % len(versions)]
            request = admin_pb2.PromoteRequest(model=options.model, version=version, reason="swap")
            with loads.one():
                promoted = admin.Promote(request, timeout=TIMEOUT_S).version
            assert promoted == version
            done.n_swaps += 1
            done.samples.append(settled(server))
            if i % every == every - 1 and done.n_rollbacks < options.rollbacks:
                back = admin_pb2.RollbackRequest(model=options.model, reason="rollback")
                with loads.one():
                    admin.Rollback(back, timeout=TIMEOUT_S)
                done.n_rollbacks += 1
                done.samples.append(settled(server))
            if i % TELL_EVERY == TELL_EVERY - 1:
                now = done.samples[-1]
                print(
                    f"{i + 1} swaps, {done.n_rollbacks} rollbacks: {load.tally.answered} answered, "
                    f"{load.tally.failed} failed, {now.memory_mb:.0f} MB, {now.threads} threads, "
                    f"{now.files} files",
                    flush=True,
                )
    return done


def settled(server: ServerProcess) -> Usage:
    """The server's usage, once the version before the last has had time to be freed."""
    time.sleep(SETTLE_S)
    return server.usage()


if __name__ == "__main__":
    raise SystemExit(main())
