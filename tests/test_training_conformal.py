"""Sets of labels that hold the true one as often as was promised."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import binom

from registry.images import Float32Array
from training.evaluation.conformal import (
    ALPHAS,
    CROSS_LEAST,
    SCORES,
    Method,
    Quantile,
    cross_fit_sets,
    fit_quantiles,
    label_sets,
    least_confidence,
    least_probabilities,
    measure_abstention,
    measure_sets,
    quantile,
)

CLASSES = 6


def answered(n: int, seed: int, trust: float = 1.0) -> tuple[Float32Array, Float32Array]:
    """Probabilities, and what is true: drawn from them, or from them to the power of `trust`."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, CLASSES)) * random.uniform(0.5, 5, (n, 1))  # hard and easy
    says, is_true = (np.exp(logits * share) for share in (1, trust))
    edges = (is_true / is_true.sum(axis=1, keepdims=True)).cumsum(axis=1)
    truth = (random.random((n, 1)) > edges).sum(axis=1).clip(0, CLASSES - 1)
    shares = says / says.sum(axis=1, keepdims=True)
    return shares.astype(np.float32), np.eye(CLASSES, dtype=np.float32)[truth]


def coverages(n: int, repeats: int, trust: float) -> Iterator[tuple[Method, float, int, int]]:
    """Method, alpha, how many held-out images were covered, and of how many."""
    for repeat in range(repeats):
        fitted = fit_quantiles(*answered(n, 2 * repeat, trust), seed=repeat)
        figures = measure_sets(fitted, *answered(500, 2 * repeat + 1, trust), seed=repeat)
        for each in figures:
            yield each.method, each.alpha, round(500 * each.coverage), 500


@pytest.mark.parametrize("trust", [1.0, 0.4], ids=["honest", "far too sure"])
def test_coverage_is_what_was_promised_whatever_the_network_is_worth(trust: float):
    covered = {(method, alpha): [0, 0] for method in SCORES for alpha in ALPHAS}
    for method, alpha, hits, images in coverages(n=199, repeats=100, trust=trust):
        covered[method, alpha][0] += hits
        covered[method, alpha][1] += images
    for (method, alpha), (hits, images) in covered.items():
        # of 100 fits to 199 images each, coverage is beta-distributed around its promise
        spread = np.sqrt(alpha * (1 - alpha) * (1 / images + 1 / (200 * 100)))
        assert 1 - alpha - 4 * spread <= hits / images <= 1 - alpha + 4 * spread, (method, alpha)


def test_with_many_images_coverage_is_within_binomial_bounds():
    fitted = fit_quantiles(*answered(20_000, 0), seed=0)
    for each in measure_sets(fitted, *answered(2000, 1), seed=0):
        low, high = binom.interval(0.9999, 2000, 1 - each.alpha)
        assert low - 10 <= 2000 * each.coverage <= high + 10


def test_a_better_network_has_smaller_sets():
    random = np.random.default_rng(0)
    truth = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, 2000)]
    sizes = []
    for strength in (1, 3):
        logits = random.normal(size=truth.shape) + strength * truth
        shares = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
        fitted = fit_quantiles(shares[:1000], truth[:1000], seed=0)
        figures = measure_sets(fitted, shares[1000:], truth[1000:], seed=0)
        sizes.append([each.mean_size for each in figures])
    assert all(better < worse for worse, better in zip(*sizes, strict=True))


@pytest.mark.parametrize(
    ("n", "alpha", "place"),
    [
        (19, 0.05, 19),
        (18, 0.05, None),
        (9, 0.1, 9),
        (8, 0.1, None),
        (199, 0.1, 180),
        (0, 0.1, None),
    ],
)
def test_the_quantile_is_that_of_one_more_image(n: int, alpha: float, place: int | None):
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert quantile(scores, alpha) == place


def test_with_too_few_images_a_set_has_every_label():
    few = Quantile("lac", 0.05, None)
    said, truth = answered(50, 0)
    assert label_sets(few, said, seed=0).all()
    assert measure_sets([few], said, truth, seed=0)[0].mean_size == CLASSES
    assert least_probabilities([few]) == {"0.05": 0.0}


