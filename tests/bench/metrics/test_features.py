"""Features: made once, continued after a kill, the same by any number of processes, written for others."""

import functools
import inspect
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.metrics import evaluation, features
from bench.metrics.extractors import create
from bench.metrics.features import (
    check_fits,
    feature_folder,
    features_of,
    fitting_extractor,
    make_file,
    write_features,
)
from bench.metrics.images import FeatureSet, ImageSet, open_set
from bench.metrics.scores.fid import FID
from bench.utils import distributed, precision
from registry.errors import CodeError, UsageError
from tests.conftest import ROOT

IMAGES = np.random.default_rng(1).integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)


class Means:
    """An extractor that counts its images, and fails after some."""

    name, digest, outputs = "means", "0123456789ab", {"pool": 3, "logits": 2}

    def __init__(self, fails_after: int = 10**9) -> None:
        self.seen, self.fails_after = 0, fails_after

    def to(self, device):
        return self

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += len(images)
        if self.seen > self.fails_after:
            raise KeyboardInterrupt
        means = images.float().mean((2, 3))
        return {"pool": means, "logits": means[:, :2]}


MEANS = IMAGES.astype(np.float64).mean((1, 2))


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    opened = open_set(tmp_path / "s.npz")
    assert isinstance(opened, ImageSet)
    return opened


def of(images, extractor, tmp_path: Path, batch_size: int = 5, **options):
    return features_of(images, [extractor], tmp_path / "cache", batch_size=batch_size, **options)[0]


# ---- making and keeping ----


def test_features_are_made_once_and_kept(images, tmp_path: Path) -> None:
    extractor, told = Means(), []
    made = of(images, extractor, tmp_path, progress=lambda *step: told.append(step))
    np.testing.assert_allclose(made.pool, MEANS, rtol=1e-6)
    np.testing.assert_allclose(made.logits, MEANS[:, :2], rtol=1e-6)
    assert made.spatial is made.statistics is None and made.pool.dtype == np.float32
    assert extractor.seen == 23 and told[-1] == ("means features of s.npz", 23, 23)
    again = of(images, extractor, tmp_path, batch_size=7)
    assert extractor.seen == 23 and np.array_equal(again.pool, made.pool)
    assert isinstance(again.pool, np.memmap)


def test_another_content_or_extractor_is_made_anew(images, tmp_path: Path) -> None:
    of(images, Means(), tmp_path)
    other = Means()
    other.digest = "ba9876543210"
    of(images, other, tmp_path)
    np.savez(tmp_path / "s.npz", arr_0=IMAGES[:6])
    fewer = Means()
    made = of(open_set(tmp_path / "s.npz"), fewer, tmp_path)
    assert (other.seen, fewer.seen, len(made.pool)) == (23, 6, 6)


def test_an_interrupted_run_goes_on(images, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        of(images, Means(fails_after=12), tmp_path)
    rest = Means()
    made = of(images, rest, tmp_path)
    assert rest.seen == 13
    np.testing.assert_allclose(made.pool, MEANS, rtol=1e-6)


@pytest.mark.slow
def test_a_killed_run_goes_on(images, tmp_path: Path) -> None:
    code = (
        "import os, signal, torch; from pathlib import Path\n"
        "from tests.bench.metrics.test_features import Means, open_set, of\n"
        "class Killed(Means):\n"
        "    def __call__(self, images):\n"
        "        if self.seen >= 10: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().__call__(images)\n"
        f"of(open_set({str(images.path)!r}), Killed(), Path({str(tmp_path)!r}))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    rest = Means()
    np.testing.assert_allclose(of(images, rest, tmp_path).pool, MEANS, rtol=1e-6)
    assert rest.seen == 13


def test_any_number_of_processes_fills_the_same_rows(images, tmp_path: Path, monkeypatch) -> None:
    digits = create("digits")
    (alone,) = features_of(images, [digits], tmp_path / "alone", batch_size=4)
    monkeypatch.setattr(distributed, "count", lambda: 3)
    monkeypatch.setattr(distributed, "wait", lambda: None)
    for index in (2, 0, 1):
        monkeypatch.setattr(distributed, "index", lambda index=index: index)
        call = functools.partial(features_of, images, [digits], tmp_path / "shared", batch_size=4)
        if index != 1:  # nobody waits here for those whose turn comes later
            with pytest.raises(UsageError, match="give --cache a folder that all processes share"):
                call()
    (shared,) = call()
    for kind in ("pool", "spatial", "logits"):
        assert np.array_equal(getattr(alone, kind), getattr(shared, kind))


def test_a_failed_run_leaves_nothing_wrong_in_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    whole = (folder / "17.png").read_bytes()
    (folder / "17.png").write_bytes(whole[:-40])
    for _ in range(2):
        with pytest.raises(UsageError, match=r"17\.png cannot be read"):
            of(open_set(folder), Means(), tmp_path)
    (folder / "17.png").write_bytes(whole)
    np.testing.assert_allclose(of(open_set(folder), Means(), tmp_path).pool, MEANS, rtol=1e-6)


def test_features_that_are_no_numbers_are_not_kept(images, tmp_path: Path) -> None:
    class Broken(Means):
        def __call__(self, images):
            made = super().__call__(images)
            if self.seen == 10:
                made["pool"][1, 1] = torch.nan
            return made

    with pytest.raises(
        CodeError, match=r"'means' returned NaN or infinity in 'pool' of images 5 to 9 \(.*test_f"
    ):
        of(images, Broken(), tmp_path)
    rest = Means()
    np.testing.assert_allclose(of(images, rest, tmp_path).pool, MEANS, rtol=1e-6)
    assert rest.seen == 18


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "returned NoneType, not features by name"),
        (
            {"pool": torch.zeros(5, 4), "logits": torch.zeros(5, 2)},
            r"returned 'pool' of shape \(5, 4\), not \(5, 3\)",
        ),
        ({"pool": torch.zeros(5, 3)}, "returned no tensor of 'logits' features"),
        ({"pool": torch.zeros(5, 3), "logits": [0]}, "returned no tensor of 'logits' features"),
    ],
)
def test_what_an_extractor_must_not_return_names_its_line(images, tmp_path: Path, made, message) -> None:
    class Wrong(Means):
        def __call__(self, images):
            return made

    line = inspect.getsourcelines(Wrong)[1]
    with pytest.raises(CodeError, match=rf"{message} \({re.escape(__file__)}, line {line}\)"):
        of(images, Wrong(), tmp_path)


