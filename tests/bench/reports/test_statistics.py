"""Statistics over seeds: against scipy and enumeration, and in simulation at the rates they claim."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from bench.reports import statistics
from bench.reports.findings import METHOD
from bench.reports.statistics import (
    Summary,
    compare_rows,
    detectable,
    rank_correlation,
    summary,
)


def by_seed(*rows):
    return [dict(enumerate(row)) for row in rows]


def tables(count, rows, seeds, means=0.0, random=0):
    """Scores (count, rows, seeds) of residual deviation 1, with a large effect of the seed on all rows."""
    rng = np.random.default_rng(random)
    noise = rng.normal(size=(count, rows, seeds)) + 10 * rng.normal(size=(count, 1, seeds))
    return np.reshape(means, (-1, 1)) + noise


def test_summary_leaves_out_what_is_no_number():
    assert summary([1.0, float("nan"), 3.0]) == Summary(2.0, pytest.approx(2**0.5))
    assert summary([]) is None and summary([5.0]) == Summary(5.0, None)


# ---- rows against each other ----


def test_of_two_rows_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    for shift in np.linspace(0, 4, 20):
        a = rng.normal(0, 1, 3)
        b = 0.8 * a + rng.normal(shift, 0.5, 3)
        found = compare_rows(by_seed(a, b))
        assert found.pairs == {(0, 1): stats.ttest_rel(a, b).pvalue < 0.05}
        interval = stats.ttest_rel(a, b).confidence_interval()
        assert found.critical == pytest.approx((interval.high - interval.low) / 2)


def test_without_a_seeds_effect_it_is_scipys_tukey_but_for_the_degrees_of_freedom():
    """Scipy's reading of a table knows no seeds. Residuals that sum to 0 over rows are the same in both."""
    rng = np.random.default_rng(1)
    residuals = rng.normal(size=(5, 4))
    residuals -= residuals.mean(axis=0)
    table = np.array([[0.0], [0.5], [1.0], [2.0], [4.0]]) + residuals
    found = compare_rows(by_seed(*table))
    assert found.seeds == (0, 1, 2, 3) and found.left_out == []
    within = np.sqrt(((table - table.mean(axis=1, keepdims=True)) ** 2).sum() / 15)
    assert found.deviation == pytest.approx(within * math.sqrt(15 / 12))
    scipys = stats.tukey_hsd(*table).confidence_interval()
    ratio = found.critical / ((scipys.high[0, 1] - scipys.low[0, 1]) / 2)
    points = [stats.studentized_range.ppf(0.95, 5, degrees) for degrees in (12, 15)]
    assert ratio == pytest.approx(math.sqrt(15 / 12) * points[0] / points[1], rel=1e-6)
    for (i, j), apart in found.pairs.items():
        assert apart == (abs(table[i].mean() - table[j].mean()) > found.critical)


def test_it_is_tukeys_test_on_the_residuals_of_rows_and_seeds_as_pages_say():
    """The residuals are those of a least-squares fit of row and seed, the degrees what the fit leaves."""
    rows, seeds = 5, 4
    (table,) = tables(1, rows, seeds, np.arange(rows))
    row, seed = np.indices(table.shape).reshape(2, -1)
    design = np.hstack([np.eye(rows)[row], np.eye(seeds)[seed]])
    effects, _, rank, _ = np.linalg.lstsq(design, table.ravel())
    degrees = table.size - rank
    variance = ((table.ravel() - design @ effects) ** 2).sum() / degrees
    found = compare_rows(by_seed(*table))
    assert found.deviation == pytest.approx(math.sqrt(variance))
    point = stats.studentized_range.ppf(0.95, rows, degrees)
    assert found.critical == pytest.approx(point * math.sqrt(variance / seeds), rel=1e-6)
    assert degrees == (rows - 1) * (seeds - 1)
    assert "row + seed + residual" in METHOD and "(rows − 1)·(seeds − 1) degrees of freedom" in METHOD


@pytest.mark.parametrize(("rows", "degrees"), [(2, 1), (2, 60), (3, 2), (7, 12), (14, 26), (30, 58)])
def test_the_studentized_range_is_scipys(rows, degrees):
    found = statistics._studentized_range(rows, degrees)
    assert found == pytest.approx(stats.studentized_range.ppf(0.95, rows, degrees), rel=1e-8)


def test_ranks_are_scipys():
    values = np.random.default_rng(3).integers(5, size=(40, 7))
    assert np.array_equal(statistics.ranked(values), stats.rankdata(values, axis=1))


