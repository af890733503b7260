"""What has been learnt since 2018: smoothing, the mean of the weights, cycles for AdamW."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import photos
import pytest
import torch
from torch import Tensor, nn

from registry.errors import BadRequest
from training import averaging, compiling, device, fit
from training.activations import Activations, Parts, compute
from training.backbone import load_backbone
from training.bench import Bench
from training.ema import Ema, warm_decay
from training.evaluate import predict
from training.export import TOLERANCE, export
from training.finder import find_rate, suggest
from training.gradients import add_gradients
from training.keeping import copy_state
from training.network import NETWORK, Network, build_network, load_network, loss_function
from training.opening import open_bench, open_images
from training.optimizer import Optimizer
from training.presets import MODERN
from training.progress import Stages
from training.rates import family_decay, rate_groups, split_blocks
from training.reading_settings import read_settings
from training.recipe import train
from training.runtime import open_session
from training.sam import Sam, climbed, sharpen
from training.schedule import cosine_cycle_momenta, cosine_cycles
from training.settings import OptimizerSpec
from training.steps import fit_head, fit_unfrozen

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

# The preset in small: its numbers, on a network and images of seconds.
SMALL = {name: text for name, text in MODERN.items() if name not in photos.QUICK}
SMALL |= {"recipe": "modern", "cycle_len": "2", "ema": "0.999", "label_smoothing": "0.1"}


def little() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def walk(network: nn.Module, ema: Ema, n_steps: int, seed: int = 0) -> None:
    """As training does: the weights change, then the mean follows."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(n_steps):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw))
        network(torch.randn(5, 3, generator=draw))
        ema.update()


# Smoothing


def test_smoothing_is_the_loss_against_targets_that_are_spread():
    logits, targets = torch.randn(6, 4), nn.functional.one_hot(torch.arange(6) % 4, 4).float()
    spread = 0.9 * targets + 0.1 / 4
    smoothed = loss_function("single", label_smoothing=0.1)(logits, targets)
    assert smoothed == pytest.approx(float(loss_function("single")(logits, spread)), abs=1e-6)


def test_an_image_that_counts_half_has_half_to_spread():
    loss, logits, targets = (
        loss_function("single", label_smoothing=0.1),
        torch.randn(1, 4),
        torch.eye(1, 4),
    )
    assert loss(logits, targets / 2).item() == pytest.approx(loss(logits, targets).item() / 2)


def test_several_labels_are_never_smoothed():
    logits, targets = torch.randn(6, 4), torch.eye(6, 4)
    plain, told = loss_function("multi"), loss_function("multi", label_smoothing=0.1)
    assert plain(logits, targets) == told(logits, targets)


# The mean of the weights


