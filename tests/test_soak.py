"""The soak in its shortest form: a healthy server passes, one with planted faults does not."""

import json
import os
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import grpc
import pytest
from conftest import TESTS

sys.path.append(str(TESTS.parent / "benchmarks"))

from load.bad import Bad, Unexpected
from load.flat import Usage, growth
from load.verdict import check_flat, series

SOAK = TESTS.parent / "benchmarks" / "soak.py"


def soak(folder: Path, *flags: str) -> tuple[int, dict[str, str], str]:
    """Exit code, what was found by each check that failed, and all that was printed."""
    found = folder / "soak.json"
    done = subprocess.run(
        [sys.executable, str(SOAK), "--json", str(found), *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
    )
    assert found.exists(), done.stdout + done.stderr
    checks = json.loads(found.read_text())["checks"]
    return done.returncode, {c["name"]: c["found"] for c in checks if not c["holds"]}, done.stdout


def test_good_clients_are_served_among_bad_ones_while_versions_change(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\n## Serving\n\nas it was\n")
    code, failed, told = soak(tmp_path, "--seconds", "60", "--pace", "2", "--write", str(results))
    assert failed == {}, told
    assert code == 0
    before, _, section = results.read_text().partition("\n## Soak\n")
    assert before == "# Results\n\n## Serving\n\nas it was\n"
    assert "asked for 60 s by 18 well-behaved clients, 12 misbehaving ones" in section
    assert section.count("| pass |") == told.count("\nok ")
    assert "fail**" not in section


def test_injected_faults_are_no_result_to_write() -> None:
    refused = subprocess.run(
        [sys.executable, str(SOAK), "--plant", "memory", "--write"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
    )
    assert refused.returncode == 2
    assert "--write is for results without --plant" in refused.stderr


IMPATIENT = {
    "its connection aged": ("Stream removed (GOAWAY received; max_age)", True),
    "a server that fails": ("Socket closed", False),
}


@pytest.mark.parametrize("case", IMPATIENT)
async def test_an_impatient_client_may_lose_an_aged_connection_and_nothing_else(case: str) -> None:
    details, is_expected = IMPATIENT[case]
    n_failed = 0

    async def fail(_: bytes, context: grpc.aio.ServicerContext) -> bytes:
        nonlocal n_failed
        n_failed += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE, details)

    class Failing(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(fail)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Failing()])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    client = Bad(address)
    try:
        with nullcontext() if is_expected else pytest.raises(Unexpected, match=details):
            while n_failed < 50:  # some of them fail before their deadlines
                await client.impatient()
    finally:
        await client.close()
        await server.stop(0)


def test_planted_leaks_and_wrong_answers_are_caught(tmp_path: Path) -> None:
    plant = ("--plant", "memory,files,threads,answers")
    code, failed, told = soak(tmp_path, "--seconds", "12", "--pace", "2", *plant)
    assert code == 1
    # how steep the files' slope is depends on how many swaps there was time for
    assert {"memory flat", "threads flat", "files returned"} <= set(failed), told
    assert any(", expected" in found for name, found in failed.items() if name.startswith("good"))


NOISE = random.Random(0)
TIMES = [i / 4 for i in range(400)]
SHAPES = {
    "noise": ([100 + NOISE.gauss(0, 5) for _ in TIMES], 0, 3),
    "a leak of 0.2 a second under noise": ([0.2 * t + NOISE.gauss(0, 5) for t in TIMES], 14, 3),
    "filling up at first": ([min(100, 10 * t) for t in TIMES], 0, 0.01),
    "spikes": ([1000 if i % 50 == 0 else 10 for i in range(400)], 0, 0.01),
    "a spike at the end": ([10] * 390 + [1000] * 10, 0, 0.01),
    "a leak in steps": ([10 * (t // 10) for t in TIMES], 70, 5),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_growth_is_what_stays(shape: str) -> None:
    values, expected, tolerance = SHAPES[shape]
    assert growth(TIMES, values).grown == pytest.approx(expected, abs=tolerance)


LEAKS = {"none": (0.0, True), "half a megabyte a minute": (0.5, False)}


@pytest.mark.parametrize("leak", LEAKS)
def test_half_an_hour_shows_a_leak_that_a_minute_does_not(leak: str) -> None:
    mb_a_minute, is_flat = LEAKS[leak]

    def memory_is_flat(seconds: int) -> bool:
        looks = [150 + mb_a_minute * t / 60 + NOISE.gauss(0, 6) for t in range(seconds)]
        samples = [Usage(t, mb, 29, 30, 0) for t, mb in enumerate(looks)]
        return {check.name: check.holds for check in check_flat(samples)}["memory flat"]

    assert memory_is_flat(60)
    assert memory_is_flat(1800) == is_flat


def test_too_few_looks_say_nothing() -> None:
    with pytest.raises(ValueError, match="3 samples are too few"):
        growth([1, 2, 3], [1, 2, 3])


def test_a_scrape_is_read_by_labels() -> None:
    page = 'a_total{model="x",v="1"} 2.0\na_total{model="y",v="1"} 3.0\na_total_other 4.0\nb 5.0\n'
    assert series(page, "a_total") == [({"model": "x", "v": "1"}, 2), ({"model": "y", "v": "1"}, 3)]
    assert series(page, "b") == [({}, 5)]
