"""Images are decoded and activations computed once, and again when what they rest on changes."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from conftest import wait_until

from registry.errors import DataError
from registry.images import ImageSpec, prepare
from training.data import cache_eviction
from training.data.cache_eviction import remove_oldest
from training.data.dataset import Dataset, read_dataset
from training.data.decoded import decode
from training.data.items import SplitRule
from training.fit import device
from training.fit.activations import Activations, compute, precompute
from training.network.backbone import load_backbone
from training.network.classifier import Network, build_network
from training.network.folding import folded

SPEC = ImageSpec(size=photos.SIZE)
CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent


class Counter:
    """Counts images that were worked on."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, n: int) -> None:
        self.n += n


@pytest.fixture(autouse=True)
def a_volume_with_free_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """However full the one below the temporary folder is."""
    monkeypatch.setattr(cache_eviction, "FREE_SHARE", 0)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    backbone = load_backbone("test_efficientnet", pretrained=False)
    return build_network(backbone, 2, size=photos.SIZE, hidden=(), dropout=(0.0,)).eval()


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return read_dataset(photos.folder(tmp_path / "data", per_class=6))


def features(
    network: Network,
    dataset: Dataset,
    cache: Path,
    *,
    spec: ImageSpec = SPEC,
    weights: str = "w",
) -> tuple[Activations, int]:
    """Activations of the training part, and how many images had to be computed."""
    decoded = decode(dataset.items, spec, cache, Counter())
    counter = Counter()
    rows = dataset.rows("train")
    return precompute(network, weights, decoded, rows, cache, counter), counter.n


def test_decoded_pixels_are_those_of_the_one_preparation(dataset: Dataset, tmp_path: Path):
    decoded = decode(dataset.items, SPEC, tmp_path, Counter())
    for row, item in enumerate(dataset.items):
        np.testing.assert_array_equal(decoded.pixels[row], prepare(item.path.read_bytes(), SPEC))


def test_images_are_decoded_once(dataset: Dataset, tmp_path: Path):
    first, second = Counter(), Counter()
    decode(dataset.items, SPEC, tmp_path, first)
    decode(dataset.items, SPEC, tmp_path, second)
    assert (first.n, second.n) == (12, 0)


def test_a_file_damaged_behind_its_header_is_named(dataset: Dataset, tmp_path: Path):
    path = dataset.items[0].path
    path.write_bytes(path.read_bytes()[:400])
    dataset = read_dataset(dataset.root)
    with pytest.raises(DataError, match=rf"{path.name}: truncated or damaged PNG"):
        decode(dataset.items, SPEC, tmp_path, Counter())
    assert not list(tmp_path.glob("*.u8"))


def test_a_full_disk_is_an_error_that_leaves_nothing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """And no signal, as where pixels are written into a file for which the disk is full."""

    def full(descriptor: int, offset: int, length: int) -> None:
        assert length == 12 * photos.SIZE * photos.SIZE * 3
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        decode(dataset.items, SPEC, tmp_path / "cache", Counter())
    assert not list((tmp_path / "cache").iterdir())


DECODER = """
import sys
from pathlib import Path

from registry.images import ImageSpec
from training.data.decoded import decode
from training.data.items import Item

image, cache = map(Path, sys.argv[1:])
decode([Item(image, ("dark",), "train", "0" * 64)], ImageSpec(size=32), cache, lambda n: None)
"""


def test_what_a_killed_training_left_goes_and_what_another_is_writing_stays(
    dataset: Dataset, tmp_path: Path
):
    cache, pipe = tmp_path / "cache", tmp_path / "pipe"
    os.mkfifo(pipe)  # an image that never comes to its end
    child = subprocess.Popen([sys.executable, "-c", DECODER, pipe, cache], cwd=ROOT)
    try:
        wait_until(lambda: list(cache.glob(".decoded-*")))
        decode(dataset.items, SPEC, cache, Counter())
        assert len(list(cache.iterdir())) == 2
    finally:
        child.kill()
        child.wait()
    decode(dataset.items[:6], SPEC, cache, Counter())
    assert len(list(cache.iterdir())) == 2
    assert len(list(cache.glob("decoded-*.u8"))) == 2


