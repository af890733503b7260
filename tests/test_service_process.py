"""What only a server process of its own can show: signals, kills, modules, flags."""

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import tiny
from conftest import TESTS, ServerProcess, best, wait_until
from tritonclient.grpc import service_pb2 as triton_pb
from tritonclient.grpc import service_pb2_grpc as triton_grpc

from registry.store import Registry
from service.listener import MAX_FILES
from unfreeze.v1 import admin_pb2, admin_pb2_grpc, classifier_pb2_grpc
from unfreeze.v1 import classifier_pb2 as pb

StartProcess = Callable[..., ServerProcess]

REQUEST = pb.ClassifyRequest(model="colours", images=[tiny.picture("red")])


def ports(process: ServerProcess) -> dict[str, int]:
    return json.loads(process.ports_file.read_text())


def classifier(process: ServerProcess) -> classifier_pb2_grpc.ClassifierStub:
    channel = grpc.insecure_channel(f"127.0.0.1:{ports(process)['port']}")
    return classifier_pb2_grpc.ClassifierStub(channel)


def admin(process: ServerProcess) -> admin_pb2_grpc.AdminStub:
    channel = grpc.insecure_channel(f"127.0.0.1:{ports(process)['admin_port']}")
    return admin_pb2_grpc.AdminStub(channel)


def metrics(process: ServerProcess) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{ports(process)['metrics_port']}") as page:
        return page.read().decode()


def exists(pid: int) -> bool:
    """A process that runs; one that has ended and waits for its parent does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def log_lines(process: ServerProcess) -> list[dict[str, object]]:
    return [json.loads(line) for line in process.log.read_text().splitlines()]


def test_a_killed_server_leaves_the_truth_behind(
    root: Path, state: Path, data: Path, start_process: StartProcess
) -> None:
    tiny.publish(root, promote=True)
    flags = ("--state", str(state), "--data-root", str(data))
    first = start_process(*flags)
    request = admin_pb2.StartTrainingRequest(
        model="colours", data="colours", idempotency_key="once", settings={"seconds": "2"}
    )
    job = admin(first).StartTraining(request, timeout=20).job
    pid_file = state / "jobs" / job.id / "pid"
    wait_until(pid_file.exists)
    trainer = int(pid_file.read_text())
    first.process.kill()
    first.process.wait()
    wait_until(lambda: not exists(trainer))
    assert Registry(root).promoted("colours").pointer.version == 1

    second = start_process(*flags)
    assert classifier(second).Classify(REQUEST, timeout=20).version == 1
    again = admin(second).StartTraining(request, timeout=20)
    assert (again.job.id, again.existing) == (job.id, True)
    list(admin(second).WatchJob(admin_pb2.WatchJobRequest(job_id=job.id), timeout=60))
    ended = admin(second).GetJob(admin_pb2.GetJobRequest(job_id=job.id))
    assert (ended.state, ended.message[:9]) == (admin_pb2.JOB_STATE_SUCCEEDED, "version 2"), ended
    assert ended.attempt == 2
    assert len(admin(second).ListJobs(admin_pb2.ListJobsRequest()).jobs) == 1


def test_a_job_that_kills_its_server_is_not_tried_for_ever(
    root: Path, state: Path, data: Path, start_process: StartProcess
) -> None:
    flags = ("--state", str(state), "--data-root", str(data))
    request = admin_pb2.StartTrainingRequest(
        model="colours", data="colours", idempotency_key="k", settings={"mode": "hang"}
    )
    for attempt in (1, 2, 3):
        server = start_process(*flags)
        job = admin(server).StartTraining(request, timeout=20).job
        get = admin_pb2.GetJobRequest(job_id=job.id)
        wait_until(lambda: admin(server).GetJob(get).attempt == attempt)  # noqa: B023
        server.stop()
    ended = admin(start_process(*flags)).GetJob(get, timeout=20)
    assert ended.state == admin_pb2.JOB_STATE_FAILED
    assert ended.message == "the server died during attempt 3, the last; start a new job"


def test_sigterm_under_load_fails_no_request(root: Path, start_process: StartProcess) -> None:
    tiny.publish(root, promote=True)
    process = start_process("--drain-seconds", "10")  # long enough on a busy machine, too
    leaving = threading.Event()
    answered, failed = [], []

    def ask() -> None:
        stub = classifier(process)
        while not leaving.is_set():
            try:
                answered.append(stub.Classify(REQUEST, timeout=20).version)
            except grpc.RpcError as error:
                failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) > 20)
    process.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "draining" in process.log.read_text())
    n_before = len(answered)
    wait_until(lambda: len(answered) > n_before + 20)
    leaving.set()  # a client that listens to health has gone by the end of the drain
    for thread in threads:
        thread.join()
    assert process.process.wait(60) == 0
    assert failed == []
    assert [line["event"] for line in log_lines(process)][-3:] == ["signal", "draining", "stopped"]


def test_a_request_under_way_is_answered_before_the_end(
    root: Path, start_process: StartProcess
) -> None:
    tiny.publish(root, promote=True, work=30_000)
    process = start_process()
    answer = classifier(process).Classify.future(REQUEST, timeout=20)
    wait_until(lambda: answer.done() or "unfreeze_rpcs_in_flight 1.0" in metrics(process))
    process.process.send_signal(signal.SIGINT)
    assert answer.result().version == 1
    assert process.process.wait(60) == 0


def test_a_second_signal_ends_at_once(root: Path, start_process: StartProcess) -> None:
    process = start_process("--drain-seconds", "60")
    process.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "draining" in process.log.read_text())
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(30) == 128 + signal.SIGTERM


def hang(root: Path) -> int:
    """Whoever reads what is promoted hangs, as on a disk that does not answer, until the file
    descriptor that this gives is closed: it has a lease, which the kernel breaks after 45 s."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel's word that somebody hangs
    promoted = root / "colours" / "aliases" / "promoted"
    leased = promoted / "leased"
    shutil.copy(promoted / "000001.json", leased)
    lease = os.open(leased, os.O_RDWR)
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    leased.rename(promoted / "000099.json")
    return lease


