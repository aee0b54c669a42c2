"""Datasets: grids and back without loss, files of others read as those do, damage named."""

import gzip
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from sklearn.datasets import load_digits
from torch.nn import functional as F

import bench.data
from bench.cli.options import load_plugins
from bench.data import cifar10, digests, fashion_mnist, grid, sources
from bench.data.digits import upsample
from bench.data.folder import Folder, resize_and_crop
from bench.metrics.images import ImageSet, open_set
from registry.errors import CodeError, UsageError
from tests import train_digits


def test_names_are_known_without_importing_anything_heavy() -> None:
    code = (
        "import sys, bench.data; print(bench.data.names())\n"
        "assert not {'torch', 'sklearn', 'PIL', 'numpy', 'diffusers'} & set(sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "['cifar10', 'digits', 'fashion-mnist', 'folder', 'latents']"


# ---- grids ----


def test_space_to_depth_puts_pixels_where_it_says() -> None:
    x = np.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    made = grid.space_to_depth(x)
    for c in range(3):
        for i in range(2):
            for j in range(2):
                assert np.array_equal(made[:, 4 * c + 2 * i + j], x[:, c, i::2, j::2])
    assert np.array_equal(made, F.pixel_unshuffle(torch.from_numpy(x), 2))
    assert np.array_equal(grid.depth_to_space(torch.from_numpy(made)), x)


@pytest.mark.parametrize(("channels", "layout"), [(1, "pixels"), (3, "pixels"), (3, "space-to-depth")])
def test_every_level_survives_the_way_to_a_grid_and_back(channels: int, layout: grid.Layout) -> None:
    images = (np.arange(256 * channels) // channels).astype(np.uint8).reshape(1, 16, 16, channels)
    grids = grid.to_grids(images, layout)
    assert grids.shape[1:] == grid.grid_shape(16, 16, channels, layout) and grids.dtype == torch.float32
    assert (grids.min(), grids.max()) == (-1, 1)
    assert np.array_equal(grid.to_images(grids), images.repeat(4 - channels, 3)[..., :3])
    # Half a grey level of error either way does no harm.
    assert np.array_equal(grid.to_images(grids + 0.49 / 127.5), grid.to_images(grids - 0.49 / 127.5))
    assert grid.to_images(grids * 9).max() == 255 and grid.to_images(grids * 9).min() == 0


def test_shapes_that_make_no_grid_are_refused() -> None:
    with pytest.raises(UsageError, match="even sides, not 28×27"):
        grid.grid_shape(28, 27, 1)
    with pytest.raises(UsageError, match="space-to-depth need even sides, not 28×27"):
        grid.grid_shape(28, 27, 3, "space-to-depth")
    with pytest.raises(UsageError, match="1 channel or 3, not 2"):
        grid.grid_shape(28, 28, 2)
    with pytest.raises(UsageError, match="3, 4 or 12 channels, not 5"):
        grid.to_images(torch.zeros(1, 5, 8, 8))


# ---- digits ----


def test_digits_are_those_of_scikit_learn() -> None:
    data = bench.data.load("Digits")
    data.check()
    assert (data.name, data.shape, len(data), data.num_classes) == ("digits", (4, 8, 8), 1797, 10)
    found = load_digits()
    everything = np.arange(1797)
    assert data.labels(everything).tolist() == found.target.tolist()
    assert data.digest == "f1c5b9530d02"  # of the committed records
    images = data.to_images(data.grids(everything))
    assert images.shape == (1797, 16, 16, 3)
    # The four pixels of an old one average to it and its neighbours by weights 1/8, 3/4, 1/8 each way.
    means = images[..., 0].reshape(1797, 8, 2, 8, 2).mean((2, 4))
    x = np.pad(np.round(found.images / 16 * 255), [(0, 0), (1, 1), (1, 1)], mode="edge")
    x = (x[:, :-2] + 6 * x[:, 1:-1] + x[:, 2:]) / 8
    x = (x[..., :-2] + 6 * x[..., 1:-1] + x[..., 2:]) / 8
    assert np.abs(means - x).max() <= 0.5
    with pytest.raises(UsageError, match="'digits' cannot be mirrored: a mirrored digit is no digit"):
        data.grids(np.arange(2), np.array([False, True]))
    assert torch.equal(data.grids(np.arange(2), np.zeros(2, bool)), data.grids(np.arange(2)))
    assert data[3][1] == 3 and sum(1 for _ in data) == 1797


def test_a_fifth_of_the_digits_is_held_out_by_class() -> None:
    whole = bench.data.load("digits")
    parts = {split: bench.data.load("digits", split=split) for split in ("train", "test")}
    rows = {split: part.images(np.arange(len(part))) for split, part in parts.items()}
    together = np.concatenate([rows["train"], rows["test"]])
    every = whole.images(np.arange(1797))
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in every)
    counts = {split: np.bincount(part.labels(np.arange(len(part)))) for split, part in parts.items()}
    assert np.abs(counts["test"] - np.bincount(load_digits().target) / 5).max() < 1
    # The digits extractor has seen these, and never those that networks are trained on.
    held_out = train_digits.split()[0].float()
    held_out = upsample(held_out, 16).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert {image.tobytes() for image in held_out} == {image.tobytes() for image in rows["test"]}
    assert len({whole.digest, *(part.digest for part in parts.values())}) == 3


def test_upsampling_is_bilinear_as_pillow_does_it() -> None:
    x = np.random.default_rng(0).random((8, 8), np.float32)
    other = np.asarray(Image.fromarray(x).resize((16, 16), Image.Resampling.BILINEAR))
    assert np.abs(upsample(torch.from_numpy(x)[None, None], 16)[0, 0].numpy() - other).max() < 1e-6
    antialiased = F.interpolate(torch.from_numpy(x)[None, None], (16, 16), mode="bilinear", antialias=True)
    assert (upsample(torch.from_numpy(x)[None, None], 16) - antialiased).abs().max() < 1e-6


# ---- fashion-mnist ----


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def clothes(tmp_path: Path) -> Path:
    """A root of torchvision with five training images."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    (raw / "train-images-idx3-ubyte").write_bytes(idx(images))
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([9, 0, 3, 3, 1], np.uint8))))
    return tmp_path


def test_fashion_mnist_is_what_torchvision_reads(clothes: Path) -> None:
    from torchvision.datasets.mnist import read_image_file

    data = bench.data.load("fashion-mnist", root=str(clothes))
    data.check()
    assert data.shape == (4, 16, 16) and data.labels(np.arange(5)).tolist() == [9, 0, 3, 3, 1]
    images = data.to_images(data.grids(np.arange(5)))
    expected = read_image_file(str(clothes / "FashionMNIST/raw/train-images-idx3-ubyte")).numpy()
    assert np.array_equal(images[:, 2:-2, 2:-2, 0], expected)
    assert images.sum() == 3 * expected.sum(dtype=np.int64)  # the rest is background
    assert bench.data.load("fashion-mnist", root=clothes / "FashionMNIST" / "raw").digest == data.digest


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian() -> None:
    data = bench.data.load("fashion-mnist", split="test")
    assert np.bincount(data.labels(np.arange(len(data)))).tolist() == [1000] * 10


def test_damaged_fashion_mnist_is_named(clothes: Path) -> None:
    path = clothes / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(UsageError, match="train-images-idx3-ubyte is damaged"):
        bench.data.load("fashion-mnist", root=clothes)
    path.write_bytes(b"\0\0\x08\x01" + whole[4:])
    with pytest.raises(UsageError, match="no IDX file of bytes in 3 dimensions"):
        bench.data.load("fashion-mnist", root=clothes)
    path.unlink()
    path.with_suffix(".gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(UsageError, match=r"cannot read .*ubyte.gz"):
        bench.data.load("fashion-mnist", root=clothes)
    with pytest.raises(UsageError, match="has no t10k-images"):
        bench.data.load("fashion-mnist", root=clothes, split="test")


# ---- cifar10 ----


def record(label: int, seed: int) -> bytes:
    return bytes([label]) + np.random.default_rng(seed).integers(0, 256, 3072, np.uint8).tobytes()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The binary version of CIFAR-10, two images a file."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([*cifar10.FILES["train"], *cifar10.FILES["test"]]):
        (folder / name).write_bytes(record(number, number) + record(9, number + 100))
    return tmp_path


def test_cifar10_reads_planes_of_colour(pictures: Path) -> None:
    data = bench.data.load("cifar10", root=pictures)
    data.check()
    assert (data.shape, len(data)) == ((3, 32, 32), 10) and data.class_names[9] == "truck"
    assert data.labels(np.arange(10)).tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    planes = np.frombuffer(record(1, 1)[1:], np.uint8).reshape(3, 32, 32)
    grids = data.grids(np.array([2, 2]), np.array([False, True]))
    assert np.allclose(grids[0], planes / 127.5 - 1, atol=1e-6)
    assert torch.equal(grids[1], grids[0].flip(-1))
    assert np.array_equal(data.to_images(grids)[0], planes.transpose(1, 2, 0))
    assert len(bench.data.load("cifar10", root=pictures / "cifar-10-batches-bin", split="test")) == 2
    deep = bench.data.load("cifar10", root=pictures, grid="space-to-depth")
    deep.check()
    assert deep.shape == (12, 16, 16) and deep.digest != data.digest
    of_deep = deep.grids(np.array([2, 2]), np.array([False, True]))
    assert torch.equal(of_deep, F.pixel_unshuffle(grids, 2))
    assert np.array_equal(deep.to_images(of_deep), data.to_images(grids))


def test_damaged_cifar10_is_named(pictures: Path) -> None:
    path = pictures / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(record(1, 1) + record(10, 1))
    with pytest.raises(UsageError, match=r"data_batch_3.bin: label 10 of image 1 is not one of 0 … 9"):
        bench.data.load("cifar10", root=pictures)
    path.write_bytes(record(1, 1)[:-5])
    with pytest.raises(UsageError, match=r"data_batch_3.bin is cut short"):
        bench.data.load("cifar10", root=pictures)
    path.unlink()
    with pytest.raises(UsageError, match=r"no .*data_batch_3.bin: root is"):
        bench.data.load("cifar10", root=pictures)


def test_pickles_that_are_not_the_official_ones_are_not_read(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "harmed",)

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(Harm()))
    with pytest.raises(UsageError, match="use the binary version"):
        bench.data.load("cifar10", root=tmp_path)
    assert not (tmp_path / "harmed").exists()


# ---- downloads ----


def test_a_download_is_kept_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def broken(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_bytes(b"")
        raise RuntimeError("no network:\nmore")

    with pytest.raises(UsageError) as error:
        sources.downloaded("some", broken, "do this.")
    assert str(error.value) == "cannot download some (RuntimeError: no network): do this."
    assert list((tmp_path / "denoiser-bench" / "data").iterdir()) == []

    calls = []

    def works(folder: Path) -> None:
        calls.append(folder)
        folder.mkdir()
        (folder / "file").write_bytes(b"1")

    for _ in range(2):
        assert (sources.downloaded("some", works, "") / "file").read_bytes() == b"1"
    assert len(calls) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # where no folder can be made
    with pytest.raises(UsageError, match=r"no folder to download some to \(set XDG_CACHE_HOME\): do this"):
        sources.downloaded("some", works, "do this")


def test_what_is_missing_is_downloaded(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar10, "_download", lambda made: made.symlink_to(pictures))
    assert len(bench.data.load("cifar10")) == 10

    def offline(made: Path) -> None:
        raise OSError("unreachable")

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")
    monkeypatch.setattr(fashion_mnist, "_download", offline)
    with pytest.raises(UsageError, match=r"cannot download fashion-mnist .*root=FOLDER"):
        bench.data.load("fashion-mnist")


# ---- folder ----


def image(path: Path, size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), np.uint8)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    image(tmp_path / "photos" / "b" / "1.PNG", (40, 33))
    image(tmp_path / "photos" / "a" / "deep" / "2.jpg", (70, 80), seed=1)
    image(tmp_path / "photos" / "a" / "3.png", (16, 90), "L", seed=2)
    image(tmp_path / "photos" / "a" / "4.webp", (90, 17), "RGBA", seed=3)
    (tmp_path / "photos" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / ".hidden").mkdir()
    return tmp_path / "photos"


def test_a_folder_by_class(photos: Path) -> None:
    data = bench.data.load("folder", root=photos, size=16)
    data.check()
    assert (data.shape, len(data), data.class_names) == ((3, 16, 16), 4, ["a", "b"])
    assert data.labels(np.arange(4)).tolist() == [0, 0, 0, 1]
    grids = pickle.loads(pickle.dumps(data)).grids(np.arange(4), np.array([0, 0, 0, 1], bool))
    made = data.to_images(grids)
    files = ["a/3.png", "a/4.webp", "a/deep/2.jpg", "b/1.PNG"]
    for index, file in enumerate(files):
        expected = np.asarray(resize_and_crop(Image.open(photos / file).convert("RGB"), 16))
        assert np.array_equal(made[index], expected[:, ::-1] if index == 3 else expected)


def test_a_folder_holds_the_images_that_are_scored_of_it(photos: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for number, ending in enumerate(("jpg", "bmp", "tiff", "ppm", "jfif", "gif")):
        turned = {"exif": exif} if ending == "jpg" else {}
        path = image(photos / "c" / f"{number}.png", (16, 16), seed=number)
        Image.open(path).save(path.with_suffix(f".{ending}"), "JPEG" if ending == "jfif" else None, **turned)
        path.unlink()
    (photos / "c").rename(photos.parent / "elsewhere")
    (photos / "c").symlink_to(photos.parent / "elsewhere")
    (photos / "c" / "around").symlink_to(photos / "c")
    image(photos / "c" / ".ipynb_checkpoints" / "0-checkpoint.png", (16, 16))
    image(photos / "loose.png", (16, 16))
    told = {
        "hidden folders": 2,
        "folders that contain themselves": 1,
        ".txt": 1,
        "images outside of class folders": 1,
    }
    with pytest.warns(UserWarning, match="photos: left out: 2 hidden folders, 1 "):
        data = bench.data.load("folder", root=photos, size=16)
    assert isinstance(data, Folder) and data.left_out == told
    scored = open_set(photos / "c")
    assert isinstance(scored, ImageSet) and scored.count == 6
    (pixels,) = scored.read([range(6)])
    assert np.array_equal(data.images(np.arange(4, 10)), pixels.permute(0, 2, 3, 1).numpy())


def digest_of(root: Path, **options: Any) -> str:
    return bench.data.load("folder", **{"root": root, "size": 16, **options}).digest


def test_a_folders_digest_is_of_names_and_contents(photos: Path, tmp_path: Path) -> None:
    whole = digest_of(photos)
    assert digest_of(photos, size=8) != whole
    photos.rename(tmp_path / "elsewhere")
    photos = tmp_path / "elsewhere"
    assert digest_of(photos) == whole
    path = photos / "b" / "1.PNG"
    before, state = path.read_bytes(), path.stat()
    path.write_bytes(before[:-20] + bytes([before[-20] ^ 1]) + before[-19:])  # as long as before
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert digest_of(photos) != whole
    path.write_bytes(before)
    assert digest_of(photos) == whole
    path.rename(photos / "b" / "2.png")
    assert digest_of(photos) != whole
    (photos / "b" / "2.png").rename(path)
    image(photos / "b" / "5.png", (20, 20))
    assert digest_of(photos) != whole


def test_a_second_look_reads_no_contents(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    contents = digests._contents

    def counted(root: Path, names: list[bytes]) -> bytes:
        read.extend(map(os.fsdecode, names))
        return contents(root, names)

    monkeypatch.setattr(digests, "_contents", counted)
    whole = digest_of(photos)
    assert digest_of(photos) == whole and len(read) == 8  # written too lately to be trusted by their times
    monkeypatch.setattr(digests, "SETTLED", -1)
    assert digest_of(photos) == whole and len(read) == 12
    assert digest_of(photos) == whole and len(read) == 12
    [kept] = (cache / "digests").iterdir()
    kept.write_text("damaged")
    assert digest_of(photos) == whole and len(read) == 16
    os.utime(photos / "b" / "1.PNG", ns=(0, 0))
    assert digest_of(photos) == whole and len(read) == 20


@pytest.mark.parametrize("home", ["", "/proc/none"])
def test_digests_go_on_without_a_cache(photos: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setattr(digests, "SETTLED", -1)
    whole = digest_of(photos)
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where no home is known
    assert digest_of(photos) == whole


def test_what_may_hang_is_refused(photos: Path) -> None:
    os.mkfifo(photos / "a" / "7.png")
    with pytest.raises(UsageError, match=r"7.png is no regular file: take it out of the folder"):
        bench.data.load("folder", root=photos, size=16)
    (photos / "a" / "7.png").unlink()
    data = bench.data.load("folder", root=photos, size=16)
    (photos / "b" / "1.PNG").unlink()
    (photos / "b" / "1.PNG").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"1.PNG is no regular file"):
        _ = data.digest
    with pytest.raises(UsageError, match=r"1.PNG is no regular file"):
        bench.data.load("folder", root=photos, size=16)


def test_a_share_of_a_folder_is_held_out_by_name(tmp_path: Path) -> None:
    for number in range(200):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), number, np.uint8)).save(path)

    def held(**options: Any) -> set[int]:
        data = bench.data.load("folder", root=tmp_path / "photos", size=2, **options)
        data.check()
        assert data.num_classes == 2
        numbers = data.images(np.arange(len(data)))[:, 0, 0, 0]
        if options.get("split") == "test" and len(data) > 20:
            assert len(set(data.labels(np.arange(20)).tolist())) == 2  # the first ones are not of one class
        assert (data.labels(np.arange(len(data))).numpy() == numbers % 2).all()
        return set(numbers.tolist())

    test, train = held(holdout="0.25", split="test"), held(holdout=0.25, split="train")
    assert test | train == held() == set(range(200)) and not test & train
    assert 30 < len(test) < 70 and test < held(holdout=0.5, split="test")
    (tmp_path / "photos" / "a" / "0.png").unlink()
    assert held(holdout=0.25, split="test") == test - {0}
    for wrong in ({"holdout": 0.2}, {"split": "test"}, {"split": "train", "holdout": 1}):
        with pytest.raises(UsageError, match="holdout is between 0 and 1 and needs split="):
            held(**wrong)
    with pytest.raises(UsageError, match=r"no image of .* is in split=test with holdout=1e-09"):
        held(holdout=1e-9, split="test")


def png_of_16_bits(levels: np.ndarray) -> bytes:
    """(H, W, channels) uint16 as a PNG, by the format's specification."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = levels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_become_8_by_rounding(tmp_path: Path, channels: int) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (16, 16, channels)).astype(np.uint16)
    levels[0, :3, 0] = 0, 65535, 257 * 7
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "deep.png").write_bytes(png_of_16_bits(levels))
    data = bench.data.load("folder", root=tmp_path, size=16)
    found = data.images(np.arange(1))[0]
    colours = levels if channels == 3 else levels[..., :3] if channels == 4 else levels[..., :1].repeat(3, 2)
    error = np.abs(found - np.rint(colours / 257))
    assert error.max() <= (channels == 2)  # grey with alpha: Pillow drops the low bytes
    (tmp_path / "a" / "deep.png").write_bytes(png_of_16_bits(levels)[:-40])
    with pytest.raises(UsageError, match=r"cannot read the image .*deep.png"):
        data.images(np.arange(1))


