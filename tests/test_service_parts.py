"""The parts of the service that can be tried alone: plan, executor, session, settings, logs."""

import asyncio
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from registry.errors import BadRequest, Overloaded, Unavailable, UnfreezeError
from registry.images import Float32Array, UInt8Array
from service.executor import Executor
from service.logs import JsonFormatter
from service.predict import top
from service.settings import Settings, read_settings
from service.status import CODES, code_of


def sums(images: UInt8Array) -> Float32Array:
    """A network whose answer is the sum of an image's pixels."""
    return images.reshape(len(images), -1).sum(axis=1, dtype=np.float32)[:, None]


def images(*values: int) -> UInt8Array:
    return np.stack([np.full((2, 2, 3), value, np.uint8) for value in values])


# Executor


async def test_answers_come_back_to_those_who_asked() -> None:
    executor = Executor(sums, runs=3, batch=4, max_queue=1000)
    groups = [images(*range(i, i + 5)) for i in range(30)]
    answers = await asyncio.gather(*(executor.run(group) for group in groups))
    for group, ran in zip(groups, answers, strict=True):
        np.testing.assert_array_equal(ran.probabilities, sums(group))
    executor.close()


async def test_a_batch_is_what_waits_and_never_more_than_its_limit() -> None:
    sizes: list[int] = []
    free = threading.Event()

    def run(batch: UInt8Array) -> Float32Array:
        sizes.append(len(batch))
        free.wait(5)
        return sums(batch)

    executor = Executor(run, runs=1, batch=4, max_queue=100)
    first = asyncio.create_task(executor.run(images(1)))
    while not sizes:
        await asyncio.sleep(0.001)
    others = [asyncio.create_task(executor.run(images(i))) for i in range(6)]
    await asyncio.sleep(0)
    free.set()
    await asyncio.gather(first, *others)
    executor.close()
    assert sizes == [1, 4, 2]


async def test_an_error_reaches_its_batch_and_the_next_one_runs() -> None:
    def run(batch: UInt8Array) -> Float32Array:
        if batch.max() == 13:
            raise ValueError("unlucky")
        return sums(batch)

    executor = Executor(run, runs=1, batch=1, max_queue=100)
    with pytest.raises(ValueError, match="unlucky"):
        await executor.run(images(13))
    assert (await executor.run(images(1))).probabilities.shape == (1, 1)
    executor.close()


async def test_admission_is_counted_back_when_a_request_ends() -> None:
    executor = Executor(sums, runs=1, batch=1, max_queue=3)
    with executor.admit(2):
        with pytest.raises(Overloaded, match="2 images are under way and the limit is 3"):
            executor.admit(2).__enter__()
        with executor.admit(1):
            pass
    with executor.admit(50):
        pass
    executor.close()


async def test_closing_runs_what_is_queued_and_refuses_what_comes_later() -> None:
    executor = Executor(sums, runs=1, batch=1, max_queue=100)
    asked = [asyncio.create_task(executor.run(images(i))) for i in range(5)]
    await asyncio.sleep(0)
    await asyncio.to_thread(executor.close)
    assert len(await asyncio.gather(*asked)) == 5
    with pytest.raises(Unavailable):
        await executor.run(images(1))


# The rest


def test_of_equal_probabilities_the_first_label_wins() -> None:
    assert top(np.array([0.2, 0.4, 0.4, 0.0], np.float32), 3) == [1, 2, 0]


def test_every_error_has_a_code() -> None:
    for kind in UnfreezeError.__subclasses__():
        assert code_of(kind("")) is CODES[kind]


def test_flags_win_over_the_environment(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNFREEZE_REGISTRY", "/elsewhere")
    monkeypatch.setenv("UNFREEZE_PORT", "1")
    monkeypatch.setenv("UNFREEZE_DATA_ROOTS", "/a:/b")
    monkeypatch.setenv("UNFREEZE_TRAINER_COMMAND", "python 'my trainer.py'")
    settings = read_settings({"registry": str(tmp_path), "port": None})
    assert (settings.registry, settings.port) == (tmp_path, 1)
    assert settings.data_roots == (Path("/a"), Path("/b"))
    assert settings.trainer_command == ("python", "my trainer.py")


def test_a_registry_is_required(monkeypatch) -> None:
    monkeypatch.delenv("UNFREEZE_REGISTRY", raising=False)
    with pytest.raises(BadRequest, match="give their folder: --registry PATH"):
        read_settings({})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com", "10.0.0.1", ""])
def test_administration_stays_on_this_machine(host: str) -> None:
    with pytest.raises(ValidationError, match="has no authentication"):
        Settings(registry=Path("x"), admin_host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"])
def test_loopback_addresses_are_accepted(host: str) -> None:
    assert Settings(registry=Path("x"), admin_host=host).admin_host == host


def test_a_log_line_cannot_be_forged_and_is_capped() -> None:
    record = logging.makeLogRecord({"msg": "load_failed", "levelname": "ERROR", "name": "x"})
    record.model = 'a\r\n{"event": "forged"}' + "z" * 10_000
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert len(line) < 3_000
    assert json.loads(line)["model"].startswith("a\r\n{")
