"""A version is tried on a share of the requests: it answers them, or is compared in the shadow."""

import asyncio
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tiny
from conftest import RunningServer, Start, best, held, wait_until
from tritonclient.grpc import service_pb2 as infer_pb2
from tritonclient.grpc import service_pb2_grpc as infer_pb2_grpc

from registry.bundle import Bundle
from registry.candidates import set_candidate
from registry.images import Float32Array, UInt8Array, prepare
from registry.labels import label_changes
from registry.pointers import Candidate
from service.execution.admission import Admission
from service.execution.executor import Executor
from service.execution.kind import Kind
from service.execution.plan import parse_plan
from service.execution.run_times import RunTimes
from service.execution.work import Answer, Terms
from service.messages import candidate_message
from service.models.comparison import Comparison, chosen, difference
from service.models.loaded_version import LoadedVersion
from service.models.shadow import MAX_IN_FLIGHT, Sample, Shadow
from service.models.trial import SAMPLE, Trial, hash_fraction
from service.observability.candidate_metrics import CandidateMetrics
from service.observability.metrics import Metrics
from service.observability.version_counts import VersionCounts
from service.oip.tensors import hashed_content
from service.predict import Predictor
from unfreeze.candidates import candidate
from unfreeze.commands.candidate import in_words
from unfreeze.v1 import admin_pb2 as pb
from unfreeze.v1 import classifier_pb2

GREEN = (0.0, 9.0, 0.0)
BLUE = (0.0, 0.0, 9.0)
SPLIT, SHADOW = pb.CANDIDATE_MODE_SPLIT, pb.CANDIDATE_MODE_SHADOW


def try_(server: RunningServer, version: int, mode: Any, percent: float = 100) -> pb.Candidate:
    request = pb.SetCandidateRequest(
        model="colours", version=version, mode=mode, percent=percent, reason="a test"
    )
    return server.admin.SetCandidate(request, timeout=20).candidate


def clear(server: RunningServer) -> int:
    return server.admin.ClearCandidate(
        pb.ClearCandidateRequest(model="colours"), timeout=20
    ).version


def listed(server: RunningServer) -> pb.Model:
    (model,) = server.admin.ListModels(pb.ListModelsRequest(), timeout=20).models
    return model


def version_of(server: RunningServer, image: bytes = b"", **fields: Any) -> int:
    return server.classify(image or tiny.picture(), **fields).version


@pytest.fixture
def green(start: Start, root: Path) -> RunningServer:
    """A server of version 1, whose version 2 finds everything green. It looks at the registry when
    it is told to."""
    tiny.publish(root, promote=True)
    tiny.publish(root, bias=GREEN)
    return start(poll_seconds=3600)


# Split


def test_a_candidate_answers_requests_that_name_no_version(green: RunningServer) -> None:
    told = try_(green, 2, SPLIT)
    assert (told.version, told.mode, told.percent, told.ready) == (2, SPLIT, 100, True)
    response = green.classify(*[tiny.picture("red")] * 3)
    assert (response.version, best(response)) == (2, ["green"] * 3)
    assert version_of(green, version=1) == 1


def test_what_waits_for_a_candidate_waits_for_its_model(start: Start, root: Path) -> None:
    tiny.publish(root, promote=True)
    tiny.publish(root)
    server = start(plan="1x1x1")
    try_(server, 2, SPLIT)
    request = classifier_pb2.ClassifyRequest(model="colours", images=[tiny.picture()] * 5)
    with held(server, version=2):
        asked = server.classifier.Classify.future(request, timeout=60)
        waiting = 'unfreeze_queue_depth{model="colours"} 4.0'  # one runs
        wait_until(lambda: waiting in server.metrics())
    assert asked.result().version == 2


