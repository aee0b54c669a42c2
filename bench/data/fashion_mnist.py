"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): 70,000 grey images of clothes, 28×28."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from bench.data import register, sources
from bench.data.dataset import MemoryDataset
from registry.errors import UsageError, reason

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
RAW = Path("FashionMNIST", "raw")  # in a root of torchvision
CLASSES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
PADDING = 2  # to 32×32, hence 4×16×16 grids
VERSION = 1  # raise it when the same files give other grids or labels; part of each record


@register("fashion-mnist")
def fashion_mnist(root: Path | None = None, split: Literal["train", "test"] = "train") -> MemoryDataset:
    """60,000 grey images of clothes in 10 classes (test: 10,000), padded to 32×32, as 4×16×16 grids.

    Args:
        root: a root of torchvision, or a folder of the four `…-ubyte` files, compressed or not. Default:
            the files that Debian's `dataset-fashion-mnist` installs, else a download.
        split: `train` or `test`.
    """
    folder = _folder(root)
    stem = "train" if split == "train" else "t10k"
    images = read_idx(_file(folder, f"{stem}-images-idx3-ubyte"), 3)
    labels = read_idx(_file(folder, f"{stem}-labels-idx1-ubyte"), 1)
    images = np.pad(images, [(0, 0), (PADDING, PADDING), (PADDING, PADDING)])  # the background is 0
    return MemoryDataset(
        images[..., None],
        labels,
        CLASSES,
        flippable=False,
        flip_note="all of its shoes point to the left",
        source=str(folder),
    )


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An array of bytes in the IDX format, compressed if the name ends so.

    torchvision's reader of the same format takes no compressed files and meets damaged ones with bare
    assertions, so this one stays.

    Raises:
        UsageError: the file is missing, damaged or cut short, or has another number of dimensions.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from None
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes([0, 0, 8, dimensions]):
        raise UsageError(f"{path} is no IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != np.prod(shape, dtype=np.int64):
        raise UsageError(f"{path} is damaged: {len(data) - start} bytes, but its header says {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _folder(root: Path | None) -> Path:
    if root is not None:
        root = root.expanduser()
        return root / RAW if (root / RAW).is_dir() else root
    if DEBIAN.is_dir():
        return DEBIAN
    advice = (
        "install Debian's package dataset-fashion-mnist, or put its four files "
        "(train-images-idx3-ubyte.gz, …) into a folder and give it as root=FOLDER"
    )
    return sources.downloaded("fashion-mnist", _download, advice) / RAW


def _file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UsageError(
        f"{folder} has no {name} (or .gz): root is a root of torchvision or a folder of such files"
    )


def _download(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(folder), download=True)  # compares checksums
