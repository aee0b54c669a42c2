"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images, 32×32, in 10 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from bench.data import register, sources
from bench.data.dataset import MemoryDataset, check_labels
from bench.data.grid import Layout
from registry.errors import UsageError, reason

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then red, green and blue
VERSION = 1  # raise it when the same files give other grids or labels; part of each record


@register("cifar10")
def cifar10(
    root: Path | None = None, split: Literal["train", "test"] = "train", grid: Layout = "pixels"
) -> MemoryDataset:
    """50,000 colour images in 10 classes (test: 10,000), as 3×32×32 or 12×16×16 grids.

    Args:
        root: a folder with the binary version (`cifar-10-batches-bin`, or its files), or with torchvision's
            (`cifar-10-batches-py`, pickled, hence read only where each file is the official one by its
            checksum). Default: a download of the binary version.
        split: `train` or `test`.
        grid: `pixels`, or `space-to-depth` for 12×16×16 grids.
    """
    if root is None:
        advice = f"unpack {URL} somewhere and give that folder as root=FOLDER"
        root = sources.downloaded("cifar10", _download, advice)
    root = root.expanduser()
    if (root / "cifar-10-batches-py").is_dir() and not (root / "cifar-10-batches-bin").is_dir():
        images, labels = _read_torchvision(root, split)
    else:
        images, labels = _read_binary(root, split)
    return MemoryDataset(images, labels, CLASSES, layout=grid, source=str(root))


def _read_binary(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32, 32, 3) images and (N,) labels; a file may hold any number of whole records."""
    folder = root / "cifar-10-batches-bin"
    folder = folder if folder.is_dir() else root
    parts = []
    for path in (folder / name for name in FILES[split]):
        if not path.is_file():
            raise UsageError(
                f"no {path}: root is the folder that holds cifar-10-batches-bin, unpacked from {URL}"
            )
        try:
            data = np.fromfile(path, np.uint8)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        if len(data) % RECORD or not len(data):
            raise UsageError(f"{path} is cut short: {len(data)} bytes are no whole records of {RECORD}")
        parts.append(data.reshape(-1, RECORD))
        check_labels(parts[-1][:, 0], len(CLASSES), str(path))
    records = np.concatenate(parts)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0]


def _read_torchvision(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import CIFAR10

    try:
        # It compares each file with the official checksum before it unpickles any.
        batches = CIFAR10(str(root), train=split == "train")
    except OSError as error:
        raise UsageError(f"cannot read {root / 'cifar-10-batches-py'}: {reason(error)}") from None
    except RuntimeError:
        raise UsageError(
            f"{root / 'cifar-10-batches-py'} lacks files or differs from the official ones, so its "
            f"pickles are not read: use the binary version, {URL}"
        ) from None
    return batches.data, np.array(batches.targets)


def _download(folder: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(URL, str(folder), md5=MD5)
