"""Stronger changes: mixup, CutMix, policies and erasing, each a pure function of the batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from torch import Tensor

from training.bench import Bench
from training.data.strong_augmentation import PLAIN, Stronger, drawing_by, erase, follow
from training.fit.loss import loss_function
from training.images import open_images
from training.network.backbone import load_backbone
from training.opening import open_bench
from training.reading_settings import read_settings
from training.recipe import learn, train
from training.report.preview import augmented
from training.run.progress import Stages
from training.settings import Policy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SIZE, LEVELS = 20, torch.tensor([30.0, 90.0, 250.0])
ALL = {"policy": "trivial", "erasing": "0.5", "mixup": "0.4", "cutmix": "1"}


def even(n: int = 8) -> tuple[Tensor, Tensor]:
    """Views of one level each, and which level as one-hot targets."""
    classes = torch.arange(n) % len(LEVELS)
    views = LEVELS[classes].view(n, 1, 1, 1).expand(n, 3, SIZE, SIZE).clone()
    return views, torch.eye(len(LEVELS))[classes]


def noisy(n: int = 8) -> Tensor:
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 255


@pytest.mark.parametrize("way", [Stronger(mixup=0.4), Stronger(cutmix=1)])
def test_targets_are_mixed_in_the_same_parts_as_pixels(way: Stronger):
    for number in range(20):
        views, targets = way.apply(*even(), (number,))
        assert torch.allclose(targets.sum(1), torch.ones(8))
        assert torch.allclose(views.mean((1, 2, 3)), targets @ LEVELS, atol=1e-3)
        assert targets.min() >= 0


def test_mixup_weighs_whole_views_and_cutmix_pastes_one_box():
    blended, _ = Stronger(mixup=1).apply(*even(), (1,))
    pasted, _ = Stronger(cutmix=1).apply(*even(), (2,))
    assert torch.equal(blended.amin((1, 2, 3)), blended.amax((1, 2, 3)))
    assert set(pasted.unique().tolist()) <= set(LEVELS.tolist())
    strange = pasted[1, 0] != LEVELS[1]
    rows, columns = strange.any(1), strange.any(0)
    assert 0 < strange.sum() == rows.sum() * columns.sum()  # a rectangle is full


def test_several_labels_are_mixed_like_one():
    views, targets = even()
    _, mixed = Stronger(mixup=1).apply(views, targets.cumsum(1), (3,))
    _, single = Stronger(mixup=1).apply(views, targets, (3,))
    assert torch.allclose(mixed, single.cumsum(1))


def test_of_mixup_and_cutmix_each_batch_gets_one():
    ways = [Stronger(mixup=1, cutmix=1).apply(*even(), (number,))[0] for number in range(20)]
    blended = [bool((views.amin((1, 2, 3)) == views.amax((1, 2, 3))).all()) for views in ways]
    assert 3 < sum(blended) < 17


def test_weighted_losses_take_mixed_targets():
    logits, weights = torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([0.5, 1.0, 2.0])
    targets = torch.tensor([[0.3, 0.0, 0.7]])
    logs = logits.log_softmax(1)
    by_hand = -(weights * targets * logs).sum()
    assert loss_function("single", weights)(logits, targets) == pytest.approx(by_hand.item())
    assert loss_function("multi", weights)(logits, targets).isfinite()


def test_a_box_of_the_views_that_are_drawn_is_noise():
    before = even(200)[0]
    with drawing_by([5]):
        after = erase(before, 0.5)
    strange = (after != before).any(1)
    boxes = strange[strange.any((1, 2))]
    assert 0.35 < len(boxes) / 200 < 0.65
    areas = boxes.float().mean((1, 2))
    assert 0.01 < areas.min() < areas.max() < 0.36
    assert bool((boxes.sum((1, 2)) == boxes.any(2).sum(1) * boxes.any(1).sum(1)).all())
    assert 0 <= after.min() < after.max() <= 255


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_a_policy_draws_for_each_view_alone_and_keeps_to_pixels(policy: Policy):
    before = noisy(1).expand(32, -1, -1, -1)
    with drawing_by([7]):
        after = follow(before, policy)
    assert after.shape == before.shape
    assert torch.equal(after, after.round())
    assert 0 <= after.min() < after.max() <= 255
    assert len({view.sum().item() for view in after}) > 8


@pytest.mark.parametrize(
    "way",
    [Stronger(mixup=0.4), Stronger(cutmix=1), Stronger(erasing=0.5), Stronger("trivial")],
)
def test_the_same_numbers_change_the_same_and_nothing_else_draws(way: Stronger):
    def changed(*numbers: int) -> Tensor:
        return way.apply(noisy(), even()[1], numbers)[0]

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = changed(42, 0, 1)
    torch.rand(3)
    assert torch.equal(first, changed(42, 0, 1))
    assert not torch.equal(first, changed(42, 1, 1))
    assert not torch.equal(first, changed(42, 0, 2))
    torch.set_rng_state(state)
    changed(42, 0, 1)
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_asked_for_changes_nothing():
    views, targets = even()
    same = PLAIN.apply(views, targets, (1,))
    assert same[0] is views
    assert same[1] is targets


def opened(tmp_path: Path, data: Path, **told: str) -> Bench:
    settings = read_settings(photos.QUICK | told)
    stages = Stages(lambda event: None, 1)
    images = open_images(settings, data, tmp_path / "cache", stages)
    torch.manual_seed(settings.seed)
    backbone = load_backbone(settings.backbone, pretrained=False)
    return open_bench(settings, images, backbone, stages, tmp_path / "run")


def test_batches_are_repeated_by_seed_and_epoch(tmp_path: Path):
    batches = opened(tmp_path, photos.folder(tmp_path / "data"), **ALL).image_batches()

    def same(one: Sequence[tuple[Tensor, Tensor]], other: Sequence[tuple[Tensor, Tensor]]) -> bool:
        return all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))

    first = list(batches.epoch(0))
    assert same(first, list(batches.epoch(0)))
    assert not same(first, list(batches.epoch(1)))
    assert any(bool(((targets > 0) & (targets < 1)).any()) for _, targets in first)


def test_the_preview_shows_what_was_mixed(tmp_path: Path):
    batches = opened(tmp_path, photos.folder(tmp_path / "data"), **ALL).image_batches()
    met, _ = next(batches.epoch(0))
    shown = augmented(batches)
    assert np.abs(shown - met[: len(shown)].permute(0, 2, 3, 1).numpy()).max() <= 0.5


def test_a_training_with_all_of_them_learns_from_weighted_classes(tmp_path: Path):
    data = photos.folder(tmp_path / "data")
    told = ALL | {"balance": "weights", "train_crop": "googlenet"}
    assignment = photos.assignment(tmp_path, data, **told)
    bundle, _ = train(assignment, lambda event: None)
    assert '"mixup":0.4' in bundle.provenance["settings"]
    assert np.isfinite(bundle.metrics["log_loss"])


def test_mixed_multi_label_training_is_repeated_bit_for_bit(tmp_path: Path):
    photos.folder(tmp_path / "images", per_class=8)
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name}{' even' if index % 2 else ''}"
        for index, path in enumerate(sorted((tmp_path / "images").rglob("*.*")))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    weights = []
    for _ in range(2):
        bench = opened(tmp_path, tmp_path / "labels.csv", **ALL)
        learn(bench, "weights", tmp_path / "cache")
        weights.append(bench.network.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
