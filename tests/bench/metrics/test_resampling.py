"""Intervals and FID∞ on Gaussian features, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics import resampling
from bench.metrics.evaluation import evaluate
from bench.metrics.resampling import fid_infinity
from bench.metrics.scores import Features
from bench.metrics.scores.inception_score import inception_score, interval
from bench.metrics.scores.kid import kid
from bench.metrics.statistics import Statistics, frechet_distance

WIDTH = 6
REFERENCE = Statistics(np.zeros(WIDTH), np.eye(WIDTH))


def draws(count: int, seed: int) -> np.ndarray:
    """Normal features of variance 1.44 about 0.1: at a distance of 6·(0.1² + 0.2²) from the reference."""
    return np.random.default_rng(seed).standard_normal((count, WIDTH)) * 1.2 + 0.1


def covered(intervals: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def test_intervals_of_fid_cover_its_expectation() -> None:
    found, intervals = [], []
    for seed in range(200):
        features = draws(300, seed)
        samples = Statistics.of(features)
        found.append(frechet_distance(samples, REFERENCE))
        intervals.append(resampling.frechet_interval(features, samples, REFERENCE, 20))
    assert 0.9 <= covered(intervals, float(np.mean(found))) <= 0.99
    # A width that says what the spread over draws is, neither wider nor narrower.
    width = np.mean([high - low for low, high in intervals]) / (2 * 2.093)  # Student's t, 19 degrees
    assert width == pytest.approx(np.std(found), rel=0.2)


def test_intervals_of_the_inception_score_cover_its_expectation() -> None:
    scores, intervals = [], []
    for seed in range(150):
        logits = np.random.default_rng(seed).standard_normal((400, 5)) * 2
        scores.append(inception_score(logits))
        intervals.append(interval(logits, 20))
    assert 0.9 <= covered(intervals, float(np.mean(scores))) <= 0.99


def test_no_interval_of_the_inception_score_goes_below_1() -> None:
    logits = np.random.default_rng(0).standard_normal((5001, 5)) * 2  # the last split is of one image
    low, high = interval(logits, 20)
    assert low == 1 < inception_score(logits) < high


def test_the_error_of_kid_is_its_spread_over_draws() -> None:
    reference = np.random.default_rng(999).standard_normal((200, WIDTH))
    runs = [kid(draws(200, seed), reference, 2, 200, 0) for seed in range(150)]
    found, errors = zip(*runs, strict=True)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.2)


def test_the_interval_of_a_share_is_wilsons() -> None:
    z = 1.959963984540054
    for hits, count in ((0, 50), (13, 50), (50, 50)):
        share = hits / count
        centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
        reach = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
        expected = (centre - reach, centre + reach)
        assert resampling.share_interval(share, count) == pytest.approx(expected, abs=1e-12)


def test_intervals_by_the_normal_and_students_quantiles() -> None:
    assert resampling.normal_interval(3, 2) == pytest.approx((3 - 3.919928, 3 + 3.919928), abs=1e-6)
    low, high = resampling.jackknife_interval(5, [4, 5, 6, 5, 5])  # a variance of 4/5 · 2, 4 degrees
    assert (5 - low, high - 5) == pytest.approx((2.776445 * 1.6**0.5,) * 2, abs=1e-5)


def test_leaving_out_a_group_is_scoring_the_rest() -> None:
    features = draws(400, 0)
    whole = Statistics.of(features)
    part = resampling._moments(features, np.arange(100, 200), whole.mean)
    rest = Statistics.of(np.delete(features, np.arange(100, 200), axis=0))
    found = whole.without(part)
    np.testing.assert_allclose(found.mean, rest.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, rest.covariance, rtol=1e-12, atol=1e-13)
    assert found.count == 300


def test_groups_are_of_equal_size_and_in_no_order() -> None:
    group = resampling.grouping(100, 20)
    assert np.bincount(group).tolist() == [5] * 20
    assert len(set(group[:20])) < 20


def test_fid_infinity_is_closer_to_the_truth_than_fid() -> None:
    truth = WIDTH * (0.1**2 + 0.2**2)
    plain, extrapolated = [], []
    for seed in range(30):
        features = draws(200, seed)
        plain.append(frechet_distance(Statistics.of(features), REFERENCE) - truth)
        extrapolated.append(fid_infinity(features, REFERENCE) - truth)
    assert abs(np.mean(extrapolated)) < 0.3 * abs(np.mean(plain))
    assert np.square(extrapolated).mean() < np.square(plain).mean()


def test_fid_infinity_takes_features_of_the_reference_and_a_seed() -> None:
    features, reference = draws(200, 1), draws(300, 2)
    first = fid_infinity(features, reference, seed=1)
    assert first == fid_infinity(features, Statistics.of(reference), seed=1)
    assert first != fid_infinity(features, reference, seed=2)


def test_evaluate_gives_an_interval_of_every_score() -> None:
    logits = np.random.default_rng(5).standard_normal((300, 7))
    samples = Features(draws(300, 1), draws(300, 2), logits)
    reference = Features(draws(200, 3), draws(200, 4))
    names = ["fid", "sfid", "inception_score", "precision", "recall", "kid"]
    found = evaluate(samples, reference, scores=[*names, "fid_infinity"], intervals=10)
    assert sorted(found.intervals) == sorted(names)
    for name in names:
        low, high = found.intervals[name]
        assert low < found.values[name] < high
    assert found.values["fid_infinity"] < found.values["fid"]


def test_given_statistics_have_no_interval() -> None:
    samples = Features(draws(100, 1), statistics=Statistics.of(draws(500, 2)))
    found = evaluate(samples, Features(draws(100, 3)), intervals=10)
    assert set(found.intervals) == {"precision", "recall"}
