"""Several processes that train one network, connected by gloo."""

import os
import re
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import photos
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ScalarEvent
from torch import nn

from registry.errors import BadRequest, DataError, Unavailable
from registry.store import Registry
from training.distributed.collectives import explained, own_random_numbers
from training.distributed.parallel import ALONE, ROUNDING, World, joined, launch_name
from training.network.backbone import Backbone
from training.network.classifier import build_network, divided
from training.network.saving import NETWORK
from training.recipe import train, train_network
from training.run.command import learn_along
from training.run.event_files import EVENTS_FOLDER

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
ROOT = Path(__file__).parent.parent

SIZE = 3  # processes
PATIENCE = timedelta(minutes=1)
N_IMAGES = 7  # so that their shares are unequal
TOLERANCE = 1e-5  # of numbers around 1, which are added up in another order


def work(rank: int, folder: Path) -> None:
    """All that three processes do together, each part with its outcome in a file."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", meeting, PATIENCE, rank=rank, world_size=SIZE)
    for part in (divide_a_step, agree, draw_in_step, divide_too_few):
        try:
            part(World(rank, SIZE), folder)
        except Exception:
            (folder / f"{part.__name__}-{rank}").write_text(traceback.format_exc())
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What has failed, by part and process."""
    folder = tmp_path_factory.mktemp("together")
    torch.multiprocessing.spawn(work, (folder,), nprocs=SIZE)
    return {path.name: path.read_text() for path in folder.glob("*-*")}


def failures_of(failures: dict[str, str], part: str) -> list[str]:
    return [text for name, text in failures.items() if name.startswith(part)]


