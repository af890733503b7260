"""What a server is told does what it says. Settings that are not here have tests of their own."""

import re
import socket
import urllib.request
from pathlib import Path

import grpc
import pytest
import tiny
from conftest import RunningServer, ServerProcess, Start, held, in_flight, wait_until
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from registry.errors import BadRequest
from service.flags import read_flags
from service.settings import Settings, read_settings
from unfreeze.v1 import classifier_pb2

REQUEST = classifier_pb2.ClassifyRequest(model="colours", images=[tiny.picture()])


@pytest.fixture(autouse=True)
def published(root: Path) -> None:
    tiny.publish(root, promote=True)


def refusal_of_a_second(server: RunningServer) -> str:
    """What a request is told while another one runs."""
    with held(server) as executor:
        executor._admission.times.learn(1, 1.0)  # seconds for an image; two run at a time
        first = server.classifier.Classify.future(REQUEST, timeout=60)
        wait_until(lambda: in_flight(server, 1) and not executor.depth)
        with pytest.raises(grpc.RpcError) as caught:
            server.classifier.Classify(REQUEST, timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert first.result().version == 1
    return caught.value.details()


def test_the_pixels_of_an_image_are_limited(start: Start) -> None:
    (result,) = start(max_pixels=100).classify(tiny.picture(size=(32, 24))).results
    assert "32 x 24 pixels is above the limit of 100" in result.error.message


def test_as_many_versions_requested_by_number_stay_in_memory_as_the_setting_says(
    start: Start, root: Path
) -> None:
    for _ in range(3):
        tiny.publish(root)
    server = start(pinned_versions=3)
    for version in (2, 3, 4) * 2:
        server.classify(tiny.picture(), version=version)
    assert [loaded.version for loaded in server.service.models.in_memory("colours")] == [1, 2, 3, 4]
    assert 'unfreeze_load_seconds_count{model="colours"} 4.0' in server.metrics()


def test_the_expected_wait_is_limited(start: Start) -> None:
    server = start(max_queue_seconds=0.25)
    assert "the wait would be 0.5 s, the limit is 0.25 s" in refusal_of_a_second(server)
    assert 'unfreeze_rejected_total{reason="expected_wait"} 1.0' in server.metrics()


def test_requests_of_a_model_are_limited(start: Start) -> None:
    server = start(max_model_requests=1)
    assert "1 request is in flight, which is this model's limit" in refusal_of_a_second(server)
    assert 'unfreeze_rejected_total{reason="model_requests"} 1.0' in server.metrics()


@pytest.mark.parametrize("cache_entries", [0, 9])
@pytest.mark.parametrize("kind", ["images", "pixels"])
def test_bytes_of_images_are_limited(
    start: Start, root: Path, kind: str, cache_entries: int
) -> None:
    tiny.publish(root, promote=True, size=128)
    server = start(max_queue_mb=1, cache_entries=cache_entries)
    with held(server):
        first = ask_much(server, kind)
        wait_until(lambda: in_flight(server, 1))
        assert (
            "MB of images are in flight and the limit is 1 MB" in ask_much(server, kind).details()
        )
    assert first.exception() is None
    assert 'unfreeze_rejected_total{reason="queue_bytes"} 1.0' in server.metrics()


def ask_much(server: RunningServer, kind: str) -> grpc.Future:
    """A request of more than half a megabyte."""
    if kind == "images":
        request = classifier_pb2.ClassifyRequest(
            model="colours", images=[tiny.noise(size=(700, 300))]
        )
        return server.classifier.Classify.future(request, timeout=60)
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="image", datatype="UINT8", shape=[12, 128, 128, 3]
    )
    pixels = pb.ModelInferRequest(
        model_name="colours-tensor",
        inputs=[tensor],
        raw_input_contents=[bytes(12 * 128 * 128 * 3)],
        parameters={"tta_views": pb.InferParameter(int64_param=2)},  # or it might run at once
    )
    return pb_grpc.GRPCInferenceServiceStub(server.channel).ModelInfer.future(pixels, timeout=60)


def test_an_image_waits_for_others_to_make_up_a_batch(start: Start) -> None:
    server = start(plan="1x1x2", max_wait_ms=200)
    server.classify(tiny.picture())
    (waited_s,) = re.findall(r"unfreeze_queue_seconds_sum\S* (\S+)", server.metrics())
    assert float(waited_s) >= 0.2
    asked = pb.ModelConfigRequest(name="colours")
    config = pb_grpc.GRPCInferenceServiceStub(server.channel).ModelConfig(asked).config
    assert config.dynamic_batching.max_queue_delay_microseconds == 200_000


