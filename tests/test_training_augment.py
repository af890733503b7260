"""Augmentation: which changes are reachable, and that a seed repeats them."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from training.data import augment as augmenting
from training.data.augment import augment
from training.settings import Augmentation, TrainCrop

SIZE = 8


def views(
    kind: Augmentation,
    image: Tensor,
    n: int = 200,
    *,
    zoom: float = 1.0,
    rotate: float = 0.0,
    crop: TrainCrop = "window",
) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    batch = image.expand(n, *image.shape)
    return augment(
        batch, SIZE, kind, max_zoom=zoom, max_rotate=rotate, crop=crop, generator=generator
    )


def arrow() -> Tensor:
    """A picture that each symmetry changes in its own way."""
    image = torch.full((3, SIZE, SIZE), 128.0)
    image[:, 0, :3] = 40.0
    image[:, 1, 0] = 200.0
    return image


def symmetries(kind: Augmentation, n: int = 400) -> Counter[tuple[bool, int]]:
    """How often each (mirrored, quarter turns) is met."""
    found: Counter[tuple[bool, int]] = Counter()
    original = arrow()
    for view in views(kind, original, n):
        for mirrored in (False, True):
            for turns in range(4):
                turned = torch.rot90(original.flip(2) if mirrored else original, turns, (1, 2))
                # what is left is the change of light
                found[mirrored, turns] += (
                    np.corrcoef(turned.flatten(), view.flatten())[0, 1] > 0.999
                )
    return +found


@pytest.fixture
def unlit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Light is left as it is, so that places alone are seen."""
    monkeypatch.setattr(augmenting, "LIGHTING", 0.0)


@pytest.mark.parametrize(
    ("kind", "reachable"),
    [
        ("basic", {(False, 0)}),
        ("side_on", {(False, 0), (True, 0)}),
        ("flips", {(False, 0), (True, 0), (False, 2), (True, 2)}),
        ("top_down", {(mirrored, turns) for mirrored in (False, True) for turns in range(4)}),
    ],
)
def test_each_kind_reaches_its_symmetries_and_no_others(
    kind: Augmentation, reachable: set[tuple[bool, int]]
):
    """Each as often as the others: mirrored is every second view, as in 2018."""
    found, n = symmetries(kind), 400
    assert set(found) == reachable
    share = 1 / len(reachable)
    assert all(
        abs(count / n - share) <= 4 * (share * (1 - share) / n) ** 0.5 for count in found.values()
    )


def test_none_only_resizes():
    image = arrow()
    assert torch.allclose(views("none", image)[0], image, atol=1e-3)


@pytest.mark.parametrize("finer", [2, 4])
def test_a_finer_picture_is_averaged_and_not_skipped_through(finer: int):
    """Every second column is white: a view that took single pixels would be striped."""
    stripes = torch.zeros(3, finer * SIZE, finer * SIZE)
    stripes[:, :, ::2] = 200
    seen = augment(
        stripes[None], SIZE, "none", max_zoom=1, max_rotate=0, generator=torch.Generator()
    )
    assert torch.allclose(seen, torch.full_like(seen, 100), atol=1e-3)


def test_light_changes_by_a_twentieth_at_most():
    grey = torch.full((3, SIZE, SIZE), 127.5)
    values = views("basic", grey).flatten()
    assert 127.5 - 0.05 * 255 - 0.1 <= values.min() < 125
    assert 130 < values.max() <= 127.5 + 0.05 * 255 + 0.1