def test_errors_of_an_extractor_come_out_as_they_are(images, tmp_path: Path) -> None:
    class Failing(Means):
        def __call__(self, images):
            return undefined  # noqa: F821

    with pytest.raises(NameError, match="undefined"):
        of(images, Failing(), tmp_path)


def test_where_features_are_stored(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with feature_folder(None) as (folder, notes):
        assert (folder, notes) == (tmp_path / "denoiser-bench" / "features", [])
    with feature_folder(Path("/elsewhere")) as (folder, notes):
        assert (folder, notes) == (Path("/elsewhere"), [])


def test_without_a_cache_features_go_to_a_temporary_folder(images, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # where nobody can write
    with feature_folder(None) as (folder, notes):
        (made,) = features_of(images, [Means()], folder)
        assert folder.is_dir() and notes == [
            "Features were not stored: no cache of this user can be written to. Give --cache."
        ]
    assert not folder.exists()
    np.testing.assert_allclose(made.pool, MEANS, rtol=1e-6)
    make_file(images.path, tmp_path / "f.npz")
    assert open_set(tmp_path / "f.npz").count == 23
    monkeypatch.setattr(distributed, "count", lambda: 2)
    with pytest.raises(UsageError, match="several processes need a folder"), feature_folder(None):
        pass


@pytest.mark.slow
def test_a_disk_that_is_full_is_one_line(images, tmp_path: Path) -> None:
    # Too little for the rows of the cache, then enough for these but not for the file.
    code = (
        "import resource, sys; from pathlib import Path; from registry.errors import UsageError\n"
        "from bench.metrics.features import make_file\n"
        "folder = Path(sys.argv[1])\n"
        "for size in (20_000, 100_000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "    try: make_file(folder / 's.npz', folder / 'f.npz', cache=folder / 'cache')\n"
        "    except UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("cannot make room for") and second.startswith("cannot write")
    assert not (tmp_path / "f.npz").exists()


def test_neither_features_nor_scores_take_tf32(images, tmp_path: Path, monkeypatch) -> None:
    """Whatever was switched on before; the CPU stands for a GPU."""
    seen = []

    def see(*_):
        seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return 0.0

    class Seeing(Means):
        def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            see()
            return super().__call__(images)

    for module in (evaluation, features):
        monkeypatch.setattr(module, "tf32", lambda enabled, _: precision.tf32(enabled, "cuda:0"))
    monkeypatch.setattr(FID, "compute", see)
    with precision.tf32(True, "cuda:0"):
        made = of(images, Seeing(), tmp_path)
        evaluation.evaluate(made, made, scores=["fid"])
        assert torch.backends.cuda.matmul.allow_tf32
    assert len(seen) == 6 and set(seen) == {(False, False)}


def test_a_device_that_is_not_here(images, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no device 'cuda:99' here"):
        of(images, Means(), tmp_path, device="cuda:99")


# ---- files of features ----


def test_a_feature_file_is_what_bench_and_the_adm_suite_read(images, tmp_path: Path) -> None:
    out = tmp_path / "made" / "f.npz"
    make_file(images.path, out, batch_size=8, cache=tmp_path / "cache")
    digits = create("digits")
    made = of(images, digits, tmp_path, batch_size=8)
    with np.load(out) as file:  # allow_pickle is off
        assert set(file) == {*"about mu sigma mu_s sigma_s pool spatial logits".split()}
        for rows, mean, covariance in ((made.pool, "mu", "sigma"), (made.spatial, "mu_s", "sigma_s")):
            assert file[mean].dtype == file[covariance].dtype == np.float64
            np.testing.assert_allclose(file[mean], rows.mean(0, dtype=np.float64), atol=1e-12)
            np.testing.assert_allclose(file[covariance], np.cov(rows.T.astype(np.float64)), atol=1e-12)
    read = open_set(out)
    assert isinstance(read, FeatureSet)
    assert (read.count, read.extractor, read.digest) == (23, "digits", digits.digest)
    assert read.size == (8, 8)
    (again,) = features_of(read, [digits], tmp_path)
    for kind in ("pool", "spatial", "logits"):
        assert np.array_equal(getattr(again, kind), getattr(made, kind))
    assert again.statistics is not None and again.spatial_statistics is not None


def test_statistics_that_came_with_the_images_are_kept(tmp_path: Path) -> None:
    class Inception(Means):
        name, outputs = "inception", {"pool": 3, "spatial": 2, "logits": 2}

        def __call__(self, images):
            made = super().__call__(images)
            return made | {"spatial": made["logits"]}

    arrays = {"mu": np.arange(3.0), "sigma": np.eye(3) * 2, "mu_s": np.arange(2.0), "sigma_s": np.eye(2)}
    np.savez(tmp_path / "r.npz", arr_0=IMAGES, **arrays)
    images = open_set(tmp_path / "r.npz")
    made = of(images, Inception(), tmp_path)
    assert made.statistics is not None and np.array_equal(made.statistics.covariance, np.eye(3) * 2)
    write_features(tmp_path / "f.npz", images, Inception(), made)
    with np.load(tmp_path / "f.npz") as file:
        assert all(np.array_equal(file[name], array) for name, array in arrays.items())
        assert json.loads(str(file["about"]))["statistics"] == "stored in r.npz"
    # Another extractor's features have nothing to do with them.
    assert of(images, Means(), tmp_path).statistics is None
    np.savez(tmp_path / "r.npz", arr_0=IMAGES, mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(UsageError, match=r"r\.npz holds pool statistics of width 4, those of inception"):
        of(open_set(tmp_path / "r.npz"), Inception(), tmp_path)


def test_a_file_that_cannot_be_made_is_not_begun(images, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"f\.txt: a feature file ends in \.npz"):
        make_file(images.path, tmp_path / "f.txt")
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*taken"):
        make_file(images.path, tmp_path / "taken" / "f.npz", cache=tmp_path / "cache")
    np.savez(tmp_path / "r.npz", mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(UsageError, match=r"r\.npz holds features or statistics, not images"):
        make_file(tmp_path / "r.npz", tmp_path / "f.npz")
    assert not (tmp_path / "f.npz").exists()


# ---- which extractor ----


def made_set(path: str = "f.npz", digest: str | None = "aa", **widths: int) -> FeatureSet:
    arrays = {kind: np.zeros((2, width), np.float32) for kind, width in widths.items()}
    return FeatureSet(Path(path), 2, "means", digest, arrays, {})


def test_the_fitting_extractor(images, tmp_path: Path) -> None:
    assert fitting_extractor(images) == ("digits", "the default for images of at most 16 pixels a side")
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((2, 17, 16, 3), np.uint8))
    large = open_set(tmp_path / "large.npz")
    assert fitting_extractor(images, large)[0] == "inception"
    assert fitting_extractor(large, made_set(pool=3)) == ("means", "as in f.npz")


def test_features_of_another_extractor_are_refused() -> None:
    fits = made_set(pool=3)
    check_fits(fits, "means", "aa", {"pool": 3, "spatial": 4})
    check_fits(fits, "means", None, {})
    check_fits(made_set(digest=None), "means", "bb", {"pool": 3})
    with pytest.raises(UsageError, match=r"f\.npz holds features of means aa, not of means bb"):
        check_fits(fits, "means", "bb", {})
    with pytest.raises(UsageError, match=r"f\.npz holds features of means aa, not of digits aa"):
        check_fits(fits, "digits", "aa", {})
    with pytest.raises(UsageError, match=r"f\.npz holds pool features of width 3, those of means are 4 wide"):
        check_fits(fits, "means", "aa", {"pool": 4})
