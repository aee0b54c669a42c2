"""The five scores and KID, beside the ADM suite's figures, torch-fidelity, SciPy and closed forms."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from bench.metrics import neighbours, scores
from bench.metrics.evaluation import evaluate
from bench.metrics.neighbours import precision_recall
from bench.metrics.resampling import fid_infinity
from bench.metrics.scores import SCORES, Features
from bench.metrics.scores.base import Inputs
from bench.metrics.scores.fid import fid
from bench.metrics.scores.inception_score import inception_score
from bench.metrics.scores.kid import kid
from bench.metrics.statistics import Statistics, frechet_distance
from registry import UsageError
from registry.errors import CodeError
from tests.conftest import REFERENCE
from tests.reference import recipe

CASES = json.loads((REFERENCE / "adm.json").read_text("utf-8"))["cases"]


def numbers(count: int, width: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(dtype)


def skewed(count: int, width: int, seed: int) -> np.ndarray:
    """Correlated features of very different scales."""
    mix = np.random.default_rng(99).standard_normal((width, width)) * np.logspace(0, -3, width)
    return (numbers(count, width, seed) @ mix + 3).astype(np.float32)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case['reference']}-{case['samples']}")
def adm(request: Any) -> tuple[dict[str, Any], Features, Features]:
    case = request.param
    count, others = case["samples"], case["reference"]
    pool = recipe.features(count, 2, 0.15)
    samples = Features(pool, recipe.features(count, 4, 0.1, dim=2023), pool @ recipe.softmax_weight())
    reference = Features(recipe.features(others, 1, 0.0), recipe.features(others, 3, 0.0, dim=2023))
    return case, samples, reference


def test_scores_equal_the_adm_suites(adm: Any) -> None:
    case, samples, reference = adm
    found = evaluate(samples, reference)
    assert found.values["fid"] == pytest.approx(case["fid"], rel=1e-6)
    assert found.values["sfid"] == pytest.approx(case["sfid"], rel=1e-6)
    assert found.values["inception_score"] == pytest.approx(case["inception_score"], rel=1e-5)
    for share, stored, count in (
        (found.values["precision"], case["full"]["precision"], case["samples"]),
        (found.values["recall"], case["full"]["recall"], case["reference"]),
    ):
        assert share == round(stored * count) / count  # they were stored in float32
    assert not found.missing and not found.intervals


def test_half_distances_come_close_to_the_adm_suites(adm: Any) -> None:
    case, samples, reference = adm
    precision, recall = precision_recall(samples.pool, reference.pool, half=True)
    assert precision == pytest.approx(case["half"]["precision"], abs=0.005)
    assert recall == pytest.approx(case["half"]["recall"], abs=0.005)
    assert precision > case["full"]["precision"]  # as the suite's rounding does


# Statistics and Fréchet distance


def test_statistics_are_those_of_numpy() -> None:
    features = skewed(5000, 500, 0) + 100
    found = Statistics.of(features)
    np.testing.assert_allclose(found.mean, features.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-12)
    assert found.count == 5000


def test_statistics_stream_and_tell_how_far_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", numbers(9000, 400))
    told: list[tuple[str, int, int]] = []
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    Statistics.of(mapped, lambda *told_now: told.append(told_now), "samples")
    assert len(told) == 2 and told[-1] == ("statistics of the samples", 9000, 9000)


def square_root_distance(a: Statistics, b: Statistics) -> float:
    """The textbook's: a matrix square root by SciPy."""
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    traces = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root).real
    return float(np.square(a.mean - b.mean).sum() + traces)


def test_frechet_distance_is_scipys() -> None:
    a, b = Statistics.of(skewed(600, 40, 1)), Statistics.of(skewed(500, 40, 2) * 1.2)
    assert frechet_distance(a, b) == pytest.approx(square_root_distance(a, b), rel=1e-8)