def test_the_mean_follows_the_formula():
    network, decay = little(), 0.6
    ema, expected = Ema(network, decay), network[0].weight.detach().clone().double()
    for step in range(1, 9):
        walk(network, ema, 1, seed=step)
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * network[0].weight.detach().double()
    torch.testing.assert_close(ema.mean()["0.weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_few_steps_has_forgotten_where_it_began():
    forgotten = np.prod([warm_decay(step, 0.9999) for step in range(1, 101)])
    assert forgotten < 1e-8
    assert np.prod([0.9999] * 100) > 0.98


def test_statistics_are_averaged_and_counters_are_the_networks_own():
    network = little()
    ema = Ema(network, 0.9)
    walk(network, ema, 5)
    mean = ema.mean()
    assert not torch.equal(mean["1.running_mean"], network[1].running_mean)
    assert mean["1.num_batches_tracked"] == network[1].num_batches_tracked == 5


def test_what_does_not_move_stays_bit_for_bit():
    network = little()
    ema, before = Ema(network, 0.9), copy_state(network)
    for _ in range(5):
        ema.update()
    assert all(torch.equal(before[name], tensor) for name, tensor in ema.mean().items())


def test_a_mean_goes_on_from_its_state_as_if_never_interrupted():
    network = little()
    ema = Ema(network, 0.9)
    walk(network, ema, 3)
    weights, saved = copy_state(network), ema.state_dict()
    walk(network, ema, 4, seed=1)
    again = little()
    again.load_state_dict(weights)
    resumed = Ema(again, 0.9)
    resumed.load_state_dict(saved)
    walk(again, resumed, 4, seed=1)
    assert all(torch.equal(ema.mean()[name], tensor) for name, tensor in resumed.mean().items())


# Cycles


@pytest.mark.parametrize(("n", "rise"), [(100, 0.25), (37, 0.3), (8, 0.5)])
def test_a_cosine_cycle_is_the_one_cycle_of_torch(n: int, rise: float):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=n, pct_start=rise)
    options, rates, momenta = optimizer.param_groups[0], [], []
    for step in range(n):
        rates.append(options["lr"])
        momenta.append(options["betas"][0])
        optimizer.step()
        if step < n - 1:
            cycle.step()
    np.testing.assert_allclose(cosine_cycles(n, [1], 25, rise), rates, rtol=0, atol=1e-12)
    ours = cosine_cycle_momenta(n, [1], (0.95, 0.85), rise)
    np.testing.assert_allclose(ours, momenta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_cosine_cycle_of_few_steps_is_made_of_numbers(n: int):
    shares = cosine_cycles(n, [1, 1])
    assert len(shares) == 2 * n
    assert ((shares >= 0) & (shares <= 1)).all()


# A rate for AdamW


def easy(n_batches: int = 6) -> list[tuple[Tensor, Tensor]]:
    """Two clouds of points that nothing confuses."""
    draw = torch.Generator().manual_seed(0)
    targets = nn.functional.one_hot(torch.arange(16) % 2, 2).float()
    return [
        (torch.randn(16, 3, generator=draw) + 4 * targets[:, :1], targets) for _ in range(n_batches)
    ]


class Again:
    """The same batches in every epoch."""

    n_images = 96

    def __len__(self) -> int:
        return 6

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from easy()


def test_the_search_for_adamw_suggests_what_moves_weights_little_by_little():
    suggestions = {}
    for kind in ("sgd", "adamw"):
        network, spec = little().train(), OptimizerSpec(kind=kind)
        groups, loss = [list(network.parameters())], nn.CrossEntropyLoss()
        found = find_rate(network, network, groups, [1.0], Again(), loss, spec=spec)
        suggestions[kind] = found.suggestion
    assert suggestions["sgd"] > suggestions["adamw"] == 3e-3
    assert "little by little" in found.reason


def test_a_suggestion_below_the_most_is_left_alone():
    rates = [10.0 ** (place / 5 - 5) for place in range(20)]
    losses = [0.5] * 12 + [0.9] * 8
    assert suggest(rates, losses, most=3e-3) == suggest(rates, losses)


# A rate for each layer

NAMES = [
    "efficientnet_lite0",
    "resnet18",
    "test_convnext",
    "test_vit",
    "shufflenet_v2_x0_5",
    "alexnet",
]


def empty(name: str) -> Network:
    size = 160 if name == "test_vit" else 64
    backbone = load_backbone(name, pretrained=False)
    return build_network(backbone, 2, size=size, hidden=(), dropout=(0.0,))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_partition_the_parameters_and_the_later_learns_more(name: str):
    network = empty(name)
    found = rate_groups(network, (0.1, 0.3, 1), 0.5)
    grouped = [id(parameter) for group in found.groups for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in network.parameters())
    assert len(found.groups) > 5
    assert found.shares == [0.5**place for place in reversed(range(len(found.groups)))]
    stem, head = next(iter(network.body.parameters())), network.head[-1].weight
    assert any(parameter is stem for parameter in found.groups[0])
    assert any(parameter is head for parameter in found.groups[-1])


def test_the_blocks_of_a_network_are_those_of_its_library():
    blocks = split_blocks(load_backbone("test_vit", pretrained=False).body)
    assert {name.split(".")[0] for name in blocks[0]} == {"cls_token", "pos_embed", "patch_embed"}
    assert [names[0].split(".")[1] for names in blocks[1:]] == list("012345")
    assert "norm.weight" in blocks[-1]


@pytest.mark.parametrize(
    ("name", "decay"),
    [
        ("convnext_nano", 0.8),
        ("vit_tiny_patch16_224", 0.7),
        ("swin_t", 0.7),
        ("resnet34", 1),
        ("efficientnet_lite0", 1),
        ("mobilevit_s", 1),
    ],
)
def test_families_decay_as_they_are_fine_tuned(name: str, decay: float):
    assert family_decay(name) == decay


@pytest.mark.parametrize(("name", "decay"), [("resnet18", 1.0), ("resnet18", "family")])
def test_without_decay_there_are_three_groups(name: str, decay: Literal["family"] | float):
    network = empty(name)
    found = rate_groups(network, (0.1, 0.3, 1), decay)
    assert (len(found.groups), found.shares) == (3, [0.1, 0.3, 1])


def test_frozen_blocks_keep_their_place_and_learn_nothing():
    network = empty("test_convnext")
    network.freeze_to(1)
    found = rate_groups(network, (0.1, 0.3, 1), "family")
    learning = [bool(group) for group in found.groups]
    assert learning == sorted(learning)
    assert not learning[0]
    assert found.shares[-1] == 1


def test_biases_and_scales_can_be_spared_from_decay():
    layer = nn.Linear(2, 2)
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.bias)
    spec = OptimizerSpec(kind="adamw", weight_decay=0.5, decay_biases=False)
    for decay, left in ((None, 1 - 0.1 * 0.5), (0.2, 0.95 * 0.8)):
        optimizer = Optimizer([list(layer.parameters())], spec)
        (0 * layer(torch.ones(1, 2)).sum()).backward()
        optimizer.step([0.1], decay=decay)
        assert layer.bias.tolist() == [1, 1]
        assert layer.weight.flatten().tolist() == pytest.approx([left] * 4)


# Sharpness


def test_the_gradient_is_that_of_the_worst_place_nearby():
    """Of w², at w + rho up the hill: 2(w + rho)."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    inputs, targets = torch.ones(1, 1), torch.zeros(1, 1)
    loss = nn.MSELoss()
    add_gradients(layer, loss, inputs, targets)
    sharpen(Sam(layer, rho=0.5), [layer.weight], layer, loss, inputs, targets)
    assert layer.weight.grad is not None
    assert layer.weight.grad.item() == pytest.approx(2 * 3.5)
    assert layer.weight.item() == 3.0


def test_the_climb_is_as_far_as_it_says_and_leaves_no_trace():
    torch.manual_seed(0)
    network = little().train()
    before, inputs = copy_state(network), torch.randn(8, 3)
    targets = nn.functional.one_hot(torch.arange(8) % 2, 2).float()
    parameters, loss = list(network.parameters()), nn.CrossEntropyLoss()
    add_gradients(network, loss, inputs, targets)
    statistics = copy_state(network[1])
    with climbed(parameters, 0.05):
        moved = [now - before[name] for name, now in network.named_parameters()]
        assert nn.utils.get_total_norm(moved) == pytest.approx(0.05, rel=1e-4)
    sharpen(Sam(network, 0.05), parameters, network, loss, inputs, targets)
    weights = dict(network.named_parameters())
    assert all(torch.equal(before[name], weight) for name, weight in weights.items())
    assert torch.equal(network[1].running_mean, statistics["running_mean"])
    assert network[1].momentum == 0.1


# Whole trainings


def test_the_modern_recipe_trains_and_keeps_the_better_weights(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=16)
    heard = photos.Heard()
    assignment = photos.assignment(tmp_path, data, **SMALL)
    bundle, _ = train(assignment, heard.append)
    assert len(heard.of("epoch_finished")) == 4 + 1 + 2
    assert "log_loss of" in bundle.provenance["ema"]
    assert '"label_smoothing":0.1' in bundle.provenance["settings"]
    assert bundle.metrics["accuracy"] >= 0.75
    searched = json.loads((assignment.stage / "report" / "report.json").read_text())
    assert set(searched["learning_rates"]) == {"head"}  # the other is told, and a search is dear
    assert "unfrozen 1.00e-03" in bundle.provenance["learning_rates"]
    begun = heard.of("stage_started")
    assert [stage.number for stage in begun] == list(range(1, begun[-1].of + 1))


def opened(tmp_path: Path, data: Path, told: dict[str, str]) -> Bench:
    settings = read_settings(told)
    torch.manual_seed(settings.seed)
    stages = Stages(lambda event: None, 1)
    images = open_images(settings, data, tmp_path / "cache", stages)
    backbone = load_backbone(
        settings.backbone, pretrained=settings.backbone == "efficientnet_lite0"
    )
    return open_bench(settings, images, backbone, stages, tmp_path / "run")


def unfrozen(tmp_path: Path, data: Path | None = None, **told: str) -> Bench:
    """A bench whose network has learnt in one epoch without anything frozen."""
    source = data or photos.folder(tmp_path / "data", per_class=12)
    bench = opened(tmp_path, source, photos.QUICK | told)
    fit_unfrozen(bench, 0.01)
    return bench


def test_a_mean_that_is_always_kept_spares_no_images(tmp_path: Path):
    own = unfrozen(tmp_path)
    mean = unfrozen(tmp_path, ema="0.99", ema_kept="always")
    compared = unfrozen(tmp_path, ema="0.99", judge_share="0.3")
    assert mean.facts["ema"].endswith("without a comparison: as the settings say")
    assert own.n_train == mean.n_train == compared.n_train + len(compared.judged)
    first, second = (bench.network.head[-1].weight for bench in (own, mean))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("judge_by", "kept"), [("log_loss", "weights themselves"), ("metric", "mean")]
)
def test_the_better_weights_are_kept_in_the_stated_direction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge_by: str, kept: str
):
    """Of two values in the order own, mean, the mean's is the higher one."""
    values = iter([0.5, 0.7])
    monkeypatch.setattr(averaging, "judge", lambda bench: next(values))
    bench = unfrozen(tmp_path, ema="0.99", judge_share="0.3", judge_by=judge_by)
    assert bench.facts["ema"].startswith(f"kept the {kept}")


def test_a_transformer_learns_layer_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Sequence[float]] = []
    step = Optimizer.step

    def recording(self: Optimizer, rates: Sequence[float], **more: float | None) -> None:
        seen.append(rates)
        step(self, rates, **more)

    monkeypatch.setattr(Optimizer, "step", recording)
    told = {"backbone": "test_vit", "size": "160", "layer_decay": "family", "decay_biases": "false"}
    bench = unfrozen(tmp_path, **told)
    assert np.isfinite(bench.history[-1].train_loss)
    blocks = len(split_blocks(bench.network.body))
    for rates in seen:
        ratios = [low / high for low, high in pairwise(rates)]
        assert ratios == pytest.approx([0.7] * blocks, rel=1e-12)
    assert len(seen) == len(bench.image_batches())