def pixel_file(dataset: Dataset, size: int, cache: Path) -> Path:
    decoded = decode(dataset.items, ImageSpec(size=size), cache, Counter())
    return cache / f"decoded-{decoded.key}.u8"


def test_what_was_used_longest_ago_goes_first(dataset: Dataset, tmp_path: Path):
    files = [pixel_file(dataset, size, tmp_path) for size in (16, 24, 32)]
    for day, file in enumerate(files):
        os.utime(file, (day, day))
    pixel_file(dataset, 16, tmp_path)
    assert remove_oldest(tmp_path, 1) == [12 * 24 * 24 * 3]
    assert [file.exists() for file in files] == [True, False, True]


def test_only_what_is_ours_and_not_in_use_goes(network: Network, dataset: Dataset, tmp_path: Path):
    cache = tmp_path / "cache"
    features(network, dataset, cache)
    used = decode(dataset.items, SPEC, cache, Counter())
    pixels = used.pixels.copy()
    (cache / "decoded-mine.u8").touch()
    (cache / "runs").mkdir()
    remove_oldest(cache, 1 << 60)
    left = {f"decoded-{used.key}.u8", "decoded-mine.u8", "runs"}
    assert {path.name for path in cache.iterdir()} == left
    np.testing.assert_array_equal(used.pixels, pixels)
    del used
    remove_oldest(cache, 1 << 60)
    assert {path.name for path in cache.iterdir()} == {"decoded-mine.u8", "runs"}


