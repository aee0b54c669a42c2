"""Turns, and paired ratios with their intervals."""

import numpy as np
import pytest

from bench.speed.statistics import interleave, paired_ratio, sign_interval


def noise(kind, rng, rounds):
    """Seconds of two equal networks on one machine."""
    white = rng.normal(0, 0.03, (2, rounds))
    if kind == "spikes":
        return np.exp(white + (rng.random((2, rounds)) < 0.1) * rng.exponential(1.0, (2, rounds)))
    if kind == "drift":  # what is alike in neighbouring rounds is not alike for both
        alike = np.zeros((2, rounds))
        for i in range(1, rounds):
            alike[:, i] = 0.5 * alike[:, i - 1] + rng.normal(0, 0.03, 2)
        return np.exp(alike + np.linspace(0, 0.5, rounds) + white / 3)
    return np.exp(white)


@pytest.mark.parametrize(
    ("kind", "rounds"),
    # Few rounds cannot tell that neighbours are alike.
    [*((kind, n) for kind in ("white", "spikes") for n in (6, 13, 30, 60)), ("drift", 30), ("drift", 60)],
)
def test_equals_differ_from_one_by_less_than_the_interval(kind, rounds):
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        _, (low, high) = paired_ratio(*noise(kind, rng, rounds), turn=2)
        held += low <= 1 <= high
    assert held >= 0.92 * 200  # two standard errors below 19 of 20


@pytest.mark.slow
def test_the_interval_is_neither_too_narrow_nor_too_wide():
    rng, bounds = np.random.default_rng(0), []
    for _ in range(400):
        common = 0.1 * rng.normal(0, 1, 60).cumsum() + rng.normal(0, 0.2, 60)  # the machine's, for both alike
        _, interval = paired_ratio(*np.exp(common + rng.normal(0, 0.03, (2, 60))), turn=2)
        bounds.append(np.log(interval))
    low, high = np.transpose(bounds)

    def coverage(scale):
        middle, half = (low + high) / 2, scale * (high - low) / 2
        return np.mean(abs(middle) <= half)

    assert 0.9 <= coverage(1) <= 0.995
    assert coverage(0.4) < 0.9 and coverage(1.5) > 0.995  # so what is asserted above can fail


def test_the_ratio_is_paired_by_round():
    rng = np.random.default_rng(0)
    machine = np.exp(rng.normal(0, 1.0, 40))  # slow and fast rounds, for both alike
    ratio, (low, high) = paired_ratio(3 * machine, machine, turn=2)
    assert ratio == pytest.approx(3) and low == pytest.approx(3) and high == pytest.approx(3)


def test_the_place_in_a_round_cancels():
    place = np.array([1.0, 1.2] * 10)  # whoever goes second is slower
    ratio, interval = paired_ratio(place, place[::-1], turn=2)
    assert ratio == pytest.approx(1) and interval == pytest.approx((1, 1))


def test_an_interval_is_the_same_from_call_to_call_and_finds_a_difference():
    rng = np.random.default_rng(0)
    a, b = noise("white", rng, 30)
    assert paired_ratio(a, b, 2) == paired_ratio(a, b, 2)
    ratio, (low, high) = paired_ratio(1.2 * a, b, 2)
    assert 1.1 < low < ratio < high < 1.3


@pytest.mark.parametrize(("n", "k"), [(6, 1), (8, 1), (9, 2), (12, 3), (30, 10)])
def test_sign_interval_is_the_tables(n, k):
    assert sign_interval(np.arange(1.0, n + 1)) == (k, n + 1 - k)


def test_every_round_begins_one_further():
    calls, clock = [], iter(range(100))

    def turn(name):
        def call():
            calls.append(name)
            return next(clock)

        return call

    found = interleave([turn(name) for name in "abc"], 4)
    assert "".join(calls) == "abcbcacababc"
    assert found == [[0, 5, 7, 9], [1, 3, 8, 10], [2, 4, 6, 11]]