def test_features_in_half_precision_lead_to_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A head that learnt from bfloat16 answers as one that learnt from float32."""
    told = photos.QUICK | {"backbone": "efficientnet_lite0", "size": "64", "optimizer": "adamw"}
    data = photos.folder(tmp_path / "data", per_class=16)
    features, answers = {}, {}
    for half in (True, False):
        monkeypatch.setattr(device, "has_fast_bf16", lambda _, half=half: half)
        bench = opened(tmp_path, data, told)
        rows = [bench.rows(part) for part in ("train", "valid")]
        found = [compute(bench.network, bench.decoded, each, bench.device) for each in rows]
        features[half] = found[1]
        bench.network.freeze_to(2)
        fit_head(bench, Parts(*(Activations(each, "") for each in found)), 0.001)
        pixels = bench.decoded.pixels[rows[1]]
        answers[half] = predict(bench.network, pixels, "single", bench.device)
    assert not torch.equal(features[True], features[False])
    assert nn.functional.cosine_similarity(features[True], features[False]).min() > 0.99
    assert np.abs(answers[True] - answers[False]).mean() < 0.05
    assert len(set(answers[True].argmax(1))) == 2


# Other backbones: a network of each family, of the smallest that its library has
FAMILIES = {
    "test_resnet": 32,
    "mobilenetv3_small_050": 32,
    "test_convnext": 32,
    "test_vit": 160,
    "alexnet": 64,
}


@pytest.mark.parametrize(("backbone", "size"), FAMILIES.items())
def test_every_family_is_fitted_and_exported_with_parity(tmp_path: Path, backbone: str, size: int):
    told = {"backbone": backbone, "size": str(size), "optimizer": "adamw", "layer_decay": "family"}
    bench = unfrozen(tmp_path, **told)
    assert np.isfinite(bench.history[-1].train_loss)
    pixels = np.array(bench.decoded.pixels[:7])
    difference, _ = export(bench.network, "single", pixels, {}, tmp_path / "model.onnx")
    assert difference <= TOLERANCE
    answers = open_session(str(tmp_path / "model.onnx")).run(None, {"image": pixels})[0]
    truth = predict(bench.network, pixels, "single", bench.device)
    np.testing.assert_allclose(answers, truth, atol=TOLERANCE)


def test_sharpness_is_looked_at_in_every_nth_step_and_changes_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    looks: list[float] = []

    def counting(sam: Sam, *more: Any) -> None:
        looks.append(sam.rho)
        sharpen(sam, *more)

    monkeypatch.setattr(fit, "sharpen", counting)
    plain, sharp = unfrozen(tmp_path), unfrozen(tmp_path, sam="0.05", sam_every="2")
    assert looks == [0.05] * ((len(sharp.image_batches()) + 1) // 2)
    first, second = (bench.network.head[-1].weight for bench in (plain, sharp))
    assert not torch.equal(first, second)
    assert np.isfinite(sharp.history[-1].train_loss)


def test_a_compiled_training_has_the_same_names_and_its_mean_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Traced as by the compiler, without the minutes in which it makes code of it."""
    traced: list[str] = []

    def trace(graph: Callable[..., Any], inputs: list[Tensor]) -> Callable[..., Any]:
        traced.append(str(inputs[0].shape))
        return graph

    monkeypatch.setattr(compiling, "BACKEND", trace)
    told = {"ema": "0.99", "ema_kept": "always"}
    own, mean = unfrozen(tmp_path), unfrozen(tmp_path, **told)
    assert not traced
    bench = unfrozen(tmp_path, compile="true", **told)
    assert traced
    assert list(bench.network.state_dict()) == list(mean.network.state_dict())
    weights = [one.network.head[-1].weight for one in (own, mean, bench)]
    assert 10 * torch.dist(weights[2], weights[1]) < torch.dist(weights[0], weights[1])
    assert load_network(bench.save(NETWORK))[0].name == "test_efficientnet"


def test_compiling_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(BadRequest, match="needs a C\\+\\+ compiler"):
        compiling.compiled(torch.relu, torch.device("cpu"))


def test_too_few_images_to_spare_any_are_not_compared(tmp_path: Path):
    data = photos.folder(tmp_path / "data" / "train", per_class=1).parent
    photos.photo(data / "valid" / "dark" / "other.png", 50, seed=99)
    bench = unfrozen(tmp_path, data, ema="0.99")
    assert "mean of the weights without a comparison: too few images" in bench.facts["ema"]