def make_body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def answers_and_gradients(body: nn.Sequential, world: World) -> list[torch.Tensor]:
    """Of a step in training mode, the loss on all images; and the body's tensors after it."""
    images = torch.randn(N_IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    answers = world.gather(world.call(body, world.share(images)), images)
    (answers - torch.arange(4)).square().mean().backward()
    gradients = [parameter.grad for parameter in body.parameters()]
    return [answers.detach(), *gradients, *body.buffers()]


def divide_a_step(world: World, folder: Path) -> None:
    found = answers_and_gradients(make_body(), world)
    torch.testing.assert_close(
        found, answers_and_gradients(make_body(), ALONE), rtol=TOLERANCE, atol=TOLERANCE
    )


def test_a_divided_step_is_that_of_one_process_batch_statistics_included(failures: dict[str, str]):
    assert failures_of(failures, "divide_a_step") == []


def agree(world: World, folder: Path) -> None:
    body = make_body()
    with torch.no_grad():
        body[0].weight.add_(world.rank)
    world.broadcast_state(body)
    torch.testing.assert_close(body.state_dict(), make_body().state_dict(), rtol=0, atol=0)
    assert world.broadcast({"run": world.rank}) == {"run": 0}
    assert (world.all(True), world.all(world.rank != 1)) == (True, False)

    def see() -> bool:
        seen = (folder / "done").exists()
        (folder / "done").touch()
        return seen

    assert world.main_first(see) is not world.is_main


def test_processes_agree_on_what_the_main_one_has_and_let_it_go_first(failures: dict[str, str]):
    assert failures_of(failures, "agree") == []


def draw_in_step(world: World, folder: Path) -> None:
    """As dropout in the backbone would: each other numbers, and afterwards all the same."""
    torch.manual_seed(3)
    device = torch.device("cpu")
    with own_random_numbers(world.rank, device):
        own = torch.rand(2 + world.rank)
    owns = world.gather(own[None, :2], torch.empty(SIZE))
    assert len(owns.unique()) == 2 * SIZE
    after = torch.rand(1)
    torch.testing.assert_close(world.broadcast(after), after, rtol=0, atol=0)


def test_processes_that_draw_for_themselves_draw_alike_afterwards(failures: dict[str, str]):
    assert failures_of(failures, "draw_in_step") == []


class Places(nn.Module):
    """Parts them as Swin does, which torch cannot do where there is no image."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.reshape(len(maps), -1, maps.shape[3])


def divide_too_few(world: World, folder: Path) -> None:
    """A step of two images in three processes, and the numbers that are drawn next."""
    images = 255 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def step(who: World) -> list[torch.Tensor]:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2), Places())
        backbone = Backbone("own", body, (0.5,) * 3, (0.5,) * 3, "random", "")
        network = build_network(backbone, 2, size=8, hidden=(), dropout=(0.0,))
        network.train_unfrozen(freeze_batchnorm=False)
        with divided(network, who):
            features = network.features(images)
            features.square().sum().backward()
        gradients = [parameter.grad for parameter in body.parameters()]
        return [features.detach(), *gradients, *body.buffers(), torch.rand(2)]

    torch.testing.assert_close(step(world), step(ALONE), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_batch_of_fewer_images_than_processes_is_taken_as_one_process_does(
    failures: dict[str, str],
):
    assert failures_of(failures, "divide_too_few") == []


def test_random_numbers_are_those_of_one_process_if_the_backbone_draws_none():
    torch.manual_seed(3)
    with own_random_numbers(1, torch.device("cpu")):
        pass
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))


def test_shares_are_in_order_and_differ_by_one_at_most():
    images = torch.arange(N_IMAGES)
    shares = [World(rank, SIZE).share(images) for rank in range(SIZE)]
    assert torch.equal(torch.cat(shares), images)
    assert sorted(map(len, shares)) == [2, 2, 3]


def test_a_process_that_torchrun_did_not_start_is_alone():
    with joined() as world:
        assert world == ALONE
        assert world.all(False) is False
        assert world.main_first(lambda: "done") == world.broadcast("done")


def test_what_goes_wrong_between_processes_is_reported_as_such():
    with (
        pytest.raises(Unavailable, match="another process of this training has ended"),
        explained(),
    ):
        raise RuntimeError("[gloo/tcp/pair.cc:534] Connection closed by peer\nException raised")


def test_a_launch_has_one_name_whenever_its_processes_are_started(monkeypatch: pytest.MonkeyPatch):
    assert launch_name() == ""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launch_name() == launch_name()
    assert re.fullmatch(r"torchrun-\d+-\d+", launch_name())


def test_a_helping_process_says_which_it_is_and_where_it_failed(tmp_path: Path):
    assignment = photos.assignment(tmp_path, tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"process 2 of 1, audit and split: .*no such folder"):
        learn_along(assignment, World(rank=1, size=1))


def test_compiling_is_for_one_process(tmp_path: Path):
    assignment = photos.assignment(tmp_path, tmp_path, compile="true")
    with pytest.raises(BadRequest, match="compile=true works with one process only"):
        train_network(assignment, lambda event: None, World(0, 2))


# Trainings

SETTINGS = {"cycle_len": "3", "freeze_batchnorm": "false", "checkpoint_seconds": "0"}
SETTINGS |= {"unfrozen_learning_rate": "0.01", "batch_size": "7", "precision": "float32"}


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *run]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_two_processes_of_which_one_is_killed_learn_what_one_process_does(tmp_path: Path):
    """They go on from the last checkpoint, publish once, and draw no point of a curve twice."""
    alone = photos.assignment(tmp_path, photos.folder(tmp_path / "data"), **SETTINGS)
    bundle, _ = train(alone, lambda event: None)

    told = [f"--set={name}={value}" for name, value in (photos.QUICK | SETTINGS).items()]
    folders = ["--registry", str(tmp_path / "registry"), "--cache", str(tmp_path / "together")]
    data = ["--data", str(alone.data), "--model", "photos"]
    trainer = str(ROOT / "tests" / "mortal_trainer.py")
    ended = torchrun("--max-restarts=1", trainer, *data, *folders, *told)

    assert ended.returncode == 0, ended.stderr
    assert "all layers: resumed after 1 of 3 epochs" in ended.stderr
    assert ended.stdout.count("version 1: accuracy") == 1
    version = Registry(tmp_path / "registry").bundle("photos", 1)
    assert version.metrics["accuracy"] == bundle.metrics["accuracy"]
    assert version.provenance["processes"] == "2 processes share the work"
    (run,) = (tmp_path / "together" / "runs").iterdir()
    assert_close(run / NETWORK, alone.run / NETWORK)
    curve = read_curves(run)
    assert [event.step for event in curve] == [event.step for event in read_curves(alone.run)]


def assert_close(found: Path, expected: Path) -> None:
    """Two networks are the same but for rounding, as training/distributed/parallel.py states it."""
    first, second = load_file(found), load_file(expected)
    assert set(first) == set(second)
    for name, tensor in second.items():
        torch.testing.assert_close(first[name], tensor, rtol=ROUNDING, atol=ROUNDING, msg=name)


def read_curves(run: Path) -> list[ScalarEvent]:
    read = EventAccumulator(str(run / EVENTS_FOLDER), size_guidance={"scalars": 0}).Reload()
    return read.Scalars("batch/loss")
