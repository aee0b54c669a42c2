"""`bench encode` as a user meets it."""

import functools
from pathlib import Path

import numpy as np
import pytest

import bench.data
from bench.data.encoding import encode
from bench.data.folder import Folder
from tests.bench.data.test_latents import COUNT, SIDE, photos, vae

__all__ = ["photos", "vae"]  # fixtures


@pytest.fixture
def bench_encode(run_bench):
    return functools.partial(run_bench, "encode")


def test_encode_writes_latents(bench_encode, vae: Path, photos: Path, tmp_path: Path) -> None:
    arguments = ("--images", photos, "--out", tmp_path / "o", "--vae", vae, "--size", SIDE, "--batch-size", 4)
    code, out, err = bench_encode(
        *arguments, "--no-flip", "--posterior", "mean", "--dtype", "float16", "--device", "cpu"
    )
    assert (code, err) == (0, "")
    assert out.strip() == (
        f"{COUNT} images of 3 classes as 4×16×16 latents in {tmp_path / 'o'}: train on them with "
        f"--data latents --data-option root={tmp_path / 'o'}"
    )
    index = bench.data.load("latents", root=tmp_path / "o").index
    assert (index.flipped, index.posterior, index.dtype) == (False, "mean", "float16")
    encode(
        Folder(photos, SIDE), tmp_path / "p", str(vae), flipped=False, posterior="mean", dtype="float16",
        batch_size=4,
    )  # fmt: skip
    shards = [np.load(tmp_path / name / "latents-00000.npy") for name in "op"]
    assert np.array_equal(*shards)


def test_defaults_keep_all_that_the_papers_need(
    bench_encode, vae: Path, photos: Path, tmp_path: Path
) -> None:
    assert bench_encode("--images", photos, "--out", tmp_path / "o", "--vae", vae, "--size", 16)[0] == 0
    index = bench.data.load("latents", root=tmp_path / "o").index
    assert (index.flipped, index.posterior, index.dtype, index.seed) == (True, "moments", "float32", 0)


def test_errors_are_one_line(bench_encode, vae: Path, photos: Path, tmp_path: Path) -> None:
    defaults = {"--images": photos, "--out": tmp_path / "o", "--vae": vae, "--size": SIDE, "--device": "cpu"}
    for option, value, message in [
        ("--images", tmp_path / "none", "none: No such file"),
        ("--size", 31, "multiples of 2"),
        ("--vae", tmp_path, "cannot read an AutoencoderKL from the folder"),
        ("--device", "mps:7", "not 'mps:7'"),
        ("--out", photos / "cat" / "00.png" / "o", "cannot write"),
    ]:
        arguments = [part for pair in {**defaults, option: value}.items() for part in pair]
        code, out, err = bench_encode(*arguments)
        assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
        assert message in err
    assert not (tmp_path / "o").exists()


def test_a_process_that_is_not_the_last_says_so(
    bench_encode, vae: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.data.encoding._finish", lambda out, index: None)
    arguments = ("--images", photos, "--out", tmp_path / "o", "--vae", vae, "--size", SIDE)
    assert "other processes are still encoding" in bench_encode(*arguments)[1]
