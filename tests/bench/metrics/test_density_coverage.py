"""Density and coverage beside the paper's definition in plain NumPy, and that they appear where scores do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from bench.metrics import neighbours
from bench.metrics.evaluation import evaluate
from bench.metrics.scores import Features
from bench.metrics.scores.density_coverage import density_coverage
from bench.reports import differences, tables
from bench.studies import COLUMNS
from registry.errors import UsageError


def numbers(count: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def by_definition(samples: np.ndarray, reference: np.ndarray, k: int) -> tuple[float, float]:
    """Equations 3 and 4, by whole matrices of distances in float64."""
    x, y = reference.astype(np.float64), samples.astype(np.float64)
    between = np.sqrt(np.square(x[:, None] - x[None]).sum(-1))
    reach = np.sort(between, axis=1)[:, k]  # the image itself comes first
    inside = np.sqrt(np.square(y[:, None] - x[None]).sum(-1)) < reach  # (N, M)
    return inside.sum() / (k * len(y)), inside.any(axis=0).mean()


@pytest.mark.parametrize("block, k", [(17, 5), (17, 1), (4096, 5)])
def test_they_are_those_of_the_definition(block: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    for width, spread in ((3, 0.8), (40, 1.3)):
        samples, reference = numbers(160, width, 1) * spread, numbers(145, width, 2)
        found = density_coverage(samples, reference, k)
        assert found == pytest.approx(by_definition(samples, reference, k), rel=1e-12)
        assert 0 < found[0] != 1 and 0 < found[1] < 1


def as_prdc(samples: np.ndarray, reference: np.ndarray, k: int = 5) -> tuple[float, float]:
    """As the authors' program counts, with `<` throughout, from distances that SciPy computes in float64."""
    reach = np.sort(cdist(reference, reference), axis=1)[:, k]
    between = cdist(reference, samples)
    density = (between < reach[:, None]).sum(axis=0).mean() / k
    return density, (between.min(axis=1) < reach).mean()


@pytest.mark.parametrize("block", [4096, 300])  # 300: ties between blocks of several shapes
@pytest.mark.slow
def test_a_sample_on_the_edge_of_a_ball_is_outside(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of samples that are references, each ball has one on its edge: its own k-th neighbour."""
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    reference = numbers(1000, 2048, 1)
    assert as_prdc(reference, reference) == density_coverage(reference, reference) == (1, 1)
    shuffled = np.random.default_rng(2).permutation(reference)
    assert density_coverage(shuffled, reference) == (1, 1)
    for samples in (reference[:333], np.concatenate([reference[:500], numbers(400, 2048, 3)])):
        found = density_coverage(samples, reference)
        assert found == pytest.approx(as_prdc(samples, reference), rel=1e-9)


def test_density_sees_crowding_and_coverage_lost_modes() -> None:
    reference = np.concatenate([numbers(50, 4, 1), numbers(50, 4, 2) + 20])
    crowd = np.repeat(reference[:1], 40, axis=0)
    assert density_coverage(crowd, reference)[1] < 0.2
    density, coverage = density_coverage(reference[:50], reference)
    assert density == pytest.approx(1, abs=0.02) and coverage == 0.5


def test_balls_of_equal_references_are_empty() -> None:
    reference = np.repeat(numbers(10, 16, 1) + 100, 6, axis=0)  # every distance to five others is zero
    assert density_coverage(reference, reference) == (0, 0)


def test_both_come_of_one_pass_by_name() -> None:
    samples, reference = numbers(60, 4, 1), numbers(50, 4, 2)
    steps = []
    found = evaluate(
        Features(samples),
        Features(reference),
        scores=["coverage", "density"],
        progress=lambda *step: steps.append(step),
    )
    assert (found.values["density"], found.values["coverage"]) == density_coverage(samples, reference)
    assert list(found.values) == ["density", "coverage"]
    assert steps == [("neighbours among the references", 1, 1), ("distances to the references", 1, 1)]


def test_they_appear_wherever_scores_do() -> None:
    for names in (COLUMNS, tables.MEASURED, differences.COMPARED["quality"]):
        assert {"density", "coverage"} <= set(names)
    assert [COLUMNS[name].title for name in ("density", "coverage")] == ["Dens.↑", "Cov.↑"]


def test_memory_does_not_grow_with_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    distances = neighbours._distances

    def measured(*args):
        sizes.append(distances(*args).shape)
        return distances(*args)

    monkeypatch.setattr(neighbours, "_BLOCK", 100)
    monkeypatch.setattr(neighbours, "_distances", measured)
    density_coverage(numbers(1000, 4, 1), numbers(700, 4, 2))
    assert max(map(max, sizes)) <= 100


def test_bad_input_is_refused() -> None:
    good = numbers(50, 4, 1)
    for samples, reference, k, message in (
        (good, good, 0, "k must be 1 or more"),
        (good, good[:5], 5, "reference: 5 rows are too few, at least 6"),
        (good, numbers(50, 5, 1), 5, "4 features an image, the reference has 5"),
        (good * np.nan, good, 5, "samples: NaN or infinity"),
    ):
        with pytest.raises(UsageError, match=message):
            density_coverage(samples, reference, k)