def test_the_share_is_drawn_by_content_and_grows_by_adding(green: RunningServer) -> None:
    images = [tiny.noise(seed) for seed in range(60)]
    selected = []
    for percent in (10, 40, 80):
        try_(green, 2, SPLIT, percent)
        first, again = ({i for i in images if version_of(green, i) == 2} for _ in range(2))
        assert first == again
        selected.append(first)
    assert selected[0] < selected[1] < selected[2]
    # always the same numbers, until another encoder writes other files
    assert all(
        abs(len(share) - 0.6 * p) < 13 for share, p in zip(selected, (10, 40, 80), strict=True)
    )


def test_lots_are_even_and_another_candidate_draws_others() -> None:
    contents = [[str(i).encode()] for i in range(4000)]
    hashes = np.array([hash_fraction(content, 2) for content in contents])
    shares, _ = np.histogram(hashes, bins=10, range=(0, 1))
    assert shares.min() > 330
    others = np.array([hash_fraction(content, 3) for content in contents])
    assert abs(np.corrcoef(hashes, others)[0, 1]) < 0.05


def test_lots_depend_on_either_end_of_an_image_and_on_how_many_there_are() -> None:
    image = bytes(10**6)
    others = [b"x" + image[1:]], [image[:-1] + b"x"], [image, image]
    assert hash_fraction([image], 2) == hash_fraction([bytes(10**6)], 2)
    assert len({hash_fraction(content, 2) for content in ([image], *others)}) == 4


