"""The comparison, row by row. Every row records its measurements under its own name."""

import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tritonclient.grpc as triton

from bench import limit, servers
from bench.bundles import AS_IS
from bench.contest import Asked, Contestant, Direct, Pace, ask, contest, describe
from bench.record import Measures, Record
from bench.servers import PeerSettings, Server
from registry.bundle import MODEL
from service.execution.admission import MARGIN

IMAGES, TENSORS, PROTOCOL, TTA = "images", "tensors", "protocol", "tta"
OVERLOAD, START, PLAN, GPU = "overload", "start", "plan", "gpu"
PROVIDER = "provider"  # of each bundle of the GPU's row

OURS, LIMIT, BARE = "unfreeze", "limit", "bare server"
LIMIT_SIMPLIFIED = "limit, simplified"  # of the graph as `unfreeze import` simplifies it
DYNAMO, INT8, FP16 = "unfreeze, dynamo", "unfreeze, int8", "unfreeze, fp16"
BUNDLES = {OURS: "lite0", DYNAMO: "lite0-dynamo", INT8: "lite0-int8"}
BUNDLES_GPU = {OURS: "lite0", FP16: "lite0-fp16"}
TINY = "tiny"
SEVERAL = "one of several models"

IN_FLIGHT, IN_FLIGHT_PROTOCOL, IN_FLIGHT_GPU = 8, 16, 64
LIMIT_BATCHES_GPU = (1, 8, 32)
TTA_VIEWS = 5
OVERLOAD_TIMES, OVERLOAD_DEADLINE_S = 3, 1.0
STARTS, IDLE_S = 3, 3.0
TRIALS, NEAR = 3, 0.85  # of peers' settings, and the share of the highest rate that is near it

# A peer with a model written as in its documentation, which answers one request at a time and logs
# each; and tuned: without logs, with gRPC set up as in Unfreeze, and with the work in threads or
# processes as far as its user can do that.
SETTINGS: dict[str, tuple[PeerSettings, ...]] = {
    "kserve": (PeerSettings(0, 2, logs=True), PeerSettings(0, 1, logs=True)),
    "kserve, tuned": (PeerSettings(0, 2), PeerSettings(0, 1), PeerSettings(2, 1)),
    "mlserver": (PeerSettings(0, 2, logs=True), PeerSettings(0, 2, workers=1, logs=True)),
    "mlserver, tuned": (
        PeerSettings(0, 2),
        PeerSettings(0, 1, workers=2),
        PeerSettings(2, 1),
        PeerSettings(0, 2, batch=8),
    ),
}
OPEN_PEER = {"kserve": servers.kserve, "mlserver": servers.mlserver}


@dataclass(frozen=True)
class Bench:
    """Where everything is, and how much to measure."""

    work: Path  # of `prepare.py`
    peers: Path | None  # of setup.sh
    server: Server | None  # Unfreeze with all bundles; None: only `start` and `gpu` can be measured
    pace: Pace
    record: Record

    def inputs(self, name: str) -> Path:
        return self.work / f"{name}.npz"

    def bundles(self) -> dict[str, str]:
        """Contestant -> bundle, for the bundles that exist."""
        registry = self.work / "registry"
        return {name: one for name, one in BUNDLES.items() if (registry / one).exists()}


def images(bench: Bench) -> None:
    """500x375 JPEG files in, probabilities out."""
    peers = _peers(bench, IMAGES, "lite0", "images", IN_FLIGHT)
    ours = {
        name: _ours(bench, one, "images", in_flight=IN_FLIGHT)
        for name, one in bench.bundles().items()
    }
    contestants = {**_limits(bench, "images"), BARE: _bare(bench, "images"), **ours, **peers}
    contest(IMAGES, contestants, bench.pace, bench.record)


def tensors(bench: Bench) -> None:
    """Prepared pixels in: ours as uint8, the peers' as float32, as their network takes them."""
    peers = _peers(bench, TENSORS, "lite0-tensor", "floats", IN_FLIGHT)
    ours = {
        name: _ours(bench, f"{one}-tensor", "pixels", in_flight=IN_FLIGHT)
        for name, one in bench.bundles().items()
    }
    contestants = {**_limits(bench, "pixels"), BARE: _bare(bench, "pixels"), **ours, **peers}
    contest(TENSORS, contestants, bench.pace, bench.record)


def protocol(bench: Bench) -> None:
    """2x2 pixels in and 16 probabilities out; the peers get 16 numbers."""
    peers = _peers(bench, PROTOCOL, "tiny-tensor", "tiny-floats", IN_FLIGHT_PROTOCOL)
    ours = _ours(bench, f"{TINY}-tensor", "tiny-pixels", in_flight=IN_FLIGHT_PROTOCOL)
    contest(PROTOCOL, {OURS: ours, **peers}, bench.pace, bench.record)