@pytest.mark.parametrize("rows", [3, 7, 10])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_equal_rows_5_tables_of_100_show_a_pair(rows, seeds):
    count = 1500
    wrong = [any(compare_rows(by_seed(*table)).pairs.values()) for table in tables(count, rows, seeds)]
    assert sum(wrong) / count == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / count))


@pytest.mark.parametrize(("rows", "seeds", "power"), [(2, 2, 0.8), (3, 2, 0.8), (7, 3, 0.8), (10, 5, 0.5)])
def test_the_detectable_difference_is_found_as_often_as_it_says(rows, seeds, power):
    count = 1000
    means = np.zeros(rows)
    means[1] = detectable(1.0, rows, seeds, power)
    told = [compare_rows(by_seed(*table)).pairs[0, 1] for table in tables(count, rows, seeds, means)]
    assert sum(told) / count == pytest.approx(power, abs=3 * math.sqrt(power * (1 - power) / count))
    assert detectable(3.0, rows, seeds, power) == pytest.approx(3 * means[1])


def test_nothing_is_detectable_with_one_seed_or_row():
    assert detectable(1.0, 7, 1) == detectable(1.0, 1, 3) == math.inf


def test_the_residual_deviation_knows_nothing_of_rows_and_seeds():
    means = np.array([0.0, 50.0, -3.0, 8.0, 8.0])
    found = [compare_rows(by_seed(*table)).deviation ** 2 for table in tables(1000, 5, 3, means)]
    assert np.mean(found) == pytest.approx(1, abs=3 * math.sqrt(2 / 8 / 1000))
    alone = compare_rows(by_seed([1.0], [2.0]))
    assert math.isnan(alone.deviation) and not alone.pairs


def test_a_row_that_spreads_further_than_the_others_is_named():
    """By Cochran's test, whose tabled 5% point for 7 variances of 3 values is 0.5612 (Eisenhart 1947)."""
    assert statistics._largest_share(7, 3) == pytest.approx(0.5612, abs=5e-5)
    count = 1000
    scale = np.array([1, 1, 1, 1, 1, 1, 15.0])[:, None]
    noise = np.random.default_rng(2).normal(size=(count, 7, 3))
    even = [compare_rows(by_seed(*table)).outlier for table in noise]
    uneven = [compare_rows([{}, *by_seed(*table)]).outlier for table in noise * scale]
    assert sum(row is not None for row in even) < 0.05 * count
    assert uneven.count(7) > 0.9 * count


def test_the_best_are_the_lowest_row_and_those_not_significantly_worse_by_mean():
    noise = np.array([[1, -1, 0], [-1, 1, 0], [0, 1, -1], [0, -1, 1]]) * 1.0
    width = compare_rows(by_seed(*noise)).critical
    means = np.array([1.8, 0.0, 0.9, 4.0]) * width  # 1 ~ 2, 2 ~ 0, and 3 by itself
    found = compare_rows(by_seed(*(means[:, None] + noise)))
    assert found.critical == pytest.approx(width)
    assert found.best == [1, 2]
    assert [pair for pair, apart in found.pairs.items() if not apart] == [(0, 2), (1, 2)]
    assert compare_rows(by_seed(*(means[:, None] / 10 + noise))).best == [1, 2, 0, 3]


def test_rows_without_the_others_seeds_are_left_out():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(4, 3))
    whole = compare_rows(by_seed(*table))
    lacking = [{0: 1.0}, *by_seed(*table), {}, {7: 1.0, 8: 2.0}, {1: math.nan, 2: 5.0}]
    found = compare_rows(lacking)
    assert found.left_out == [0, 5, 6, 7] and found.seeds == (0, 1, 2)
    assert found.pairs == {(i + 1, j + 1): apart for (i, j), apart in whole.pairs.items()}
    assert found.deviation == whole.deviation and found.critical == whole.critical
    assert found.means[1:5] == whole.means and found.means[0] == 1.0 and math.isnan(found.means[5])
    assert found.best == [row + 1 for row in whole.best] and found.compared == [1, 2, 3, 4]
    # A row with two of three seeds costs all rows the third.
    found = compare_rows([*by_seed(*table), {0: 1.0, 2: 2.0}])
    assert found.seeds == (0, 2) and found.left_out == []
    assert found.means[:4] == pytest.approx(table[:, [0, 2]].mean(axis=1))


def test_of_one_seed_nothing_is_told_apart():
    found = compare_rows(by_seed([1.0], [2.0], [3.0]))
    assert found.pairs == {} and found.best == found.compared == [] and found.left_out == [0, 1, 2]
    assert found.critical == math.inf and math.isnan(found.deviation) and found.means == [1.0, 2.0, 3.0]
    assert compare_rows([]).pairs == {}


# ---- the order of rows ----


