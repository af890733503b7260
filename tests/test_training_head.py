"""What comes after the backbone: pooling, and the layers of 2018."""

import pytest
import torch

from training.network.head import concat_pool, make_head


def test_pooling_is_the_maximum_beside_the_mean():
    features = torch.arange(16.0).reshape(1, 2, 2, 4)
    pooled = concat_pool(features, channel_axis=1)
    assert pooled.tolist() == [[7.0, 15.0, 3.5, 11.5]]
    assert torch.equal(pooled, concat_pool(features.permute(0, 2, 3, 1), channel_axis=3))


def test_the_head_is_that_of_2018():
    head = make_head(10, 3, (5,), (0.25, 0.5))
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert [len(list(make_head(10, 3, (), (0.5,)))), head[1].p, head[5].p] == [3, 0.25, 0.5]
    torch.manual_seed(0)
    wide = make_head(400, 3, (500,), (0.25, 0.5))[2]  # He et al. 2015: kaiming_normal
    assert wide.weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert not wide.bias.any()


def test_a_feature_that_hardly_ever_answers_does_not_drown_the_others():
    """A hundred images at next to nothing, then one at 1."""
    features = torch.full((100, 1), 1e-4)
    for epsilon, largest in ((1e-5, 316), (0.01, 10)):
        norm = make_head(1, 2, (), (0.0,), epsilon)[0]
        norm.momentum = None
        norm.train()(features)
        assert norm.eval()(torch.ones(1, 1)).item() == pytest.approx(largest, rel=0.01)
    assert make_head(4, 2, (3,), (0.0, 0.0), 0.01)[4].eps == 1e-5