@pytest.mark.parametrize("count, others", [(20, 500), (500, 20), (20, 30), (2, 2), (60, 60)])
def test_fewer_images_than_features(count: int, others: int) -> None:
    # tr (Σ₁Σ₂)^½ is the nuclear norm of the product of the centred features, whatever the ranks.
    a, b = skewed(count, 60, 1).astype(np.float64), skewed(others, 60, 2).astype(np.float64)
    x, y = ((rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (a, b))
    nuclear = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.square(x).sum() + np.square(y).sum() - 2 * nuclear
    assert fid(a, b) == pytest.approx(expected, rel=1e-7)


def test_frechet_distance_of_diagonal_covariances() -> None:
    g = np.random.default_rng(3)
    mean, other, first, second = g.random((4, 30)) + 0.1
    second[:5] = 0  # no variance in these directions
    found = frechet_distance(Statistics(mean, np.diag(first)), Statistics(other, np.diag(second)))
    expected = np.square(mean - other).sum() + np.square(np.sqrt(first) - np.sqrt(second)).sum()
    assert found == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_in_one_dimension() -> None:
    distance = frechet_distance(Statistics([1.0], [[4.0]]), Statistics([3.0], [[9.0]]))  # type: ignore[arg-type]
    assert distance == pytest.approx(4 + (3 - 2) ** 2)


@pytest.mark.parametrize("count", [10, 2000])
def test_identical_sets_are_at_no_distance(count: int) -> None:
    features = skewed(count, 100, 4)
    assert 0 <= fid(features, features) < 1e-9 * features.var(axis=0).sum()


def test_sets_without_variance() -> None:
    assert fid(np.ones((5, 4)), np.zeros((6, 4))) == pytest.approx(4)


def test_frechet_distance_is_symmetric() -> None:
    a, b = skewed(30, 50, 5), skewed(400, 50, 6)
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-9)


# Inception score


def test_inception_score_of_sure_and_of_unsure_classes() -> None:
    sure = np.eye(10)[np.arange(1000) % 10] * 1000
    assert inception_score(sure) == pytest.approx(10)
    assert inception_score(np.zeros((100, 10))) == pytest.approx(1)


def test_a_short_last_split_counts_like_any_other() -> None:
    logits = numbers(25, 7) * 3
    parts = [inception_score(part) for part in (logits[:10], logits[10:20], logits[20:])]
    assert inception_score(logits, split=10) == pytest.approx(np.mean(parts), rel=1e-12)


def test_inception_score_is_torch_fidelitys() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = numbers(600, 30, 8) * 2
    expected = isc_features_to_metric(torch.from_numpy(logits), splits=4, shuffle=False)
    assert inception_score(logits, split=150) == pytest.approx(expected["inception_score_mean"], rel=1e-10)


# Precision and recall


def counted(samples: np.ndarray, reference: np.ndarray, k: int) -> tuple[float, float]:
    """By the definition, from differences in float64 and whole rows sorted."""
    a, b = samples.astype(np.float64), reference.astype(np.float64)

    def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.square(x[:, None] - y[None]).sum(-1)

    of_a, of_b = (np.sort(distances(x, x), axis=1)[:, k] for x in (a, b))
    between = distances(a, b)
    return float((between <= of_b).any(1).mean()), float((between <= of_a[:, None]).any(0).mean())