def test_spearman_is_scipys():
    rng = np.random.default_rng(3)
    for _ in range(20):
        means, others = rng.integers(0, 6, 7), rng.integers(0, 6, 7)  # with ties
        found = rank_correlation(by_seed(*([float(m)] for m in means)), others)
        assert found.rho == pytest.approx(stats.spearmanr(means, others).statistic)


def test_chance_counts_all_orders():
    means, others = [3.0, 1.0, 4.0, 2.0, 9.0], [3.0, 2.0, 4.0, 1.0, 8.0]
    found = rank_correlation(by_seed(*([m] for m in means)), others)
    rho = [stats.spearmanr(order, others).statistic for order in permutations(means)]
    assert found.chance == pytest.approx(np.mean(np.array(rho) >= found.rho - 1e-9))
    assert found.least == pytest.approx(1 / 120) and found.interval is None


def test_no_rank_correlation_of_two_rows():
    assert rank_correlation(by_seed([1.0, 2.0], [1.0, 2.0]), [1.0, 2.0]) is None
    assert rank_correlation(by_seed(*[[1.0, 2.0]] * 3), [1.0, 2.0, 3.0]) is None
    assert rank_correlation([*by_seed([1.0, 2.0], [2.0, 2.0]), {}], [1.0, 2.0, 3.0]) is None


def test_what_a_seed_does_to_all_rows_alike_moves_no_rank():
    others = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = rank_correlation(by_seed(*([v, v + 30.0, v - 20.0] for v in others)), others)
    assert found.interval == (1.0, 1.0)


def test_the_interval_is_that_of_all_orders_that_keep_the_pairs_told_apart():
    for random, (table,) in enumerate(tables(1, 6, 3, np.arange(6) * 1.5, random) for random in range(8)):
        rng = np.random.default_rng(random)
        others = rng.permutation(6) if random % 2 else rng.integers(0, 4, 6)  # with ties
        pairs = compare_rows(by_seed(*table)).pairs
        assert 0 < sum(pairs.values()) < 15
        means = table.mean(axis=1)
        rho = [
            stats.spearmanr(order, others).statistic
            for order in permutations(range(6))
            if all((order[i] < order[j]) == (means[i] < means[j]) for (i, j), apart in pairs.items() if apart)
        ]
        found = rank_correlation(by_seed(*table), others)
        assert found.interval == pytest.approx((min(rho), max(rho)))
        assert found == rank_correlation(by_seed(*table), others)


def test_of_many_rows_the_interval_is_no_narrower(monkeypatch):
    (table,) = tables(1, 8, 3, np.arange(8) * 2)
    others = np.random.default_rng(0).permutation(8)
    exact = rank_correlation(by_seed(*table), others).interval
    monkeypatch.setattr(statistics, "MOST_ROWS", 7)
    bound = rank_correlation(by_seed(*table), others).interval
    assert -1 < bound[0] <= exact[0] < exact[1] <= bound[1] < 1
    (table,) = tables(1, 30, 3, np.arange(30) * 10)
    assert rank_correlation(by_seed(*table), range(30)).interval == (pytest.approx(1), pytest.approx(1))


def test_a_row_without_common_seeds_may_stand_anywhere():
    rows = by_seed(*([v, v + 1e-3, v - 1e-3] for v in (1.0, 2.0, 3.0)))
    found = rank_correlation([*rows, {5: 4.0}], [1.0, 2.0, 3.0, 4.0])
    assert found.rho == pytest.approx(1) and found.rows == 4
    assert found.interval == pytest.approx((stats.spearmanr([2, 3, 4, 1], [1, 2, 3, 4]).statistic, 1))


@pytest.mark.parametrize("rows", [3, 7, 10])
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("gap", [0.1, 0.3, 0.5, 1, 2, 5])
def test_the_interval_holds_the_true_rank_correlation(rows, seeds, gap):
    """In 95 tables of 100 at least, whatever it is; and where rows are far apart it is short."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(rows) for _ in range(100)]
    correlations = np.array([stats.spearmanr(order, range(rows)).statistic for order in orders])
    held, widths = [], []
    for target in (1, 0.5, 0, -0.5):
        nearest = np.argmin(abs(correlations - target))
        order, true = (np.arange(rows), 1) if target == 1 else (orders[nearest], correlations[nearest])
        for table in tables(25, rows, seeds, gap * order):
            low, high = rank_correlation(by_seed(*table), range(rows)).interval
            held.append(low - 1e-9 <= true <= high + 1e-9)
            widths.append(high - low)
    assert np.mean(held) >= 0.95
    if gap == 5 and rows > 3:
        assert np.mean(widths) < 0.15