def tta(bench: Bench) -> None:
    """One view and five of them, one request at a time."""
    contestants = {
        _views(n): _ours(bench, "lite0", "images", in_flight=1, parameters={"tta_views": n})
        for n in (1, TTA_VIEWS)
    }
    contest(TTA, contestants, bench.pace, bench.record)


def overload(bench: Bench) -> None:
    """Peak throughput in a closed loop, then a flood at three times that rate, repeatedly.

    Every server has one model, as the peers do; that with all bundles is flooded for comparison,
    because it has to read what it refuses: the idle models would have room. A bare server that
    refuses what exceeds as many requests as Unfreeze admits shows how much gRPC leaves.

    The clients take CPU time from the server, even for rejected requests, and preempt a network
    each time they wake up; in production they would run on another machine. So they encode each
    request only once, and send a few at a time; with five views per image, their share is small.
    The peers, at three times their own peak, get one view and a new process each time: they refuse
    nothing, and would still be busy with the last flood.
    """
    peers = _peers(bench, IMAGES, "lite0", "images", IN_FLIGHT)
    with servers.unfreeze(bench.work / "registry-one", "--provider", "cpu") as server:
        alone = replace(bench, server=server)
        for number in range(bench.pace.rounds):
            _peak_and_flood(bench, _viewed(alone, 1), number)
            _peak_and_flood(bench, _viewed(alone, TTA_VIEWS), number, _views(TTA_VIEWS))
            _peak_and_flood(bench, _viewed(bench, 1), number, SEVERAL)
            _peak_and_flood(bench, _refusing(bench, number), number, BARE)
            for name, peer in peers.items():
                _peak_and_flood(bench, peer, number, name)


def _viewed(bench: Bench, n_views: int) -> Asked:
    return _ours(bench, "lite0", "images", parameters={"tta_views": n_views})


def _refusing(bench: Bench, number: int) -> Asked:
    """The bare server, with room for as many requests as Unfreeze would answer in time."""
    per_s = bench.record.rounds(OVERLOAD, overload_names()[0])[number]["per_s"]
    return _bare(bench, "images", most=round(MARGIN * OVERLOAD_DEADLINE_S * per_s))


def _peak_and_flood(bench: Bench, one: Asked, number: int, form: str = "") -> None:
    peak, flood = overload_names(form)
    if bench.record.has(OVERLOAD, flood, number):
        return
    with one.open() as server:

        def measured(name: str, **more: Any) -> Measures:
            load = {"parameters": one.more.get("parameters", {}), "made_once": True}
            measures = ask(replace(one, more=load | more), server, bench.pace)
            bench.record.add(OVERLOAD, name, number, measures)
            print(f"{OVERLOAD}  round {number + 1}  {name}: {describe(measures)}", flush=True)
            return measures

        rate = OVERLOAD_TIMES * measured(peak, in_flight=IN_FLIGHT)["per_s"]
        measured(flood, rate=rate, deadline_s=OVERLOAD_DEADLINE_S)


def overload_names(form: str = "") -> tuple[str, str]:
    """The names of the peak and the flood in the record; `form` is the views, several models or a
    peer, and nothing for ours with one view and one model."""
    suffix = f", {form}" if form else ""
    return f"peak{suffix}", f"three times{suffix}"


def start(bench: Bench) -> None:
    """From exec to ready, and the resources of an idle server with one model."""
    opened = {OURS: partial(servers.unfreeze, bench.work / "registry-one")}
    if bench.peers:
        for name, (settings, *_) in SETTINGS.items():
            if name in OPEN_PEER:
                opened[name] = _opener(bench, name, "lite0", settings)
    for number in range(min(STARTS, bench.pace.rounds)):
        for name, open_server in opened.items():
            if bench.record.has(START, name, number):
                continue
            with open_server() as server:
                idle_cpu = server.idle_cpu(min(IDLE_S, bench.pace.seconds))
                measures = {"ready_s": server.ready_s, "rss": server.rss(), "idle_cpu": idle_cpu}
            bench.record.add(START, name, number, measures)
            shown = f"ready in {server.ready_s:.1f} s, {measures['rss'] / 1e6:.0f} MB"
            print(f"{START}  round {number + 1}  {name}: {shown}", flush=True)


def has_gpu() -> bool:
    """Whether the installed ONNX Runtime offers CUDA."""
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def gpu(bench: Bench) -> None:
    """Tensors on CUDA, 64 in flight; a server asked for CUDA does not start without it."""
    registry = bench.work / "registry-gpu"
    with servers.unfreeze(registry, "--provider", "cuda") as server:
        providers(bench, server)
        contestants: dict[str, Contestant] = {}
        for name, bundle in BUNDLES_GPU.items():
            more = {"in_flight": IN_FLIGHT_GPU}
            for n in LIMIT_BATCHES_GPU:
                limited = _limit(
                    bench, "pixels", registry / bundle, batch=n, provider="CUDAExecutionProvider"
                )
                contestants[f"{LIMIT} of {name}, batches of {n}"] = limited
            inputs = bench.inputs("pixels")
            contestants[name] = Asked(
                "cuda", lambda: nullcontext(server), f"{bundle}-tensor", inputs, more
            )
        contest(GPU, contestants, bench.pace, bench.record)


