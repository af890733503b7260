"""Classes of unequal size, made to count the same; held-out images are never weighted."""

import json
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from benches import opened

from training import pretrained, read_images
from training.fit.activations import Activations, compute
from training.fit.balance import class_weights, draw_shares
from training.fit.batches import ActivationBatches
from training.fit.loss import loss_function
from training.fit.passes import validate_head
from training.recipe import train

RARE = np.eye(2, dtype=np.float32)[[0] * 90 + [1] * 10]  # ninety of one class, ten of another


def test_weights_make_both_classes_count_the_same():
    weights = class_weights(RARE, "single")
    np.testing.assert_allclose(weights * RARE.sum(axis=0), [50, 50])


def test_a_weighted_loss_of_equally_wrong_answers_is_the_plain_one():
    targets, logits = torch.from_numpy(RARE), torch.zeros(100, 2)
    weighted = loss_function("single", torch.from_numpy(class_weights(RARE, "single")))
    torch.testing.assert_close(weighted(logits, targets), loss_function("single")(logits, targets))


def test_multi_label_weights_are_absent_by_present():
    np.testing.assert_allclose(class_weights(RARE, "multi"), [10 / 90, 90 / 10])


def test_balanced_batches_have_as_many_of_each_class_and_repeat():
    features = Activations(torch.zeros(100, 1), "key")
    targets = torch.from_numpy(RARE)
    batches = ActivationBatches(features, targets, 10, seed=1, shares=draw_shares(RARE))
    drawn = torch.cat([labels for number in range(20) for _, labels in batches.epoch(number)])
    assert len(drawn) == 2000
    assert 900 < drawn[:, 1].sum() < 1100
    first, again = ([labels for _, labels in batches.epoch(3)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("n_images", "sizes"), [(17, [8, 9]), (16, [8, 8]), (18, [8, 8, 2]), (9, [9]), (5, [5])]
)
def test_an_image_left_over_joins_the_last_batch_and_is_never_alone(
    n_images: int, sizes: list[int]
):
    """Batch normalisation cannot learn from one."""
    features = Activations(torch.zeros(n_images, 1), "key")
    batches = ActivationBatches(features, torch.zeros(n_images, 2), 8, seed=0)
    assert [len(labels) for _, labels in batches.epoch(0)] == sizes
    assert len(batches) == len(sizes)


# all that is known of the first class is doubted
DOUBTED = RARE * np.array([0.1] * 90 + [1.9] * 10, dtype=np.float32)[:, None]


def test_weights_make_both_classes_count_the_same_by_what_their_images_count():
    weights = class_weights(DOUBTED, "single")
    mine, other = weights * DOUBTED.sum(axis=0)
    assert mine == pytest.approx(other)
    assert mine + other == pytest.approx(DOUBTED.sum())


def test_both_classes_are_drawn_to_count_the_same():
    weight_drawn = draw_shares(DOUBTED) @ DOUBTED
    assert weight_drawn[0] == pytest.approx(weight_drawn[1])


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_a_bench_balances_by_the_column_of_weights(tmp_path: Path, balance: str):
    lines = ["file,label,split,weight"]
    for number in range(12):
        photos.photo(tmp_path / f"{number}.jpg", 120, number)
        label, part = ("calm", "wild")[number % 3 == 0], ("train", "valid")[number >= 9]
        lines.append(f"{number}.jpg,{label},{part},{0.2 if label == 'calm' else 1}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    told = photos.AS_PYTHON | {"balance": balance}
    images = read_images(tmp_path / "labels.csv", photos.SIZE, settings=told, cache=tmp_path)
    bench = pretrained("test_efficientnet", images, run=tmp_path).bench
    loss, targets, shares = bench.training_loss(), bench.learning_targets(), bench.draw_shares()
    knowing_nothing = [float(loss(torch.zeros(1, 2), target[None])) for target in targets]
    drawn = np.ones(9) if shares is None else shares
    calm, wild = (drawn * knowing_nothing) @ (targets > 0).double().numpy()
    assert calm == pytest.approx(wild)


def test_held_out_images_are_not_weighted(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=30, classes={"dark": 60})
    photos.folder(data, per_class=6, classes={"light": 190})
    bench = opened(tmp_path, data, photos.QUICK | {"balance": "weights", "split": "stratified"})
    features = compute(bench.network, bench.decoded, bench.rows("valid"))
    loss, _ = validate_head(bench, features)
    with torch.no_grad():
        logits = bench.network.eval().head(features)
    plain, weighted = (
        of(logits, bench.targets("valid")) for of in (bench.loss(), bench.training_loss())
    )
    assert loss == pytest.approx(float(plain), abs=1e-6) != pytest.approx(float(weighted), abs=1e-3)
    assert isinstance(bench.loss(), torch.nn.CrossEntropyLoss)
    assert bench.loss().weight is None


def test_an_image_without_labels_is_drawn_too():
    shares = draw_shares(np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32))
    assert shares.min() > 0
    assert shares.sum() == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_a_balanced_training_finds_the_rare_class(tmp_path: Path, balance: str):
    data = photos.folder(tmp_path / "data", per_class=30, classes={"dark": 60})
    photos.folder(data, per_class=5, classes={"light": 190})
    settings = {"balance": balance, "cycles": "0", "augmented_epochs": "0", "head_epochs": "8"}
    assignment = photos.assignment(tmp_path, data, **settings, split="stratified")
    bundle, _ = train(assignment, lambda event: None)
    assert bundle.metrics["accuracy"] >= 0.8


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("weights", "said"), [((9, 1), "calm"), ((1, 9), "wild")])
def test_where_labels_contradict_each_other_the_heavier_images_are_believed(
    tmp_path: Path, weights: tuple[int, int], said: str
):
    """Half of all alike photographs say calm and half say wild."""
    lines = ["file,label,split,weight"]
    for number in range(40):
        photos.photo(tmp_path / f"{number}.jpg", 120, number)
        label, part = ("calm", "wild")[number % 2], ("train", "valid")[number >= 32]
        lines.append(f"{number}.jpg,{label},{part},{weights[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    settings = {"cycles": "0", "augmented_epochs": "0", "head_epochs": "8", "variants": ""}
    assignment = photos.assignment(tmp_path, tmp_path / "labels.csv", **settings)
    train(assignment, lambda event: None)
    report = json.loads((assignment.stage / "report" / "report.json").read_text())
    column = report["labels"].index(said)
    assert sum(row[column] for row in report["confusion"]) >= 7  # of 8