def test_contrast_changes_by_a_twentieth_at_most():
    halves = torch.full((3, SIZE, SIZE), 100.0)
    halves[:, :, SIZE // 2 :] = 155
    pixels = views("basic", halves, n=400)
    contrasts = (pixels[:, 0, 0, -1] - pixels[:, 0, 0, 0]) / 55
    assert 0.95 <= contrasts.min() + 1e-5 < 0.953
    assert 1.047 < contrasts.max() - 1e-5 <= 1.05
    assert contrasts.mean().item() == pytest.approx(1, abs=0.005)


@pytest.mark.usefixtures("unlit")
def test_what_turns_into_view_is_reflected_at_the_border():
    """And neither black nor the border drawn out: a white frame around black comes back black."""
    plain, framed = torch.full((3, SIZE, SIZE), 200.0), torch.full((3, SIZE, SIZE), 255.0)
    framed[:, 1:-1, 1:-1] = 0
    assert views("basic", plain, rotate=45).min() > 199.9
    assert views("basic", framed, rotate=45)[:, :, 0, 0].min() < 200


def test_zoom_and_rotation_change_what_is_seen():
    ramp = torch.arange(SIZE * SIZE).reshape(1, SIZE, SIZE).expand(3, -1, -1).float()
    plain, moved = views("none", ramp), views("basic", ramp, zoom=1.5, rotate=10)
    assert (moved - plain).abs().mean() > 1


def test_three_in_four_views_are_turned_within_the_angle():
    """The slope of a ramp turns with it; light changes only how steep it is."""
    ramp = torch.arange(SIZE).expand(3, SIZE, SIZE).float() * 10 + 80
    middle = views("basic", ramp, n=400, rotate=10)[:, 0, 3:5, 3:5]
    across = (middle[:, :, 1] - middle[:, :, 0]).mean(1)
    down = (middle[:, 1] - middle[:, 0]).mean(1)
    angles = torch.rad2deg(torch.atan2(down, across))
    turned = angles[angles.abs() > 0.01]
    assert -10.1 < turned.min() < -9.5
    assert 9.5 < turned.max() < 10.1
    assert 4.5 < turned.abs().mean() < 5.5
    assert 0.68 < len(turned) / 400 < 0.82


@pytest.mark.usefixtures("unlit")
@pytest.mark.parametrize("most", [1.1, 1.5])
def test_three_in_four_views_are_zoomed_evenly_up_to_the_most(most: float):
    ramp = torch.arange(SIZE).expand(3, SIZE, SIZE).float() + 100
    middle = views("basic", ramp, n=400, zoom=most)[:, 0, 0, 3:5]
    zooms = 1 / (middle[:, 1] - middle[:, 0])  # of the ramp's steps
    zoomed = zooms[zooms > 1 + 1e-5]
    assert 1 - 1e-5 <= zooms.min() < most - 0.02 * (most - 1) < zooms.max() <= most + 1e-5
    assert zoomed.mean().item() == pytest.approx((1 + most) / 2, abs=0.04 * most)
    assert 0.68 < len(zoomed) / 400 < 0.82


@pytest.mark.usefixtures("unlit")
def test_a_zoom_of_one_is_none():
    image = arrow()
    assert torch.allclose(views("basic", image), image.expand(200, -1, -1, -1), atol=1e-3)


def test_googlenets_rectangles_have_their_areas_and_aspects():
    """What is left of a ramp's length, across and down, is the rectangle's width and height."""
    ramp = torch.arange(SIZE).expand(SIZE, SIZE).float()
    image = torch.stack([ramp, ramp.T, ramp * 0])
    pixels = views("none", image, n=2000, crop="googlenet")
    middle = slice(SIZE // 2 - 1, SIZE // 2 + 1)
    wide = pixels[:, 0, SIZE // 2, middle].diff().flatten()
    high = pixels[:, 1, middle, SIZE // 2].diff().flatten()
    areas, aspects = wide * high, wide / high
    assert 0.079 < areas.min() < 0.1
    assert 0.97 < areas.max() < 1.001
    assert 0.749 < aspects.min() < 0.77
    assert 1.3 < aspects.max() < 1.334
    assert (pixels >= 0).all()
    assert pixels.max() <= SIZE - 1


def test_googlenets_rectangles_are_within_the_image_and_reach_its_borders():
    ramp = torch.arange(SIZE).expand(3, SIZE, SIZE).float()
    pixels = views("none", ramp, n=2000, crop="googlenet")[:, 0, 0]
    steps = pixels[:, SIZE // 2] - pixels[:, SIZE // 2 - 1]
    centres = (pixels[:, SIZE // 2] + pixels[:, SIZE // 2 - 1]) / 2 + 0.5
    left, right = centres - steps * SIZE / 2, centres + steps * SIZE / 2
    assert left.min() > -1e-3
    assert right.max() < SIZE + 1e-3
    assert left.min() < 0.2
    assert right.max() > SIZE - 0.2


def test_the_same_generator_gives_the_same_views():
    assert torch.equal(
        views("top_down", arrow(), zoom=1.1, rotate=10),
        views("top_down", arrow(), zoom=1.1, rotate=10),
    )