def caught(lease: int) -> int:
    """Somebody hangs, until this file descriptor is closed."""
    wait_until(lambda: fcntl.fcntl(lease, fcntl.F_GETLEASE) != fcntl.F_WRLCK)
    return lease


def test_a_signal_ends_a_start_and_no_ready_server_is_announced(
    root: Path, start_process: StartProcess
) -> None:
    tiny.publish(root, promote=True)
    lease = hang(root)
    process = start_process("--drain-seconds", "60", awaited=False)
    hanging = caught(lease)
    process.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "SIGTERM" in process.log.read_text())
    os.close(hanging)
    assert process.process.wait(30) == 0
    assert {line["event"] for line in log_lines(process)}.isdisjoint({"ready", "draining"})


def test_a_registry_that_cannot_be_read_is_waited_for_before_anybody_counts_on_the_server(
    root: Path, start_process: StartProcess
) -> None:
    root.rmdir()
    root.symlink_to("x" * 999)
    process = start_process("--poll-seconds", "0.1", awaited=False)
    wait_until(lambda: "registry_unreadable" in process.log.read_text())
    whole = root.with_name("whole")  # or it might be looked at half-way
    tiny.publish(whole, promote=True)
    root.unlink()
    whole.rename(root)
    wait_until(process.ports_file.exists)
    assert best(classifier(process).Classify(REQUEST, timeout=20)) == ["red"]
    events = [line["event"] for line in log_lines(process)]
    told = ["registry_unreadable", "registry_readable", "ready"]
    assert [event for event in events if event in told] == told


def test_the_ports_file_of_the_server_before_is_gone_until_this_one_is_ready(
    root: Path, tmp_path: Path, start_process: StartProcess
) -> None:
    ports_file = tmp_path / "ports.json"
    ports_file.write_text("{}")
    root.rmdir()
    root.symlink_to("x" * 999)  # it is waited for
    process = start_process("--ports-file", str(ports_file), awaited=False)
    wait_until(lambda: "registry_unreadable" in process.log.read_text())
    assert not ports_file.exists()


def test_a_server_opens_as_many_files_as_it_may(root: Path, start_process: StartProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))  # which it inherits
    try:
        process = start_process()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (line,) = re.findall(r"^process_max_fds (.+)$", metrics(process), re.MULTILINE)
    assert float(line) == min(hard, MAX_FILES)


def test_an_end_that_hangs_is_cut_off(root: Path, start_process: StartProcess) -> None:
    tiny.publish(root, promote=True)
    none = ("--drain-seconds", "0", "--grace-seconds", "0", "--cancel-seconds", "0")
    process = start_process("--poll-seconds", "0.1", *none)
    hanging = caught(hang(root))
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(60) == 1
    assert log_lines(process)[-1]["event"] == "stop_overran"
    os.close(hanging)


def test_a_registry_that_hangs_holds_up_neither_jobs_nor_the_stop(
    root: Path, state: Path, start_process: StartProcess
) -> None:
    tiny.publish(root, promote=True)
    none = ("--drain-seconds", "0", "--grace-seconds", "0", "--cancel-seconds", "0")
    process = start_process("--state", str(state), *none)
    hang(root)
    channel = grpc.insecure_channel(f"127.0.0.1:{ports(process)['port']}")
    index = triton_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex
    asked = [index.future(triton_pb.RepositoryIndexRequest(), timeout=60) for _ in range(50)]
    wait_until(lambda: "unfreeze_rpcs_in_flight 50.0" in metrics(process))
    jobs = admin(process).ListJobs(admin_pb2.ListJobsRequest(), timeout=20).jobs
    assert (len(jobs), [call.done() for call in asked]) == (0, [False] * 50)
    process.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopped" in process.log.read_text())