@pytest.mark.parametrize("block, k", [(17, 3), (100, 1), (100, 5), (4096, 3)])
def test_precision_and_recall_by_definition(block: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    samples, reference = numbers(210, 12, 1) * 1.1, numbers(133, 12, 2)
    assert precision_recall(samples, reference, k) == counted(samples, reference, k)


def test_features_stay_on_a_gpu(monkeypatch) -> None:
    """The meta device stands for one; a set beyond the limit is copied each time that it is needed."""
    features = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    monkeypatch.setattr(neighbours, "_BLOCK", 20)
    copied, to = [], torch.Tensor.to

    def copy(rows, *how):
        copied.extend([len(rows)] * rows.device.type.startswith("cpu"))
        return to(rows, *how)

    monkeypatch.setattr(torch.Tensor, "to", copy)
    for most, times in ((50 * 8 * 4, 1), (50 * 8 * 4 - 1, 2)):
        monkeypatch.setattr(neighbours, "_HELD", most)
        copied.clear()
        rows = neighbours.RowBlocks(features, np.zeros(8), "meta")
        for _ in range(2):
            assert [len(rows[i].features) for i in range(rows.count)] == [17, 17, 16]
        assert copied == [17, 17, 16] * times


def test_features_far_from_zero_keep_their_neighbours() -> None:
    samples, reference = numbers(300, 8, 1) + 1000, numbers(200, 8, 2) + 1000
    assert precision_recall(samples, reference) == counted(samples, reference, 3)


def test_a_set_beside_itself() -> None:
    features = np.repeat(numbers(200, 16), 5, axis=0)  # radii of zero: equals are still inside
    assert precision_recall(features[:200], features[:200]) == (1, 1)
    assert precision_recall(numbers(100, 4), numbers(100, 4) + 100) == (0, 0)


def test_a_distance_is_the_same_whichever_image_comes_first_and_in_every_block() -> None:
    features = numbers(700, 512, 1)
    whole = neighbours.RowBlocks(features, features.mean(axis=0), "cpu")[0]
    distances = neighbours._distances(whole, whole, False)
    assert torch.equal(distances, distances.t())
    for rows, columns in ((slice(0, 300), slice(300, 700)), (slice(41, 90), slice(500, 533))):
        one, other = (
            neighbours.RowBlock(whole.features[part], whole.norms[part], part) for part in (rows, columns)
        )
        assert torch.equal(neighbours._distances(one, other, False), distances[rows, columns])
        assert torch.equal(neighbours._distances(other, one, False), distances[columns, rows])


def test_half_distances_that_overflow_are_computed_in_full() -> None:
    samples, reference = numbers(300, 16, 1) * 1e3, numbers(200, 16, 2) * 1e3
    assert precision_recall(samples, reference, half=True) == precision_recall(samples, reference)


def test_smallest_finds_what_sorting_does() -> None:
    values = torch.from_numpy(numbers(70, 1000))
    values[:, ::7] = values[:, :1]  # ties
    for given in (values, values.t(), values[:, :3], values[:, :170]):
        expected = given.sort(dim=1).values[:, :4]
        found = neighbours._smallest(given, 4).sort(dim=1).values
        assert torch.equal(found[:, : expected.shape[1]], expected)


# KID


def test_kid_is_torch_fidelitys() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    samples, reference = recipe.features(700, 2, 0.15, dim=256), recipe.features(500, 1, 0.0, dim=256)
    expected = kid_features_to_metric(
        torch.from_numpy(samples).double(),
        torch.from_numpy(reference).double(),
        kid_subsets=7,
        kid_subset_size=200,
        verbose=False,
    )["kernel_inception_distance_mean"]
    assert kid(samples, reference, subsets=7, size=200)[0] == pytest.approx(expected, rel=1e-5)


def test_kid_takes_subsets_of_the_smaller_set_where_that_is_small() -> None:
    samples, reference = numbers(120, 8, 1), numbers(90, 8, 2)
    found = evaluate(Features(samples), Features(reference), scores=["kid"])
    assert found.values["kid"] == pytest.approx(kid(samples, reference, size=90)[0])


# What is missing, and what is refused


def test_a_reference_of_statistics_only() -> None:
    samples, images = numbers(300, 10, 1), numbers(400, 10, 2)
    found = evaluate(Features(samples), Features(None, statistics=Statistics.of(images)), scores=[*SCORES])
    assert found.values["fid"] == pytest.approx(fid(samples, images))
    assert "fid_infinity" in found.values
    assert set(found.values) == {"fid", "fid_infinity"} == set(SCORES) - set(found.missing)
    assert "statistics only" in found.missing["precision"]


def test_statistics_take_the_place_of_the_features() -> None:
    samples, images, all_images = numbers(300, 10, 1), numbers(100, 10, 2), numbers(900, 10, 3)
    found = evaluate(Features(samples), Features(images, statistics=Statistics.of(all_images)))
    assert found.values["fid"] == pytest.approx(fid(samples, all_images))
    assert (found.values["precision"], found.values["recall"]) == precision_recall(samples, images)


def spoiled(row: int, value: float) -> np.ndarray:
    features = numbers(50, 4)
    features[row, 2] = value
    return features


GOOD = numbers(50, 4)


@pytest.mark.parametrize(
    "samples, reference, told",
    [
        (spoiled(17, np.nan), GOOD, "samples: NaN or infinity, first in row 17"),
        (GOOD, spoiled(3, np.inf), "reference: NaN or infinity, first in row 3"),
        (GOOD, numbers(50, 5), "the samples have 4 features an image, the reference has 5"),
        (GOOD[:3], GOOD, "samples: 3 rows are too few, at least 4"),
        (GOOD, GOOD[:0], "reference: 0 rows are too few"),
        (GOOD[0], GOOD, r"samples: .* are needed, not float32 \(4,\)"),
        (GOOD.astype(object), GOOD, "samples: .* not object"),
    ],
)
def test_bad_features_are_refused(samples: np.ndarray, reference: np.ndarray, told: str) -> None:
    for score in (
        lambda: evaluate(Features(samples), Features(reference)),
        lambda: precision_recall(samples, reference),
    ):
        with pytest.raises(UsageError, match=told) as error:
            score()
        assert "\n" not in str(error.value)


def test_bad_logits_and_spatial_features_are_refused() -> None:
    with pytest.raises(UsageError, match="logits of the samples: NaN or infinity, first in row 5"):
        evaluate(Features(GOOD, logits=spoiled(5, -np.inf)), Features(GOOD))
    with pytest.raises(UsageError, match=r"reference \(spatial\): NaN or infinity, first in row 0"):
        evaluate(Features(GOOD, spatial=GOOD), Features(GOOD, spatial=spoiled(0, np.nan)))
    with pytest.raises(UsageError, match="samples: 50 rows of pool, 49 rows of logits"):
        evaluate(Features(GOOD, logits=GOOD[1:]), Features(GOOD))


def test_bad_statistics_are_refused() -> None:
    with pytest.raises(UsageError, match="a mean"):
        Statistics(np.zeros(3), np.zeros((2, 2)))
    with pytest.raises(UsageError, match="NaN or infinity"):
        Statistics(np.zeros(2), np.full((2, 2), np.nan))
    with pytest.raises(UsageError, match="the samples have 4 features an image, the reference has 3"):
        evaluate(Features(GOOD), Features(None, statistics=Statistics(np.zeros(3), np.eye(3))))
    with pytest.raises(UsageError, match="the samples have 4 features an image, the reference has 3"):
        fid_infinity(GOOD, Statistics(np.zeros(3), np.eye(3)))


@pytest.mark.parametrize("change", [np.negative, np.tril, lambda sigma: np.sqrt(np.abs(sigma))])
def test_a_matrix_that_is_no_covariance_is_refused(change: Any) -> None:
    sigma = change(np.cov(skewed(300, 40, 1), rowvar=False))
    assert np.linalg.eigvalsh(sigma).min() < -1e-3 or not np.allclose(sigma, sigma.T)
    with pytest.raises(UsageError, match=r"the covariance (is not symmetric|has negative eigenvalues)"):
        Statistics(np.zeros(40), sigma)


@pytest.mark.parametrize("count", [2, 30, 3000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_covariances_of_any_rank_and_precision_pass(count: int, dtype: Any) -> None:
    features = recipe.features(count, 1, 0.0, dim=512).astype(dtype)
    centred = features - features.mean(0, dtype=dtype)
    for sigma in (centred.T @ centred / (count - 1), np.cov(features, rowvar=False).astype(dtype)):
        assert np.array_equal(Statistics(features.mean(0), sigma).covariance, sigma)
    Statistics(np.zeros(3), np.zeros((3, 3)))


def test_bad_settings_are_refused() -> None:
    for call, told in (
        (lambda: precision_recall(GOOD, GOOD, k=0), "k must be 1 or more"),
        (lambda: kid(GOOD, GOOD), "50 rows are too few, at least 1000"),
        (lambda: kid(GOOD, GOOD, size=1), "2 images or more"),
        (lambda: inception_score(GOOD, split=0), "1 image or more"),
        (lambda: evaluate(Features(GOOD), Features(GOOD), intervals=3), "5 groups"),
        (lambda: evaluate(Features(GOOD), Features(GOOD), intervals=40), "50 samples are too few"),
        (lambda: fid_infinity(GOOD[:20], GOOD), "20 rows are too few"),
    ):
        with pytest.raises(UsageError, match=told):
            call()


def test_the_table_of_scores_is_whole() -> None:
    assert list(SCORES)[:6] == ["fid", "sfid", "inception_score", "precision", "recall", "kid"]
    assert [score.name for score in SCORES.values() if score.default] == list(SCORES)[:5]
    titles = [score.title for score in list(SCORES.values())[:6]]
    assert titles == ["FID↓", "sFID↓", "IS↑", "Prec.↑", "Rec.↑", "KID·10³↓"]
    assert SCORES["kid"].text(0.00123) == "1.23" and SCORES["fid"].text(0.0012) == "0.0012"
    with pytest.raises(UsageError, match=r"unknown score 'densty'. Did you mean 'density'"):
        evaluate(Features(GOOD), Features(GOOD), scores=["densty"])


def test_every_registered_score_is_in_the_table() -> None:
    files = [file for file in Path(scores.__file__).parent.glob("*.py") if file.name != "__init__.py"]
    named = [
        name for file in files for name in re.findall(r'^@?scores\.register\("(\w+)"', file.read_text(), re.M)
    ]
    assert sorted(named) == sorted(SCORES) and len(named) == 23


@pytest.mark.parametrize("name", list(SCORES))
def test_a_score_says_how_many_samples_it_needs(name: str) -> None:
    score, features = SCORES[name], numbers(40, 6)
    reference = Features(features, features, features)

    def of(count: int) -> float:
        few = numbers(count, 6, seed=1)
        return score.compute(Inputs(Features(few, few, few), reference))

    assert np.isfinite(of(score.least))
    with pytest.raises(UsageError):
        of(score.least - 1)


def test_each_score_names_its_paper() -> None:
    assert {name: scores.scores.describe(name).paper for name in SCORES} == {
        "fid": "arXiv 1706.08500",
        "sfid": "arXiv 2103.03841",
        "inception_score": "arXiv 1606.03498",
        "precision": "arXiv 1904.06991",
        "recall": "arXiv 1904.06991",
        "kid": "arXiv 1801.01401",
        "density": "arXiv 2002.09797",
        "coverage": "arXiv 2002.09797",
        "fid_infinity": "arXiv 1911.07023",
        "mind": "arXiv 2605.06797",
        "cmmd": "arXiv 2401.09603",
        "fd_dinov2": "arXiv 2306.04675",
        "fd_efficientnet": "arXiv 2306.04675",
        **{
            f"{score}_{extractor}": paper
            for extractor in ("dinov2", "efficientnet")
            for score, paper in (
                ("kd", "arXiv 1801.01401"),
                ("precision", "arXiv 1904.06991"),
                ("recall", "arXiv 1904.06991"),
                ("density", "arXiv 2002.09797"),
                ("coverage", "arXiv 2002.09797"),
            )
        },
    }


def test_a_score_that_lacks_something_is_named(plugins: None) -> None:
    @scores.scores.register("bare")
    class Bare(scores.Score):
        """Nothing but a number."""

        heading = "Bare"

        def compute(self, inputs: scores.Inputs) -> float:
            return 1.0

    with pytest.raises(CodeError, match="score 'bare' lacks full_name, higher_is_better, needs"):
        SCORES["bare"]


def test_a_score_that_is_no_finite_number_is_named(plugins: None) -> None:
    @scores.scores.register("lost")
    class Lost(scores.Score):
        """Nothing."""

        heading, full_name, higher_is_better, needs = "Lost", "Lost", True, scores.BOTH_POOLS

        def compute(self, inputs: scores.Inputs) -> float:
            return float("nan")

    with pytest.raises(CodeError, match=r"the score 'lost' is nan, .*test_scores.py, line \d+\)"):
        evaluate(Features(GOOD), Features(GOOD), scores=["lost"])


def test_an_installed_package_brings_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins: None
) -> None:
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bench.scores]\nrows = own_scores:Rows\n")
    (tmp_path / "own_scores.py").write_text(
        "from bench.metrics.scores import BOTH_POOLS, Score\n"
        "class Rows(Score):\n"
        "    heading, full_name, higher_is_better, needs = 'Rows', 'Rows', True, BOTH_POOLS\n"
        "    def compute(self, inputs): return float(len(inputs.features('pool')[0]))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(scores.scores.__dict__, "_installed")
    assert scores.scores.find("rows").origin == "package own"
    assert evaluate(Features(GOOD), Features(GOOD), scores=["rows"]).values == {"rows": 50}
    assert "rows" in scores.MEASURED and list(SCORES)[-1] == "rows"


def test_what_scores_share_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted_calls(*args: Any, **options: Any) -> tuple[float, float]:
        calls.append(1)
        return precision_recall(*args, **options)

    monkeypatch.setattr(neighbours, "precision_recall", counted_calls)
    found = evaluate(Features(GOOD), Features(GOOD), intervals=5)
    assert found.values["precision"] == found.values["recall"] == 1 and len(calls) == 1