def test_pixels_and_activations_make_room_for_themselves_on_a_full_volume(
    network: Network, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old = pixel_file(dataset, 16, tmp_path)
    assert pixel_file(dataset, 24, tmp_path).exists()
    assert old.exists()
    monkeypatch.setattr(cache_eviction, "FREE_SHARE", 1)  # as if it were
    monkeypatch.setattr(cache_eviction, "MOST_FREE", 1 << 60)
    notes: list[str] = []
    decoded = decode(dataset.items, SPEC, tmp_path, Counter(), notes.append)
    rows = dataset.rows("train")
    for weights in ("some", "others"):
        precompute(network, weights, decoded, rows, tmp_path, note=notes.append)
    kept = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert sorted(name.partition("-")[0] for name in kept) == ["activations", "decoded"]
    assert f"decoded-{decoded.key}.u8" in kept
    assert ["least recently used cache files" in note for note in notes] == [True, True]


def test_what_a_killed_training_of_an_earlier_version_left_goes_after_a_day(
    dataset: Dataset, tmp_path: Path
):
    digest, day_s = "0" * 64, 86_400
    for age_days, process in ((0, 1), (2, 2)):
        for name in (f".decoded-{digest}.u8.{process}.tmp", f"activations-{digest}.{process}.tmp"):
            (tmp_path / name).touch()
            written = time.time() - age_days * day_s
            os.utime(tmp_path / name, (written, written))
    (tmp_path / "mine.2.tmp").touch()
    os.utime(tmp_path / "mine.2.tmp", (0, 0))
    pixel_file(dataset, 16, tmp_path)
    left = {f".decoded-{digest}.u8.1.tmp", f"activations-{digest}.1.tmp", "mine.2.tmp"}
    assert {path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"} == left


def test_another_user_may_read_what_is_kept(network: Network, dataset: Dataset, tmp_path: Path):
    cache = tmp_path / "cache"
    features(network, dataset, cache)
    (cache / "other").touch()
    assert len({path.stat().st_mode for path in cache.iterdir()}) == 1


def test_activations_are_computed_once(network: Network, dataset: Dataset, tmp_path: Path):
    first, n_first = features(network, dataset, tmp_path)
    again, n_again = features(network, dataset, tmp_path)
    assert (n_first, n_again) == (len(dataset.rows("train")), 0)
    assert torch.equal(first.features, again.features)


def test_cached_and_uncached_activations_give_the_same_logits(
    network: Network, dataset: Dataset, tmp_path: Path
):
    cached, _ = features(network, dataset, tmp_path)
    decoded = decode(dataset.items, SPEC, tmp_path, Counter())
    with folded(network.body, torch.zeros(2, 3, SPEC.size, SPEC.size)):  # as when the head learns
        fresh = compute(network, decoded, dataset.rows("train"))
    with torch.no_grad():
        assert torch.equal(network.head(cached.features), network.head(fresh))


def test_activations_are_those_of_the_backbone_as_it_is(
    network: Network, dataset: Dataset, tmp_path: Path
):
    """Normalisation is done to the weights, which rounds otherwise, and afterwards is no more."""
    network.precision = "float32"
    cached, _ = features(network, dataset, tmp_path)
    decoded = decode(dataset.items, SPEC, tmp_path, Counter())
    plain = compute(network, decoded, dataset.rows("train"))
    torch.testing.assert_close(cached.features, plain, rtol=1e-4, atol=1e-5)
    assert not any("forward" in vars(module) for module in network.body.modules())


def test_a_changed_image_invalidates(network: Network, dataset: Dataset, tmp_path: Path):
    features(network, dataset, tmp_path)
    photos.photo(dataset.items[0].path, 100, seed=99)
    changed = read_dataset(dataset.root)
    assert features(network, changed, tmp_path)[1] == len(changed.rows("train"))


def test_another_split_invalidates(network: Network, dataset: Dataset, tmp_path: Path):
    features(network, dataset, tmp_path)
    other = read_dataset(dataset.root, rule=SplitRule(seed=7))
    assert list(other.rows("train")) != list(dataset.rows("train"))
    assert features(network, other, tmp_path)[1] == len(other.rows("train"))


def test_another_size_invalidates(network: Network, dataset: Dataset, tmp_path: Path):
    features(network, dataset, tmp_path)
    assert features(network, dataset, tmp_path, spec=ImageSpec(size=40))[1] > 0


def test_another_preparation_invalidates(network: Network, dataset: Dataset, tmp_path: Path):
    features(network, dataset, tmp_path)
    squash = ImageSpec(size=photos.SIZE, crop="squash")
    assert features(network, dataset, tmp_path, spec=squash)[1] > 0


def test_other_backbone_weights_invalidate(network: Network, dataset: Dataset, tmp_path: Path):
    features(network, dataset, tmp_path)
    assert features(network, dataset, tmp_path, weights="other")[1] > 0


def test_the_same_weights_in_another_network_or_normalised_otherwise_invalidate(
    network: Network, dataset: Dataset, tmp_path: Path
):
    """Weights do not say how borders are padded, or what pixels are divided by."""
    features(network, dataset, tmp_path)
    network.name = "tf_test_efficientnet"
    assert features(network, dataset, tmp_path)[1] > 0
    network.std *= 2
    assert features(network, dataset, tmp_path)[1] > 0
    assert features(network, dataset, tmp_path)[1] == 0


def test_another_precision_invalidates(
    network: Network, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    features(network, dataset, tmp_path)
    fast = device.has_fast_bf16(CPU)
    monkeypatch.setattr(device, "has_fast_bf16", lambda _: not fast)
    assert features(network, dataset, tmp_path)[1] > 0


def test_a_cut_off_cache_of_pixels_heals_itself(dataset: Dataset, tmp_path: Path):
    first = decode(dataset.items, SPEC, tmp_path, Counter()).pixels.copy()
    (file,) = tmp_path.glob("decoded-*")
    file.write_bytes(file.read_bytes()[:-1])
    again = Counter()
    np.testing.assert_array_equal(decode(dataset.items, SPEC, tmp_path, again).pixels, first)
    assert again.n == len(dataset.items)


def test_a_damaged_cache_heals_itself(network: Network, dataset: Dataset, tmp_path: Path):
    first, _ = features(network, dataset, tmp_path)
    (file,) = tmp_path.glob("activations-*")
    file.write_bytes(file.read_bytes()[:50])
    healed, n = features(network, dataset, tmp_path)
    assert n > 0
    assert torch.equal(first.features, healed.features)