def test_the_promised_latency_is_an_edge_of_the_buckets(start: Start) -> None:
    server = start(slo_seconds=0.125)
    server.classify(tiny.picture())
    assert re.search(r'handling_seconds_bucket\{\S*le="0.125"', server.metrics())


def test_an_old_connection_is_asked_to_connect_anew(start: Start) -> None:
    server = start(max_connection_age_seconds=0.2)
    seen: list[grpc.ChannelConnectivity] = []
    server.channel.subscribe(seen.append)
    server.classify(tiny.picture())
    # as it was in the beginning; some of the states between may be told late, or never
    wait_until(lambda: len(seen) > 1 and seen[-1] is grpc.ChannelConnectivity.IDLE)
    server.classify(tiny.picture())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "[::1]"])
def test_all_ports_are_opened_at_the_address(start: Start, host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    service = start(host=host, admin_host=host).service
    for port in (service.port, service.admin_port):
        with grpc.insecure_channel(f"{at(host)}:{port}") as channel:
            index = pb_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex
            assert index(pb.RepositoryIndexRequest(), timeout=20).models[0].name == "colours"
    with urllib.request.urlopen(f"http://{at(host)}:{service.metrics_port}/metrics") as page:
        assert b"unfreeze_live_version" in page.read()


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def at(host: str) -> str:
    return "[::1]" if ":" in host else host


def test_a_network_gets_where_to_run_and_what_it_may_take(start: Start, state: Path) -> None:
    server = start(gpu_memory_mb=100, state=state, provider="cpu")
    placement = server.service.models._scheduler._loader.placement
    assert (placement.provider, placement.gpu_memory_mb) == ("cpu", 100)
    assert placement.engines == state / "engines"


def test_the_log_can_be_set_to_hold_errors_alone(root: Path, tmp_path: Path) -> None:
    process = ServerProcess(root, tmp_path, "--log-level", "ERROR")
    process.stop()
    assert process.log.read_text() == ""


TIMES = ["drain", "grace", "cancel", "poll", "max_connection_age", "max_queue", "slo"]


@pytest.mark.parametrize("name", TIMES)
def test_a_time_without_end_is_refused(name: str) -> None:
    """Timers overflow, and the server would not end any more."""
    with pytest.raises(BadRequest, match=f"{name}_seconds: .* less than or equal to 86400"):
        read_settings({"registry": "models", f"{name}_seconds": "inf"})


@pytest.mark.parametrize("name", TIMES)
def test_a_time_that_is_not_a_number_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=f"{name}_seconds: "):
        read_settings({"registry": "models", f"{name}_seconds": "nan"})


def test_connections_live_long_enough_to_be_used() -> None:
    for seconds in (0, 0.1):
        given = {"registry": "models", "max_connection_age_seconds": seconds}
        assert read_settings(given).max_connection_age_seconds == seconds
    with pytest.raises(BadRequest, match=r"it must be 0, which means never, or at least 0\.1"):
        read_settings({"registry": "models", "max_connection_age_seconds": "0.0001"})


@pytest.mark.parametrize("name", ["registry", "state", "data_roots"])
def test_a_file_is_not_taken_for_an_empty_folder(tmp_path: Path, name: str) -> None:
    file = tmp_path / "file"
    file.touch()
    given = {"registry": tmp_path, name: (file,) if name == "data_roots" else file}
    with pytest.raises(BadRequest, match=rf"{name}.*: this is a file; it must be a folder"):
        read_settings(given)


@pytest.mark.parametrize("name", ["registry", "state", "data_roots"])
def test_a_url_is_not_taken_for_a_folder(name: str) -> None:
    url = "s3://bucket/models"
    given = {"registry": "models", name: (url,) if name == "data_roots" else url}
    with pytest.raises(BadRequest, match=rf"{name}.*: this is a URL; only folders are read"):
        read_settings(given)


@pytest.mark.parametrize("plan", ["fast", "1x2", "0x1x1", "1x2x99999"])
def test_a_malformed_plan_is_answered_with_how_to_write_one(plan: str) -> None:
    with pytest.raises(BadRequest, match=r"^plan: write it as THREADSxRUNSxBATCH, such as 1x2x1 "):
        read_settings({"registry": "models", "plan": plan})


def test_help_names_a_flag_or_a_variable_for_every_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        read_flags(["--help"])
    told = capsys.readouterr().out
    flags = {flag.replace("-", "_") for flag in re.findall(r"\n  --([a-z-]+)", told)}
    variables = {name.lower() for name in re.findall(r"UNFREEZE_([A-Z_]+)", told)}
    assert variables | flags == {*Settings.model_fields, "data_root", "no_reflection"}
    assert {"data_roots", "reflection", "trainer_command"} <= variables