def providers(bench: Bench, server: Server) -> None:
    """The execution provider that each bundle runs on, as the server reports it."""
    with triton.InferenceServerClient(server.url) as client:
        for bundle in BUNDLES_GPU.values():
            config = client.get_model_config(bundle, client_timeout=10).config
            found = config.parameters["execution_provider"].string_value
            bench.record.add(PROVIDER, bundle, 0, {"provider": found})
            print(f"{PROVIDER}  {bundle}: {found}", flush=True)


def plans(bench: Bench, server: Server) -> None:
    """The execution plans that Unfreeze chose by benchmarking, which explain its figures. A record
    keeps those of its beginning: showing it later starts a server that measures nothing."""
    with triton.InferenceServerClient(server.url) as client:
        for bundle in (*bench.bundles().values(), TINY):
            if bench.record.has(PLAN, bundle, 0):
                continue
            config = client.get_model_config(bundle, client_timeout=10).config
            plan = {"plan": config.parameters["execution_plan"].string_value}
            bench.record.add(PLAN, bundle, 0, plan)
            print(f"{PLAN}  {bundle}: {plan['plan']} (threads x runs x batch)", flush=True)


def _views(n: int) -> str:
    return f"{n} view{'s' if n > 1 else ''}"


def _ours(bench: Bench, model: str, inputs: str, **more: Any) -> Asked:
    server = bench.server
    assert server
    return Asked(OURS, lambda: nullcontext(server), model, bench.inputs(inputs), more)


def _bare(bench: Bench, inputs: str, most: float = math.inf) -> Asked:
    opened = partial(servers.bare, _network(bench.work / "registry" / "lite0"), most)
    return Asked(BARE, opened, "lite0", bench.inputs(inputs), {"in_flight": IN_FLIGHT})


def _network(bundle: Path) -> Path:
    return bundle / "1" / MODEL


def _limits(bench: Bench, inputs: str) -> dict[str, Contestant]:
    """Of the export that the peers run, and of what is made of it for ours."""
    folders = {LIMIT: AS_IS, LIMIT_SIMPLIFIED: "registry"}
    return {
        name: _limit(bench, inputs, bench.work / registry / "lite0")
        for name, registry in folders.items()
    }


def _limit(bench: Bench, inputs: str, folder: Path, **more: Any) -> Direct:
    load = limit.Load(
        network=str(_network(folder)),
        inputs=str(bench.inputs(inputs)),
        warm_s=bench.pace.warm_s,
        seconds=bench.pace.seconds,
        **more,
    )
    return Direct(load)


def _peers(bench: Bench, row: str, model: str, inputs: str, in_flight: int) -> Mapping[str, Asked]:
    """Each peer with its best settings on this machine."""
    if bench.peers is None:
        return {}
    peers = {}
    for name in SETTINGS:
        settings = _best_settings(bench, row, name, model, inputs, in_flight)
        peers[name] = _peer(bench, name, model, inputs, in_flight, settings)
    return peers


def _best_settings(
    bench: Bench, row: str, name: str, model: str, inputs: str, in_flight: int
) -> PeerSettings:
    """The fastest of the settings worth trying. Each is measured once, and those near the fastest
    twice more, in turns: luck would decide between them."""
    tried = f"{row}: settings of {name}"
    close = list(SETTINGS[name])
    for number in range(TRIALS):
        for settings in close:
            if not bench.record.has(tried, str(settings), number):
                one = _peer(bench, name, model, inputs, in_flight, settings)
                with one.open() as server:
                    measures = ask(one, server, bench.pace)
                bench.record.add(tried, str(settings), number, measures)
                print(f"{tried}  {settings}: {describe(measures)}", flush=True)
        close = near_the_fastest(
            {one: bench.record.values(tried, str(one), "per_s") for one in close}
        )
        if len(close) == 1:
            break
    return close[0]


def near_the_fastest(rates: Mapping[PeerSettings, Sequence[float]]) -> list[PeerSettings]:
    """Settings whose median rate is near the highest, fastest first."""
    medians = {one: statistics.median(values) for one, values in rates.items()}
    close = [one for one in medians if medians[one] >= NEAR * max(medians.values())]
    return sorted(close, key=lambda one: -medians[one])


def _peer(
    bench: Bench, name: str, model: str, inputs: str, in_flight: int, settings: PeerSettings
) -> Asked:
    opened = _opener(bench, name, model, settings)
    return Asked(name, opened, model, bench.inputs(inputs), {"in_flight": in_flight})


def _opener(bench: Bench, name: str, model: str, settings: PeerSettings) -> Any:
    assert bench.peers
    package = name.split(",")[0]
    python = bench.peers / package / "bin" / "python"
    return partial(OPEN_PEER[package], python, bench.work, model, settings)