def test_the_log_is_json_and_says_where_the_server_is(
    root: Path, start_process: StartProcess
) -> None:
    process = start_process()
    ready = next(line for line in log_lines(process) if line["event"] == "ready")
    assert {name: ready[name] for name in ports(process)} == ports(process)


def test_a_registry_without_models_is_logged(root: Path, start_process: StartProcess) -> None:
    told = [line for line in log_lines(start_process()) if line["event"] == "registry_empty"]
    assert [(line["registry"], line["problem"]) for line in told] == [(str(root), "no model in it")]


def test_a_registry_that_is_no_folder_yet_is_logged(
    root: Path, start_process: StartProcess
) -> None:
    root.rmdir()
    told = [line for line in log_lines(start_process()) if line["event"] == "registry_empty"]
    assert [line["problem"] for line in told] == ["no such folder"]


def test_a_data_root_that_does_not_exist_is_refused_at_the_start(
    root: Path, start_process: StartProcess
) -> None:
    process = start_process("--data-root", str(root / "nosuch"))
    assert process.process.wait(60) == 2
    assert f"--data-root {root / 'nosuch'} (or UNFREEZE_DATA_ROOTS): no such folder" in (
        process.log.read_text()
    )


def test_what_pillow_warns_of_is_not_remembered(root: Path, start_process: StartProcess) -> None:
    """Each text of a warning would take a line of the log, and memory for ever."""
    tiny.publish(root, promote=True)
    process, plain = start_process(), tiny.picture("red")
    for n_entries in range(1, 20):
        content = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", n_entries) + bytes(n_entries)
        exif = b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content
        request = pb.ClassifyRequest(model="colours", images=[plain[:2] + exif + plain[2:]])
        assert best(classifier(process).Classify(request, timeout=20)) == ["red"]
    assert not [line for line in log_lines(process) if line["level"] == "warning"]


def test_an_idle_server_is_small(root: Path, start_process: StartProcess) -> None:
    tiny.publish(root, promote=True)
    process = start_process()
    assert classifier(process).Classify(REQUEST, timeout=60).version == 1
    (line,) = re.findall(
        r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.process.pid}/status").read_text()
    )
    assert int(line) < 300_000


def test_sockets_are_left_to_one_thread(root: Path, start_process: StartProcess) -> None:
    """Or gRPC wakes several threads for each request; a release of it may forget how not to."""
    tiny.publish(root, promote=True)
    process = start_process()
    stub, before = classifier(process), event_engine_switches(process)
    for _ in range(100):
        stub.Classify(REQUEST, timeout=60)
    # for half as many 14 to 69 were seen, and 176 to 195 where they have the sockets
    assert event_engine_switches(process) - before < 250


def event_engine_switches(process: ServerProcess) -> int:
    """How often gRPC's own threads have gone to sleep."""
    statuses = Path(f"/proc/{process.process.pid}/task").glob("*/status")
    ours = [text for one in statuses if "event_engine" in (text := one.read_text())]
    assert ours
    return sum(int(re.findall(r"\nvoluntary_ctxt_switches:\t(\d+)", one)[0]) for one in ours)


SERVE_ONCE = """
import asyncio, sys, grpc
from pathlib import Path
from service.server import Service
from service.settings import Settings
from unfreeze.v1 import classifier_pb2 as pb, classifier_pb2_grpc as pb_grpc

async def main(registry, image):
    settings = Settings(registry=registry, port=0, metrics_port=0, admin_port=0, plan="1x1x1",
                        state=Path(registry).parent / "state")
    async with Service(settings) as service:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            request = pb.ClassifyRequest(model="colours", images=[image], tta_views=4)
            response = await pb_grpc.ClassifierStub(channel).Classify(request)
            assert response.results[0].prediction.labels[0].name == "red", response
    print(*sorted(name for name in sys.modules if "." not in name))

asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
"""


def test_a_serving_process_never_loads_the_libraries_of_training(
    root: Path, tmp_path: Path
) -> None:
    tiny.publish(root, promote=True)
    image = tmp_path / "red.jpg"
    image.write_bytes(tiny.picture("red"))
    command = [sys.executable, "-c", SERVE_ONCE, str(root), str(image)]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"onnxruntime", "numpy", "grpc"} <= loaded
    assert not loaded & {"torch", "torchvision", "timm", "onnx", "matplotlib", "training"}