@pytest.mark.parametrize("n_values", [SAMPLE // 2, SAMPLE + 9, 3 * SAMPLE])
def test_typed_pixels_have_the_hash_of_raw_ones(n_values: int) -> None:
    """Though no more of them are made bytes than are hashed."""
    raw = np.random.default_rng(0).integers(0, 256, n_values, np.uint8).tobytes()
    contents = infer_pb2.InferTensorContents(uint_contents=raw)
    tensor = infer_pb2.ModelInferRequest.InferInputTensor(datatype="UINT8", contents=contents)
    drawn_from = hashed_content(infer_pb2.ModelInferRequest(inputs=[tensor]), 1)
    assert len(drawn_from[0]) <= 2 * SAMPLE
    assert hash_fraction(drawn_from, 2) == hash_fraction([raw], 2)


def test_a_candidate_may_have_other_labels_and_another_size(server: RunningServer, root) -> None:
    labels = ("rot", "grün", "blau", "gelb")
    tiny.publish(root, labels=labels, bias=(0.0,) * 4, size=16)
    try_(server, 2, SPLIT)
    response = server.classify(tiny.picture("green"))
    assert (best(response), len(response.results[0].prediction.labels)) == (["grün"], 4)


def infer(
    server: RunningServer, name: str, *, image: bytes | None = None, typed: bool = False
) -> int:
    """The version that answers over the Open Inference Protocol."""
    if name.endswith("-tensor"):
        kind, shape = "UINT8", (1, tiny.SIZE, tiny.SIZE, 3)
        raw = np.full(shape, tiny.COLOURS["red"], np.uint8).tobytes()
        contents = infer_pb2.InferTensorContents(uint_contents=raw)
    else:
        kind, shape, image = "BYTES", (1, 1), image or tiny.picture("red")
        raw = struct.pack("<I", len(image)) + image
        contents = infer_pb2.InferTensorContents(bytes_contents=[image])
    tensor = infer_pb2.ModelInferRequest.InferInputTensor(name="image", datatype=kind, shape=shape)
    request = infer_pb2.ModelInferRequest(model_name=name, inputs=[tensor])
    if typed:
        request.inputs[0].contents.CopyFrom(contents)
    else:
        request.raw_input_contents.append(raw)
    stub = infer_pb2_grpc.GRPCInferenceServiceStub(server.channel)
    return int(stub.ModelInfer(request, timeout=20).model_version)


@pytest.mark.parametrize("name", ["colours", "colours-tensor"])
def test_both_names_of_the_protocol_are_split_and_shadowed(green: RunningServer, name: str) -> None:
    try_(green, 2, SPLIT)
    assert infer(green, name) == 2
    try_(green, 2, SHADOW)
    assert infer(green, name) == 1
    wait_until(lambda: listed(green).candidate.compared == 1)


@pytest.mark.parametrize("name", ["colours", "colours-tensor"])
def test_typed_contents_are_split_too(green: RunningServer, name: str) -> None:
    try_(green, 2, SPLIT)
    assert infer(green, name, typed=True) == 2


def test_an_image_meets_the_same_version_however_it_comes(green: RunningServer) -> None:
    try_(green, 2, SPLIT, 50)
    images = [tiny.noise(seed) for seed in range(16)]
    ours = [version_of(green, image) for image in images]
    assert set(ours) == {1, 2}
    assert [infer(green, "colours", image=image) for image in images] == ours
    assert [infer(green, "colours", image=image, typed=True) for image in images] == ours


@pytest.mark.parametrize("name", ["colours", "colours-tensor"])
def test_the_protocol_has_no_candidate_with_more_labels_than_its_metadata_says(
    green: RunningServer, root: Path, name: str
) -> None:
    more = tiny.publish(root, labels=(*tiny.LABELS, "grey"), bias=(0.0,) * 4)
    try_(green, more, SPLIT)
    assert (infer(green, name), version_of(green)) == (1, more)


def test_a_candidate_of_another_size_answers_files_but_no_pixels(
    green: RunningServer, root: Path
) -> None:
    larger = tiny.publish(root, size=2 * tiny.SIZE)
    said = try_(green, larger, SPLIT).note
    assert (infer(green, "colours"), infer(green, "colours-tensor")) == (larger, 1)
    different = "its images have 16 pixels a side, those of version 1 8; version 1 alone "
    assert said == f"{different}answers requests to colours-tensor"
    assert try_(green, larger, SHADOW).note == f"{different}gets requests to colours-tensor"


OTHER_LABELS = {
    "reordered": (("blue", "green", "red"), "the same labels in another order"),
    "renamed": (("cat", "dog", "bird"), "new 'cat', 'dog', 'bird'; gone 'red', 'green', 'blue'"),
}


@pytest.mark.parametrize("labels", OTHER_LABELS)
def test_columns_of_the_protocol_keep_their_meaning_beside_a_candidate(
    green: RunningServer, root: Path, labels: str
) -> None:
    """Its answers carry no names; those of unfreeze.v1 do."""
    names, changes = OTHER_LABELS[labels]
    other = tiny.publish(root, labels=names)
    said = try_(green, other, SPLIT).note
    assert {infer(green, name) for name in ("colours", "colours-tensor")} == {1}
    response = green.classify(tiny.picture("red"))
    assert (response.version, best(response)) == (other, [names[0]])
    assert said == (
        f"its labels differ from those of version 1 ({changes}); version 1 answers the Open "
        "Inference Protocol alone"
    )
    assert in_words(candidate(listed(green).candidate)).endswith(said)


def test_a_candidate_with_the_same_labels_has_no_note(green: RunningServer) -> None:
    assert try_(green, 2, SPLIT).note == ""


def test_a_promotion_says_that_the_labels_have_moved(
    green: RunningServer, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = tiny.publish(root, labels=("blue", "green", "red"))
    with caplog.at_level("INFO"):
        answers = {version: promote(green, version).note for version in (2, moved)}
    told = (
        "its labels differ from those of version 2 (the same labels in another order); whoever "
        "reads probabilities by position must read the labels again"
    )
    assert answers == {2: "", moved: told}
    logged = [vars(r).get("note") for r in caplog.records if r.message == "version_live"]
    assert logged == [None, told]
    back = green.admin.Rollback(pb.RollbackRequest(model="colours"), timeout=20)
    assert f"those of version {moved} (the same labels in another order)" in back.note


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("abc", "abc", ""),
        ("abc", "acb", "the same labels in another order"),
        ("abc", "abcde", "new 'd', 'e'"),
        ("abc", "xabc", "new 'x'; others have moved"),
        ("bc", "bac", "new 'a'; others have moved"),
        ("abc", "ab", "gone 'c'"),
        ("abc", "bc", "gone 'a'; others have moved"),
        ("ab", "vwxyz", "new 'v', 'w', 'x' and 2 more; gone 'a', 'b'"),
    ],
)
def test_changes_of_labels_are_put_into_words(before: str, after: str, told: str) -> None:
    assert label_changes(tuple(before), tuple(after)) == told


def test_a_candidate_that_answers_its_share_has_latency_and_failures_of_its_own(
    green: RunningServer,
) -> None:
    try_(green, 2, SPLIT)
    executor = green.service.models._states["colours"].trial.candidate.executor
    run, executor._run = executor._run, lambda images: 1 / 0
    with pytest.raises(grpc.RpcError, match="internal error"):
        infer(green, "colours")
    executor._run = run
    assert version_of(green) == 2
    shown, one = green.metrics(), 'model="colours",version="2"'
    assert 'unfreeze_requests_total{model="colours",outcome="error",version="2"} 1.0' in shown
    assert 'unfreeze_requests_total{model="colours",outcome="error",version="1"} 0.0' in shown
    assert f"unfreeze_request_seconds_count{{{one}}} 1.0" in shown
    request = classifier_pb2.ClassifyRequest(
        model="colours", images=[tiny.picture("red")], top_k=99
    )
    with pytest.raises(grpc.RpcError, match="top_k"):
        green.classifier.Classify(request, timeout=20)
    bad = 'unfreeze_requests_total{model="colours",outcome="bad_request",version="2"} 1.0'
    assert bad in green.metrics()


def test_a_candidate_with_fewer_classes_returns_at_most_those(green: RunningServer) -> None:
    """Its share of the requests for the promoted version's 3 classes was refused."""
    fewer = tiny.publish(green.settings.registry, labels=("red", "green"), bias=(0.0, 0.0))
    try_(green, fewer, SPLIT)
    response = green.classify(tiny.picture("red"), top_k=3)
    names = [label.name for label in response.results[0].prediction.labels]
    assert (response.version, names) == (fewer, ["red", "green"])
    for beyond in ({"top_k": 4}, {"top_k": 3, "version": fewer}):
        with pytest.raises(grpc.RpcError, match=f"top_k is {beyond['top_k']}"):
            green.classify(tiny.picture("red"), **beyond)


ENDS: dict[str, Callable[[RunningServer], Any]] = {
    "cleared": clear,
    "live pointer renewed": lambda server: promote(server, 1),
    "another promoted": lambda server: promote(server, 3),
    "rolled back": lambda server: server.admin.Rollback(pb.RollbackRequest(model="colours")),
    "promoted elsewhere": lambda server: (
        server.registry.promote("colours", 1, by="other", reason=""),
        server.refresh(),
    ),
}


def promote(server: RunningServer, version: int) -> pb.PromoteResponse:
    return server.admin.Promote(pb.PromoteRequest(model="colours", version=version), timeout=20)


@pytest.mark.parametrize("end", ENDS)
def test_a_split_ends(green: RunningServer, root: Path, end: str) -> None:
    tiny.publish(root)
    promote(green, 3)
    promote(green, 1)
    try_(green, 2, SPLIT)
    assert version_of(green) == 2
    ENDS[end](green)
    assert version_of(green) in {1, 3}
    assert not listed(green).HasField("candidate")
    green.refresh()
    assert version_of(green) in {1, 3}
    assert 'unfreeze_candidate_percent{model="colours"' not in green.metrics()


def test_a_promoted_candidate_answers_everything(green: RunningServer) -> None:
    try_(green, 2, SPLIT, 1)
    promote(green, 2)
    assert {version_of(green, tiny.noise(seed)) for seed in range(20)} == {2}
    assert (listed(green).promoted_version, listed(green).HasField("candidate")) == (2, False)


def test_every_replica_follows_and_a_restart_keeps_it(green: RunningServer, start: Start) -> None:
    other = start()
    try_(green, 2, SPLIT)
    wait_until(lambda: version_of(other) == 2)
    clear(green)
    wait_until(lambda: version_of(other) == 1)
    try_(green, 2, SPLIT)
    green.stop()
    restarted = start()
    wait_until(lambda: version_of(restarted) == 2)


def test_set_requests_that_make_no_sense_are_refused(green: RunningServer, root: Path) -> None:
    tiny.publish(root, golden_shift=0.1)
    refused = {
        (2, SPLIT, 0.0): "INVALID_ARGUMENT",
        (2, SPLIT, 101.0): "INVALID_ARGUMENT",
        (2, pb.CANDIDATE_MODE_UNSPECIFIED, 5.0): "INVALID_ARGUMENT",
        (9, SHADOW, 5.0): "NOT_FOUND",
        (1, SHADOW, 5.0): "FAILED_PRECONDITION",
        (3, SHADOW, 5.0): "FAILED_PRECONDITION",  # its golden answers are wrong
    }
    for (version, mode, percent), code in refused.items():
        with pytest.raises(grpc.RpcError) as caught:
            try_(green, version, mode, percent)
        assert caught.value.code().name == code
    assert not listed(green).HasField("candidate")
    assert clear(green) == 0


def set_elsewhere(server: RunningServer, version: int) -> None:
    set_candidate(server.registry, "colours", version, "split", 100, by="other", reason="")


def test_a_candidate_that_does_not_load_is_a_problem_of_its_own(
    green: RunningServer, root: Path
) -> None:
    set_elsewhere(green, tiny.publish(root, golden_shift=0.1))
    green.refresh()
    assert version_of(green) == 1
    model = listed(green)
    assert (model.ready, model.problem, model.candidate.ready) == (True, "", False)
    assert "colours/3: golden answers differ by 0.1" in model.candidate.problem
    assert 'unfreeze_candidate_problem{model="colours"} 1.0' in green.metrics()
    try_(green, 2, SPLIT)
    assert (version_of(green), listed(green).candidate.problem) == (2, "")
    assert "unfreeze_candidate_problem{" not in green.metrics()


def test_a_candidate_that_was_deleted_is_a_problem_of_its_own(
    green: RunningServer, root: Path
) -> None:
    set_elsewhere(green, 2)
    shutil.rmtree(root / "colours" / "2")
    green.refresh()
    assert version_of(green) == 1
    assert "no version 2 of colours" in listed(green).candidate.problem


def test_a_damaged_pointer_of_a_candidate_is_a_problem_of_its_own(
    green: RunningServer, root: Path
) -> None:
    set_elsewhere(green, 2)
    (root / "colours/aliases/candidate/000002.json").write_text("{}")
    green.refresh()
    assert version_of(green) == 1
    told = listed(green).candidate
    assert "000002.json: not a pointer" in told.problem
    assert in_words(candidate(told)) == told.problem


# Shadow, in a server


def shadow_metrics(server: RunningServer) -> dict[str, float]:
    lines = (line for line in server.metrics().splitlines() if line.startswith("unfreeze_shadow_"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_a_shadow_is_compared_and_answers_nobody(green: RunningServer) -> None:
    try_(green, 2, SHADOW)
    for n, colour in enumerate(("red", "green", "blue"), 1):
        response = green.classify(tiny.picture(colour))
        assert (response.version, best(response)) == (1, [colour])
        wait_until(lambda: listed(green).candidate.compared == n)  # noqa: B023
    assert listed(green).candidate.agreed == 1
    metrics = shadow_metrics(green)
    one = 'model="colours",version="2"'
    outcomes = {
        outcome: metrics[
            f'unfreeze_shadow_images_total{{model="colours",outcome="{outcome}",version="2"}}'
        ]
        for outcome in ("agreed", "differed", "dropped", "failed")
    }
    assert outcomes == {"agreed": 1, "differed": 2, "dropped": 0, "failed": 0}
    pixels = np.stack(
        [prepare(tiny.picture(c), tiny_spec(green)) for c in ("red", "green", "blue")]
    )
    expected = np.abs(tiny.answer(pixels) - tiny.answer(pixels, GREEN)).mean(axis=1).sum()
    assert metrics[f"unfreeze_shadow_difference_total{{{one}}}"] == pytest.approx(expected, 1e-4)
    for side in ("live", "candidate"):
        name = f'unfreeze_shadow_compute_seconds_count{{model="colours",side="{side}",version="2"}}'
        assert metrics[name] == 3


def tiny_spec(server: RunningServer) -> Any:
    return server.registry.bundle("colours", 1).image


def test_nothing_speaks_of_a_candidate_that_is_one_no_longer(green: RunningServer) -> None:
    try_(green, 2, SHADOW)
    green.classify(tiny.picture())
    wait_until(lambda: listed(green).candidate.compared)
    assert clear(green) == 2
    assert shadow_metrics(green) == {}
    assert "unfreeze_candidate_percent{" not in green.metrics()


def test_callers_do_not_see_shadows_in_what_is_counted_of_them(green: RunningServer) -> None:
    try_(green, 2, SHADOW)
    green.classify(tiny.picture())
    wait_until(lambda: listed(green).candidate.compared)
    assert 'unfreeze_compute_seconds_count{model="colours"} 1.0' in green.metrics()
    assert 'unfreeze_decode_seconds_count{model="colours"} 1.0' in green.metrics()


def test_the_comparison_goes_on_when_the_share_changes_and_begins_anew_with_another(
    green: RunningServer, root: Path
) -> None:
    try_(green, 2, SHADOW)
    green.classify(tiny.picture())
    wait_until(lambda: listed(green).candidate.compared == 1)
    assert try_(green, 2, SHADOW, 50).compared == 1
    assert try_(green, 2, SPLIT, 50).compared == 1
    assert try_(green, tiny.publish(root), SHADOW, 50).compared == 0
    assert 'version="2"' not in str(shadow_metrics(green))


def test_a_shadow_of_another_size_prepares_the_image_again(
    server: RunningServer, root: Path
) -> None:
    tiny.publish(root, size=16)
    try_(server, 2, SHADOW)
    server.classify(tiny.picture("blue"), tta_views=3)
    wait_until(lambda: listed(server).candidate.compared == 1)
    assert listed(server).candidate.agreed == 1


def test_a_candidate_is_freed_when_its_trial_ends(green: RunningServer) -> None:
    try_(green, 2, SHADOW)
    assert workers() == 4
    clear(green)
    wait_until(lambda: workers() == 2)


def workers() -> int:
    return sum(thread.name.startswith("run-") for thread in threading.enumerate())


# Shadow, at its limits


class Scene:
    """A live version and its candidate, whose networks wait until they are let go."""

    def __init__(self, bundle: Bundle) -> None:
        self.metrics = Metrics()
        self.live_goes, self.candidate_goes = threading.Event(), threading.Event()
        self.order: list[int] = []
        self.fails = False
        self.factor = 1.0
        self.live = self._loaded(1, bundle, self._run_live)
        self.candidate = self._loaded(2, bundle, self._run_candidate)
        self.comparison = Comparison(bundle, bundle, 2, self.metrics.candidates)
        self.shadow = Shadow(self.live, self.candidate, self.comparison)
        self.trial = Trial(
            beside=1,
            mode="shadow",
            percent=100,
            live=self.live,
            candidate=self.candidate,
            comparison=self.comparison,
            shadow=self.shadow,
        )
        self.predictor = Predictor(10**6, cache=None, trial_beside=self._trial_beside)

    def _trial_beside(self, loaded: LoadedVersion) -> Trial | None:
        return self.trial if loaded is self.live else None

    def _loaded(self, version: int, bundle: Bundle, run: Any) -> LoadedVersion:
        times = RunTimes(runs=1, batch=1, sizes=[1])
        admission = Admission(
            times, max_queue=1000, max_queue_s=1000, max_requests=0, max_bytes=2**40
        )
        counts = VersionCounts(self.metrics, "colours", version, bundle.labels)
        executor = Executor(run, runs=1, batch=1, admission=admission, observer=counts)
        kind = Kind("cpu", "fp32", None, tiny.SIZE, len(bundle.labels), None, None, n_bytes=1)
        return LoadedVersion(version, bundle, kind, parse_plan("1x1x1"), executor, counts)

    def _run_live(self, images: UInt8Array) -> Float32Array:
        self.live_goes.wait(20)
        return tiny.answer(images)

    def _run_candidate(self, images: UInt8Array) -> Float32Array:
        self.candidate_goes.wait(20)
        self.order.append(int(images[0, 0, 0, 0]))
        if self.fails:
            raise RuntimeError("out of luck")
        return tiny.answer(images, GREEN) * np.float32(self.factor)

    async def ask(self, *images: bytes) -> list[Answer]:
        with self.live as loaded:
            return await self.predictor.predict(loaded, images, Terms())

    def count(self, outcome: str) -> float:
        found = self.metrics.registry.get_sample_value(
            "unfreeze_shadow_images_total",
            {"model": "colours", "version": "2", "outcome": outcome},
        )
        assert found is not None
        return found

    def close(self) -> None:
        self.live_goes.set()
        self.candidate_goes.set()
        self.live.executor.close()
        self.candidate.executor.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tiny.stage(tmp_path / "bundle"))
    yield scene
    scene.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


async def test_a_candidate_that_hangs_delays_no_answer(scene: Scene) -> None:
    scene.live_goes.set()
    for _ in range(5):
        (answer,) = await scene.ask(tiny.picture("red"))
        assert answer.probabilities is not None
    assert scene.comparison.compared == 0
    scene.candidate_goes.set()
    await until(lambda: scene.comparison.compared == 5)


async def test_a_candidate_that_fails_is_counted_and_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.fails = True
    scene.live_goes.set()
    scene.candidate_goes.set()
    for n in (1, 2):
        (answer,) = await scene.ask(tiny.picture("red"))
        assert answer.probabilities is not None
        await until(lambda: scene.count("failed") == n)  # noqa: B023
    assert [record.message for record in caplog.records] == ["shadow_failed"]


async def test_a_candidate_whose_answers_are_no_numbers_fails_and_spoils_no_sum(
    scene: Scene,
) -> None:
    scene.factor = float("nan")
    scene.live_goes.set()
    scene.candidate_goes.set()
    await scene.ask(tiny.picture("red"))
    await until(lambda: scene.count("failed") == 1)
    assert scene.comparison.compared == 0


async def test_no_more_than_a_few_images_wait_to_be_compared(scene: Scene) -> None:
    scene.live_goes.set()
    await scene.ask(*[tiny.picture()] * (MAX_IN_FLIGHT - 1))
    await scene.ask(*[tiny.picture()] * 4)
    await scene.ask(tiny.picture())
    assert scene.count("dropped") == 4
    scene.candidate_goes.set()
    await until(lambda: scene.comparison.compared == MAX_IN_FLIGHT)
    await scene.ask(tiny.picture())
    await until(lambda: scene.comparison.compared == MAX_IN_FLIGHT + 1)


async def test_a_comparison_says_how_many_images_it_passed_over(scene: Scene) -> None:
    scene.live_goes.set()
    await scene.ask(*[tiny.picture()] * (MAX_IN_FLIGHT + 4))
    assert (
        candidate_in_words(scene)
        == "version 2 shadows 100 %; 4 images passed over while the server was busy"
    )
    scene.candidate_goes.set()
    await until(lambda: scene.comparison.compared == MAX_IN_FLIGHT)
    assert candidate_in_words(scene).endswith(
        f" of {MAX_IN_FLIGHT} images; 4 more passed over while the server was busy"
    )


def candidate_in_words(scene: Scene) -> str:
    """What a client says of the candidate."""
    at = datetime.now(UTC)
    wanted = Candidate(version=2, mode="shadow", percent=100, beside=1, at=at, by="test", reason="")
    return in_words(candidate(candidate_message(wanted, scene.trial, "")))


async def test_while_others_wait_for_the_live_version_nothing_is_compared(scene: Scene) -> None:
    waiting = [asyncio.create_task(scene.ask(tiny.picture())) for _ in range(3)]
    await until(lambda: scene.live.executor.depth == 2)
    answer = Answer(tiny.answer(np.zeros((1, 8, 8, 3), np.uint8))[0])
    sample = scene.shadow.sample(lambda bundle, i: np.zeros((1, 8, 8, 3), np.uint8), 1)
    sample.answered([answer])
    assert scene.count("dropped") == 1
    scene.live_goes.set()
    await asyncio.gather(*waiting)


async def test_whoever_asks_the_candidate_itself_goes_before_shadows(scene: Scene) -> None:
    scene.live_goes.set()
    for colour in ("white", "green", "green"):
        await scene.ask(tiny.picture(colour, format="PNG"))
    await until(lambda: scene.candidate.executor.depth == 2)
    red = tiny.picture("red", format="PNG")
    named = asyncio.create_task(scene.predictor.predict(scene.candidate, [red], Terms()))
    await until(lambda: scene.candidate.executor.depth == 3)
    scene.candidate_goes.set()
    await named
    await until(lambda: scene.comparison.compared == 3)
    assert scene.order == [255, 255, 0, 0]  # white, red, green, green


async def test_pixels_are_compared_like_images(scene: Scene) -> None:
    scene.live_goes.set()
    scene.candidate_goes.set()
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    with scene.live as loaded:
        await scene.predictor.predict_pixels(loaded, pixels, Terms())
    await until(lambda: scene.comparison.compared == 2)
    assert scene.comparison.agreed == 0


@pytest.mark.parametrize(("size", "n_decoded"), [(8, 1), (16, 2)])
def test_what_was_drawn_for_the_live_version_is_used_again_if_it_is_the_same(
    scene: Scene, tmp_path: Path, size: int, n_decoded: int
) -> None:
    decoded: list[int] = []

    def decode(bundle: Bundle, i: int) -> Iterator[UInt8Array]:
        decoded.append(bundle.image.size)
        yield np.zeros((bundle.image.size, bundle.image.size, 3), np.uint8)

    live, candidate = scene.live.bundle, tiny.stage(tmp_path / "other", size=size)
    sample = Sample(scene.shadow, live, candidate, decode, n_views=1)
    list(sample.for_live(0))
    assert [view.shape for view in sample.for_candidate(0)] == [(size, size, 3)]
    assert len(decoded) == n_decoded


# Comparison


def test_of_multi_label_models_all_chosen_labels_must_agree(tmp_path: Path) -> None:
    bundle = tiny.stage(tmp_path / "multi", task="multi")
    assert chosen(bundle, np.array([0.9, 0.6, 0.1], np.float32)) == {"red", "green"}
    assert chosen(bundle, np.array([0.4, 0.3, 0.1], np.float32)) == set()


def test_the_difference_counts_a_label_that_one_lacks_as_nothing(tmp_path: Path) -> None:
    ours = tiny.stage(tmp_path / "a")
    theirs = tiny.stage(tmp_path / "b", labels=("green", "red", "violet"))
    found = difference(
        ours, np.array([0.5, 0.5, 0.0], np.float32), theirs, np.array([0.25, 0.5, 0.25], np.float32)
    )
    assert found == pytest.approx((0 + 0.25 + 0 + 0.25) / 4)


def test_ended_candidates_leave_no_series() -> None:
    metrics = Metrics()
    candidates: CandidateMetrics = metrics.candidates
    candidates.begin("m", 2, "split", 5)
    candidates.begin("m", 2, "shadow", 10)
    value = metrics.registry.get_sample_value
    labels = {"model": "m", "version": "2"}
    assert value("unfreeze_candidate_percent", labels | {"mode": "split"}) is None
    assert value("unfreeze_candidate_percent", labels | {"mode": "shadow"}) == 10
    candidates.end("m", 2)
    assert value("unfreeze_candidate_percent", labels | {"mode": "shadow"}) is None