def test_a_client_finds_the_set_with_the_least_probability():
    said, truth = answered(300, 0)
    fitted = fit_quantiles(said, truth, seed=0)
    least = least_probabilities(fitted)
    assert set(least) == {"0.1", "0.05"}
    for each in fitted[: len(ALPHAS)]:
        np.testing.assert_array_equal(
            said.astype(np.float64) >= least[f"{each.alpha:g}"] - 1e-12, label_sets(each, said, 0)
        )


def test_scores_are_those_of_the_papers():
    said, half = np.array([[0.2, 0.7, 0.1]]), np.array([[0.5]])
    np.testing.assert_allclose(SCORES["lac"](said, half), [[0.8, 0.3, 0.9]])
    np.testing.assert_allclose(SCORES["aps"](said, half), [[0.8, 0.35, 0.95]])
    np.testing.assert_allclose(SCORES["raps"](said, half), [[0.9, 0.35, 1.15]])


def test_figures_are_of_each_class_and_none_where_a_class_has_no_image():
    said = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.5, 0.5, 0], [0.8, 0.2, 0]], np.float32)
    truth = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]]
    (figures,) = measure_sets([Quantile("lac", 0.1, 0.45)], said, truth, seed=0)
    assert figures.coverage_of_class == (1.0, 0.0, None)
    assert (figures.coverage, figures.mean_size, figures.empty) == (0.5, 0.75, 0.25)
    assert figures.single == 0.75


@pytest.mark.parametrize("trust", [1.0, 0.4], ids=["honest", "far too sure"])
def test_cross_fitted_sets_cover_what_was_promised(trust: float):
    hits = dict.fromkeys(SCORES, 0.0)
    for repeat in range(60):
        for each in cross_fit_sets(*answered(400, repeat, trust), seed=repeat):
            assert each.images == 400
            low, high = each.coverage_interval
            assert low < each.coverage < high
            hits[each.method] += (each.coverage - (1 - each.alpha)) / 60 / len(ALPHAS)
    assert all(-0.004 < excess < 0.012 for excess in hits.values()), hits


def test_no_image_is_measured_with_a_quantile_of_its_own():
    """Noise that looks certain: with quantiles of the same images, coverage would be above what is
    promised in every draw; of one half and another, it is on either side of it."""
    figures = [cross_fit_sets(*answered(100, seed, 0.0), seed=seed)[0] for seed in range(40)]
    below = sum(each.coverage < 0.9 for each in figures)
    assert 5 < below < 35


def test_cross_fitting_draws_by_itself_and_the_same_for_a_seed():
    said, truth = answered(200, 3)
    before = np.random.get_state()[1].tolist()
    assert cross_fit_sets(said, truth, seed=1) == cross_fit_sets(said, truth, seed=1)
    assert np.random.get_state()[1].tolist() == before


def test_too_few_images_are_not_cross_fitted():
    said, truth = answered(CROSS_LEAST, 0)
    assert cross_fit_sets(said[:-1], truth[:-1], seed=0) == ()
    assert cross_fit_sets(said, truth, seed=0)[0].score is not None


def test_answers_given_alone_are_right_as_often_as_wanted():
    least = least_confidence(*answered(5000, 0))
    alone = measure_abstention(least, *answered(5000, 1))
    assert alone.right is not None
    assert alone.right > 0.93
    assert 0.1 < alone.answered < 0.9
    said, truth = answered(5000, 1)
    assert (said.argmax(1) == truth.argmax(1)).mean() < 0.85


def test_answers_of_equal_probability_are_given_alone_all_or_none():
    """Certain ones, for example: float32 has many that are exactly 1."""
    said = np.tile(np.array([[1, 0]], dtype=np.float32), (100, 1))
    truth = np.eye(2, dtype=np.float32)[[0] * 90 + [1] * 10]
    assert least_confidence(said, truth) is None
    assert least_confidence(said[:90], truth[:90]) == 1


def test_nothing_is_answered_alone_where_even_the_surest_are_wrong():
    said = np.tile(np.array([[0.9, 0.1]], dtype=np.float32), (100, 1))
    truth = np.eye(2, dtype=np.float32)[np.arange(100) % 2]
    assert least_confidence(said, truth) is None
    alone = measure_abstention(None, said, truth)
    assert (alone.answered, alone.right) == (0, None)