def serve(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *flags],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | environment,
    )


def test_a_wrong_flag_is_named(root: Path) -> None:
    done = serve("--registry", str(root), "--port", "99999")
    assert done.returncode == 2
    assert done.stderr.startswith("unfreeze serve: port: Input should be less than or equal to")


def test_an_admin_listener_that_others_can_reach_is_refused(root: Path) -> None:
    done = serve("--registry", str(root), "--admin-host", "0.0.0.0")
    assert done.returncode == 2
    assert "admin_host: 0.0.0.0 can be reached from other machines" in done.stderr


def test_a_provider_that_is_not_there_is_an_error_at_the_start(root: Path) -> None:
    pytest.importorskip("onnxruntime")
    ports = ("--port", "0", "--metrics-port", "0", "--admin-port", "0")
    done = serve("--registry", str(root), "--provider", "tensorrt", *ports)
    assert done.returncode == 1
    assert "provider tensorrt " in done.stderr


def test_the_environment_sets_what_flags_do_not(root: Path) -> None:
    done = serve(UNFREEZE_REGISTRY=str(root), UNFREEZE_MAX_IMAGES="none")
    assert done.returncode == 2
    assert "max_images: 'none' is not a whole number" in done.stderr
    assert "registry" not in done.stderr


def test_a_second_server_on_the_same_port_or_state_is_an_error(
    root: Path, state: Path, start_process: StartProcess
) -> None:
    first = start_process("--state", str(state))
    zero = ("--metrics-port", "0", "--admin-port", "0")
    same_port = serve("--registry", str(root), "--port", str(ports(first)["port"]), *zero)
    assert same_port.returncode == 1
    assert "cannot listen on 127.0.0.1:" in same_port.stderr
    assert "choose another port with --port" in same_port.stderr
    same_metrics = serve(
        "--registry", str(root), "--metrics-port", str(ports(first)["metrics_port"])
    )
    assert "choose another port with --metrics-port" in same_metrics.stderr
    same_state = serve("--registry", str(root), "--port", "0", "--state", str(state), *zero)
    assert same_state.returncode == 1
    assert "another server is using the state folder" in same_state.stderr
    assert first.process.poll() is None


def test_a_damaged_job_database_stops_the_start_and_stays_as_it_is(root: Path, state: Path) -> None:
    state.mkdir()
    (state / "jobs.db").write_bytes(b"not a database, but somebody's jobs" * 100)
    before = (state / "jobs.db").read_bytes()
    zero = ("--port", "0", "--metrics-port", "0", "--admin-port", "0")
    done = serve("--registry", str(root), "--state", str(state), *zero)
    assert done.returncode == 1
    assert "the job database is damaged" in done.stderr
    assert (state / "jobs.db").read_bytes() == before


def test_what_cannot_be_written_ends_the_start_in_one_line_of_json(
    root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "state" / "jobs.db").mkdir(parents=True)
    zero = ("--registry", str(root), "--port", "0", "--metrics-port", "0", "--admin-port", "0")
    for flag, path, problem in (
        ("--state", file / "below", "cannot be written to (Not a directory); give another --state"),
        ("--state", tmp_path / "state", "cannot be opened: unable to open database file"),
        ("--ports-file", tmp_path / "none" / "ports.json", "cannot be written: No such file"),
    ):
        done = serve(*zero, flag, str(path))
        last = json.loads(done.stderr.splitlines()[-1])
        assert (done.returncode, last["event"]) == (1, "start_failed")
        assert problem in last["problem"]


def test_a_variable_that_sets_nothing_is_logged(
    root: Path, start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNFREEZE_MAX_QUEU", "5")
    told = [line for line in log_lines(start_process()) if line["event"] == "variable_ignored"]
    (problem,) = (line["problem"] for line in told)
    assert problem == "UNFREEZE_MAX_QUEU sets nothing; did you mean UNFREEZE_MAX_QUEUE?"


def test_a_model_published_by_another_process_is_taken_up(
    root: Path, start_process: StartProcess
) -> None:
    process = start_process("--poll-seconds", "0.1")
    tiny.publish(root, promote=True)
    stub = classifier(process)

    def answered() -> bool:
        try:
            return best(stub.Classify(REQUEST, timeout=5)) == ["red"]
        except grpc.RpcError:
            return False

    wait_until(answered)


def test_a_trainer_takes_no_module_from_the_folder_that_the_server_was_started_in(
    tmp_path: Path,
) -> None:
    (tmp_path / "training.py").write_text("print('taken from here')")
    start = "import subprocess, service.server as s; subprocess.run([*s.TRAINER, '--help'])"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", start],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert "taken from here" not in ran.stdout
    assert "--model" in ran.stdout
