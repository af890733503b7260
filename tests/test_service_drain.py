"""One of two replicas leaves under load, and nobody who asks by turns loses a request."""

import json
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import tiny
from conftest import ServerProcess, best, wait_until

from unfreeze import Client
from unfreeze.channel import HEALTHY_IN_TURN
from unfreeze.v1 import classifier_pb2 as pb
from unfreeze.v1 import classifier_pb2_grpc

StartProcess = Callable[..., ServerProcess]

RED = tiny.picture("red")
IN_TURN = [("grpc.service_config", json.dumps(HEALTHY_IN_TURN))]  # as any client may have it


@dataclass
class Load:
    """Requests without a pause, from threads of its own."""

    ask: Callable[[], str]
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        while not self.ended.is_set():
            try:
                answer = self.ask()
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            if answer == "red":
                self.answered += 1
            else:
                self.wrong.append(answer)


@contextmanager
def library(address: str) -> Iterator[Callable[[], str]]:
    with Client(address) as client:
        yield lambda: client.classify(RED, model="colours")[0].label.name


@contextmanager
def plain_stub(address: str) -> Iterator[Callable[[], str]]:
    request = pb.ClassifyRequest(model="colours", images=[RED])
    with grpc.insecure_channel(address, IN_TURN) as channel:
        stub = classifier_pb2_grpc.ClassifierStub(channel)
        yield lambda: best(stub.Classify(request, timeout=60))[0]


@contextmanager
def under_load(ask: Callable[[], str], n_threads: int = 3) -> Iterator[Load]:
    load = Load(ask)
    threads = [threading.Thread(target=load.work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    yield load
    load.ended.set()
    for thread in threads:
        thread.join()


def port(process: ServerProcess, name: str = "port") -> int:
    return json.loads(process.ports_file.read_text())[name]


def answers(process: ServerProcess) -> bool:
    """It has classified something."""
    address = f"http://127.0.0.1:{port(process, 'metrics_port')}/metrics"
    with urllib.request.urlopen(address) as page:
        return 'unfreeze_batch_size_sum{model="colours"}' in page.read().decode()


def test_a_server_that_starts_again_under_load_fails_no_request(
    root: Path, start_process: StartProcess
) -> None:
    tiny.publish(root, promote=True)
    first = start_process("--drain-seconds", "5")
    flags = ("--port", str(port(first)))
    with library(f"127.0.0.1:{port(first)}") as ask, under_load(ask) as load:
        wait_until(lambda: load.answered > 20)
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(60) == 0
        start_process(*flags)
        n_then = load.answered
        wait_until(lambda: load.answered > n_then + 20)
    assert load.wrong == []


@pytest.mark.parametrize("client", [library, plain_stub])
def test_a_replica_that_leaves_under_load_fails_no_request(
    root: Path, start_process: StartProcess, client: Callable[[str], Iterator[Callable[[], str]]]
) -> None:
    tiny.publish(root, promote=True)
    # long enough for a client on a busy machine to hear of it; the grace would hold up whoever does
    # not leave
    flags = ("--drain-seconds", "10", "--grace-seconds", "200")
    leaving, staying = start_process(*flags), start_process(*flags)
    address = f"ipv4:127.0.0.1:{port(leaving)},127.0.0.1:{port(staying)}"
    with client(address) as ask, under_load(ask) as load:
        wait_until(lambda: load.answered > 20 and answers(leaving) and answers(staying))
        leaving.process.send_signal(signal.SIGTERM)
        assert leaving.process.wait(60) == 0
        n_then = load.answered
        wait_until(lambda: load.answered > n_then + 20)
    assert load.wrong == []