def test_resizing_keeps_the_middle_of_the_picture() -> None:
    # 64×128 at side 16: halved twice by boxes of 2×2, then nothing is left to resize; rows 8 … 23 are kept.
    array = np.random.default_rng(0).random((128, 64), np.float32)
    made = np.asarray(resize_and_crop(Image.fromarray(array), 16))
    assert np.allclose(made, array.reshape(32, 4, 16, 4).mean((1, 3))[8:24], atol=1e-6)
    # A ramp stays a ramp: 40×24 at 16 is scaled by 2/3, and columns 5 … 20 of 27 are kept.
    ramp = Image.fromarray(np.tile(np.arange(40, dtype=np.float32), (24, 1)))
    made = np.asarray(resize_and_crop(ramp, 16))
    assert made.shape == (16, 16)
    assert np.allclose(made[:, 1:-1], ((np.arange(5, 21) + 0.5) * 40 / 27 - 0.5)[None, 1:-1], atol=0.05)


def test_bad_folders_are_named(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(root: Path, check: bool = False, **options: int) -> str:
        with pytest.raises(UsageError) as error:
            data = bench.data.load("folder", root=root, **{"size": 16, **options})
            if check:
                data.check()
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "none: No such file" in message(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no class folders: put images into" in message(tmp_path / "empty")
    assert "size must be at least 1" in message(photos, size=0)
    broken = photos / "a" / "5.jpg"
    broken.write_bytes((photos / "a" / "deep" / "2.jpg").read_bytes()[:-300])
    assert f"cannot read the image {broken}: OSError" in message(photos, check=True)
    broken.write_bytes(b"this is no image")
    assert f"cannot read the image {broken}: UnidentifiedImageError" in message(photos, check=True)
    broken.unlink()
    image(photos / "a" / "5.png", (1, 500))
    assert "5.png: ValueError: 1×500 is too long and thin" in message(photos, check=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert "DecompressionBombError" in message(photos, check=True)
    (photos / "c").mkdir()
    assert f"the class folder {photos / 'c'} has no images that Pillow reads" in message(photos)


# ---- plugins and what they may get wrong ----

PLUGIN = """
import numpy as np
import torch
import bench.data


@bench.data.register("stripes")
def stripes(count: int = 6):
    "Black and white."
    images = np.zeros((count, 8, 8, 1), np.uint8)
    images[1::2, :, ::2] = 255
    return bench.data.MemoryDataset(images, np.arange(count) % 2, ["black", "striped"])


@bench.data.register("wrong")
class Wrong(bench.data.Dataset):
    "Promises something else, or has labels outside its classes."

    shape, num_classes, digest = (4, 8, 8), 2, "0" * 12

    def __init__(self, label: int = 0, count: int = 3, grid: str = "shape"):
        self.label, self.count, self.grid = label, count, grid

    def __len__(self):
        return self.count

    def grids(self, indices, flip=None):
        if self.grid == "broken":
            return torch.zeros(3) + torch.zeros(4)
        return {
            "shape": torch.zeros(len(indices), 3, 8, 8),
            "type": torch.zeros(len(indices), 4, 8, 8, dtype=torch.float64),
            "array": np.zeros((len(indices), 4, 8, 8), np.float32),
            "nan": torch.full((len(indices), 4, 8, 8), torch.nan),
            "none": None,
        }[self.grid]

    def labels(self, indices):
        if self.label == 7:
            return [0] * len(indices)
        return torch.full((len(indices),), self.label)

    def to_images(self, grids):
        raise NotImplementedError


bench.data.register("none")(lambda: 3)


@bench.data.register("bare")
class Bare(bench.data.Dataset):
    "Forgets its digest."

    shape = (4, 8, 8)
    __len__ = grids = labels = to_images = None
"""


def test_a_plugin_adds_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.data.datasets, "_entries", dict(bench.data.datasets._entries))
    monkeypatch.delitem(bench.data.datasets.__dict__, "_installed", raising=False)
    (tmp_path / "my_stripes.py").write_text(PLUGIN)
    monkeypatch.setitem(sys.modules, "my_stripes", None)  # forgotten afterwards
    load_plugins([str(tmp_path / "my_stripes.py")])
    data = bench.data.load("stripes", count="4")
    data.check()
    assert (data.name, data.shape, len(data), data.flippable) == ("stripes", (4, 4, 4), 4, True)
    assert bench.data.describe("stripes").summary == "Black and white."
    plugin = re.escape(str(tmp_path / "my_stripes.py"))
    lines = PLUGIN.splitlines()
    grids, labels = (
        1 + lines.index(f"    def {name}")
        for name in ("grids(self, indices, flip=None):", "labels(self, indices):")
    )
    promised = r"dataset 'wrong': grids of one image are float32 \(1, 4, 8, 8\), not "
    for options, message, line in [
        ({}, promised + r"float32 \(1, 3, 8, 8\)", grids),
        ({"grid": "type"}, promised + r"float64 \(1, 4, 8, 8\)", grids),
        ({"grid": "array"}, promised + r"float32 \(1, 4, 8, 8\) \(an array, not a tensor\)", grids),
        ({"grid": "none"}, promised + "a NoneType", grids),
        ({"grid": "nan"}, "the grid of image 0 has numbers that are not finite", grids),
        ({"label": 2}, "dataset 'wrong': label 2 of image 0 is not one of 0 … 1", labels),
        ({"label": 7}, r"dataset 'wrong': labels of 3 images are int64 \(3,\), not a list", labels),
    ]:
        with pytest.raises(CodeError, match=rf"{message} \({plugin}, line {line}\)"):
            bench.data.load("wrong", **options).check()
    with pytest.raises(UsageError, match="dataset 'wrong' has no images"):
        bench.data.load("wrong", count=0).check()
    with pytest.raises(RuntimeError, match="must match"):  # their own error, as it is
        bench.data.load("wrong", grid="broken").check()
    with pytest.raises(CodeError, match=rf"'none' is a int, not a bench.data.Dataset \({plugin}, line "):
        bench.data.load("none")
    with pytest.raises(CodeError, match=rf"dataset 'bare' sets no digest \({plugin}, line "):
        bench.data.load("bare").check()
    with pytest.raises(UsageError, match="count"):
        bench.data.load("stripes", number=3)


def test_arrays_that_make_no_dataset_are_refused() -> None:
    images, labels = np.zeros((3, 8, 8, 3), np.uint8), np.arange(3)
    for wrong, message in [
        ((images / 2, labels, "abc"), "images are uint8"),
        ((images[:0], labels[:0], "abc"), "has no images"),
        ((images, labels[:2], "abc"), "3 images, but labels of shape"),
        ((images, labels, "ab"), "label 2 of image 2 is not one of 0 … 1"),
        ((images[:, 1:, :, :1], labels, "abc"), "even sides"),
    ]:
        with pytest.raises(UsageError, match=message):
            bench.data.MemoryDataset(*wrong)


def test_unknown_names_and_options() -> None:
    with pytest.raises(UsageError, match=r"unknown dataset 'digit'\. Did you mean 'digits'"):
        bench.data.load("digit")
    with pytest.raises(UsageError, match="needs a value for root, size"):
        bench.data.load("folder")
    with pytest.raises(UsageError, match=r"split must be 'train' \| 'test', not 'tests'"):
        bench.data.load("cifar10", split="tests")


def test_a_digest_tells_contents_apart() -> None:
    digest, array = digests.digest, np.arange(6, dtype=np.uint8)
    assert len(digest("a", array)) == 12
    assert digest("ab", "c") != digest("a", "bc")
    assert digest(array) == digest(array.copy()) != digest(array[::-1])
