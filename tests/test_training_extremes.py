"""Data sets at the edges: each trains, or says precisely why not."""

import struct
import zlib
from pathlib import Path

import numpy as np
import photos
import pytest
from PIL import Image

from registry.bundle import Bundle
from registry.errors import DataError
from training.data.dataset import read_dataset
from training.recipe import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

HEAD_ALONE = {"cycles": "0", "augmented_epochs": "0", "tta_views": "1"}
ALL_LAYERS = {"cycles": "1", "cycle_len": "1", "augmented_epochs": "1", "freeze_batchnorm": "false"}

ADAMW = {"optimizer": "adamw", "learning_rate": "0.001", "unfrozen_learning_rate": "0.0005"}

each_optimizer = pytest.mark.parametrize("steps", [{}, ADAMW], ids=["sgd", "adamw"])


def trained(tmp_path: Path, data: Path, **settings: str) -> tuple[Bundle, photos.Heard]:
    heard = photos.Heard()
    assignment = photos.assignment(tmp_path, data, **(HEAD_ALONE | settings))
    return train(assignment, heard.append)[0], heard


def colours(root: Path, n_classes: int, per_class: int, size: int = 16) -> Path:
    """`root` has folders c000, c001, …, each of noisy pictures of its own colour."""
    random = np.random.default_rng(0)
    for number in range(n_classes):
        folder = root / f"c{number:03d}"
        folder.mkdir(parents=True)
        colour = random.integers(30, 220, 3)
        for index in range(per_class):
            pixels = (colour + random.normal(0, 8, (size, size, 3))).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return root


@each_optimizer
def test_seven_images_of_each_class_and_a_class_of_one_train_and_it_is_reported(
    tmp_path: Path, steps: dict[str, str]
):
    data = photos.folder(tmp_path / "data", per_class=7)
    photos.photo(data / "rare" / "only.png", 120, seed=0)
    bundle, heard = trained(tmp_path, data, **ALL_LAYERS, **steps)
    assert "all layers" in str(heard.of("epoch_finished"))
    assert bundle.labels == ("dark", "light", "rare")
    assert bundle.metrics["images_train"] + bundle.metrics["images_valid"] == 15
    assert bundle.metrics["images_valid"] >= 2
    assert "'rare' has no held-out images, so the scores ignore them" in str(heard)


def test_120_classes_of_three_images_train_and_each_is_held_out_and_learnt(tmp_path: Path):
    data = colours(tmp_path / "data", n_classes=120, per_class=3)
    bundle, _ = trained(tmp_path, data, size="16", head_epochs="1")
    assert len(bundle.labels) == 120
    assert bundle.metrics["images_valid"] >= 120


@each_optimizer
def test_pictures_of_two_pixels_train(tmp_path: Path, steps: dict[str, str]):
    data = tmp_path / "data"
    for number in range(20):
        name, level = (("dark", 10), ("light", 200))[number % 2]
        path = data / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 1), level + number).save(path)
    bundle, heard = trained(tmp_path, data, **ALL_LAYERS, **steps)
    assert "all layers" in str(heard.of("epoch_finished"))
    assert bundle.metrics["accuracy"] >= 0.5


def test_10_000_files_train(tmp_path: Path):
    data = colours(tmp_path / "data", n_classes=10, per_class=1000, size=8)
    told = {"size": "16", "batch_size": "256", "head_epochs": "1", "valid_fraction": "0.2"}
    bundle, _ = trained(tmp_path, data, **told, label_noise="false")
    assert 1_850 < bundle.metrics["images_valid"] < 2_150
    assert bundle.metrics["images_train"] + bundle.metrics["images_valid"] == 10_000


def test_a_picture_of_200_megapixels_is_refused_with_its_size(tmp_path: Path):
    data = photos.folder(tmp_path / "data", per_class=6)
    (data / "dark" / "gigantic.png").write_bytes(png_of_zeros(20_000, 10_000))
    with pytest.raises(DataError) as caught:
        read_dataset(data)
    message = str(caught.value)
    assert "the limit is 100000000: 200000000 pixels; use a smaller image" in message
    assert "allow it with --set max_unreadable=1" in message
    assert len(read_dataset(data, max_unreadable=1).items) == 12


def png_of_zeros(width: int, height: int) -> bytes:
    """A valid PNG of one bit a pixel, made without its pixels in memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    packer = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join([packer.compress(row) for _ in range(height)]) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
