"""Latents on disk: pictures that an autoencoder has encoded once, in either of two layouts.

**Of the U-DiT and fast-DiT releases**: `ROOT/imagenet256_features/0.npy …`, each (1, 4, 32, 32) float32, and
`ROOT/imagenet256_labels/0.npy …`, each (1,) integer; any two folders whose names contain `features` and
`labels` will do. Their values are one sample of the posterior, already scaled by 0.18215, of images that
were mirrored or not at random when they were encoded.

**Ours**, written by `bench encode`, for millions of images: `index.json` (what they are), `labels.npy`, and
`latents-00000.npy …`, each (shard_size, V, C, H, W), memory-mapped. V = 2 where the latents of the
mirrored images are kept too.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.data import autoencoder, register
from bench.data.dataset import Dataset, check_labels, digest
from registry.errors import UsageError, reason

INDEX = "index.json"
LABELS = "labels.npy"
PROBES = 64  # files whose content enters the digest of a release


@dataclass(frozen=True)
class Index:
    """What `index.json` tells of encoded images.

    Attributes:
        count: of images; they and their latents are numbered alike.
        shape: (C, H, W) of the latents of one image.
        scale: what z was multiplied by.
        vae: the autoencoder, a folder or an id of the hub.
        posterior: whether latents are a sample of it or its mean.
        seed: of the samples.
        flipped: whether latents of the mirrored images are kept.
        dtype: of the shards.
        shard_size: images of a shard; the last one may have fewer.
        num_classes, class_names: of the images.
        source: the digest of the images.
    """

    count: int
    shape: tuple[int, int, int]
    scale: float
    vae: str
    posterior: Literal["sample", "mean"]
    seed: int
    flipped: bool
    dtype: Literal["float32", "float16"]
    shard_size: int
    num_classes: int
    class_names: list[str] | None
    source: str
    version: Literal[1] = 1

    @property
    def views(self) -> int:
        """V: latents kept for each image."""
        return 1 + self.flipped

    def shards(self) -> list[range]:
        """The images of each shard."""
        size = self.shard_size
        return [range(start, min(start + size, self.count)) for start in range(0, self.count, size)]


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"latents-{number:05d}.npy"


@register("latents")
def latents(root: Path, vae: str | None = None, num_classes: int | None = None) -> Dataset:
    """Latents on disk, of `bench encode` or of the U-DiT and fast-DiT releases.

    Args:
        root: the folder.
        vae: the autoencoder that decodes samples, a diffusers folder or an id of the hub. Default: that
            which encoded them, sd-vae-ft-ema for the releases.
        num_classes: for the releases, which do not tell; default 1000.
    """
    root = root.expanduser()
    if (root / INDEX).is_file():
        if num_classes is not None:
            raise UsageError(f"{root / INDEX} tells the number of classes: leave num_classes out")
        return Encoded(root, vae)
    return Released(root, vae or autoencoder.VAE, 1000 if num_classes is None else num_classes)


class _Latents(Dataset):
    vae: str
    scale: float
    workers = 2

    def to_images(self, grids: Tensor) -> np.ndarray:
        """As `Dataset.to_images`: decoded on the device of the grids.

        Raises:
            UsageError: the autoencoder is not to be had.
        """
        return autoencoder.load(self.vae).decode(grids, self.scale)


class Encoded(_Latents):
    """Latents in our layout; see the top of this file."""

    def __init__(self, root: Path, vae: str | None) -> None:
        self.root = root
        self.index = index = read_index(root / INDEX)
        self.shape, self.scale, self.vae = index.shape, index.scale, vae or index.vae
        self.num_classes, self.class_names = index.num_classes, index.class_names
        self.flippable = index.flipped
        self._labels = _read(root / LABELS)
        _check_array(root / LABELS, self._labels, (index.count,), "i")
        check_labels(self._labels, index.num_classes, str(root / LABELS))
        for number, images in enumerate(index.shards()):
            path = root / shard_name(number)
            _check_array(path, _read(path, mapped=True), (len(images), index.views, *index.shape), "f")
        self.digest = digest((root / INDEX).read_bytes(), self._labels)

    def __len__(self) -> int:
        return self.index.count

    def labels(self, indices: np.ndarray) -> Tensor:
        """As `Dataset.labels`."""
        return torch.from_numpy(self._labels[indices].astype(np.int64))

    def grids(self, indices: np.ndarray, flip: np.ndarray | None = None) -> Tensor:
        """As `Dataset.grids`."""
        views = np.zeros(len(indices), int) if flip is None else flip.astype(int)
        if views.any() and not self.flippable:
            raise UsageError(f"{self.root} keeps no latents of mirrored images: encode with --flip")
        found = np.empty((len(indices), *self.shape), np.float32)
        for row, (index, view) in enumerate(zip(indices, views, strict=True)):
            number, place = divmod(int(index), self.index.shard_size)
            found[row] = _mapped(self.root / shard_name(number))[place, view]
        return torch.from_numpy(found)


class Released(_Latents):
    """Latents in the layout of the releases; see the top of this file."""

    scale = autoencoder.SCALE

    def __init__(self, root: Path, vae: str, num_classes: int) -> None:
        self.vae, self.num_classes = vae, num_classes
        self._features, self._label_files = (_only(root, word) for word in ("features", "labels"))
        self._count = _count(self._features)
        if _count(self._label_files) != self._count:
            raise UsageError(
                f"{self._features} and {self._label_files} hold {self._count} and "
                f"{_count(self._label_files)} files: each image needs one of each"
            )
        shape = _read(self._features / "0.npy").shape[-3:]
        if len(shape) != 3:
            raise UsageError(f"{self._features / '0.npy'} has shape {shape}, not (1, C, H, W) or (C, H, W)")
        self.shape = shape
        probes = np.unique(np.linspace(0, self._count - 1, PROBES).astype(int))
        self.digest = digest(str(self._count), self.grids(probes).numpy())

    def __len__(self) -> int:
        return self._count

    def grids(self, indices: np.ndarray, flip: np.ndarray | None = None) -> Tensor:
        """As `Dataset.grids`."""
        if flip is not None and flip.any():
            raise UsageError(
                f"{self._features} keeps no latents of mirrored images (the releases mirrored them at random "
                "before encoding): train without flips"
            )
        found = np.empty((len(indices), *self.shape), np.float32)
        for row, index in enumerate(indices):
            path = self._features / f"{index}.npy"
            feature = _read(path)
            _check_array(path, feature, (1,) * (feature.ndim - 3) + self.shape, "f")
            found[row] = feature.reshape(self.shape)
        return torch.from_numpy(found)

    def labels(self, indices: np.ndarray) -> Tensor:
        """As `Dataset.labels`.

        Raises:
            UsageError: a file that cannot be read or holds something else, named.
        """
        return torch.tensor([self._label(self._label_files / f"{index}.npy") for index in indices])

    def _label(self, path: Path) -> int:
        label = _read(path)
        if label.size != 1 or label.dtype.kind not in "iu":
            raise UsageError(f"{path} holds {label.dtype} {label.shape}, not one integer")
        if not 0 <= label.item() < self.num_classes:
            raise UsageError(f"{path} holds label {label.item()}, not one of 0 … {self.num_classes - 1}")
        return label.item()


def read_index(path: Path) -> Index:
    """What an `index.json` says.

    Raises:
        UsageError: it cannot be read, or lacks something.
    """
    try:
        return TypeAdapter(Index).validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UsageError(f"{path} is damaged: {where} {error.errors()[0]['msg']}") from None


# Fewer open maps than the 1,024 files that a process may usually have open.
@functools.lru_cache(maxsize=512)
def _mapped(path: Path) -> np.ndarray:
    return _read(path, mapped=True)


def _read(path: Path, mapped: bool = False) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} is damaged or cut short: {reason(error)}") from None


def _check_array(path: Path, array: np.ndarray, shape: tuple[int, ...], kind: str) -> None:
    if array.shape != shape or array.dtype.kind != kind:
        numbers = {"f": "floating-point numbers", "i": "integers"}[kind]
        raise UsageError(f"{path} holds {array.dtype} {array.shape}, not {numbers} {shape}")


def _only(root: Path, word: str) -> Path:
    """The one folder in `root` whose name contains `word`."""
    try:
        found = [path for path in sorted(root.iterdir()) if word in path.name and path.is_dir()]
    except OSError as error:
        raise UsageError(f"cannot read the folder {root}: {error.strerror}") from None
    if not found:
        raise UsageError(
            f"{root} holds no latents: no {INDEX} of a finished `bench encode`, no *{word}* folder "
            "of a release"
        )
    if len(found) > 1:
        raise UsageError(f"{root} has several *{word}* folders: {', '.join(path.name for path in found)}")
    return found[0]


def _count(folder: Path) -> int:
    """How many files 0.npy … there are.

    Raises:
        UsageError: none, or one is missing in between.
    """
    numbers = np.array(sorted(int(p.stem) for p in folder.glob("*.npy") if p.stem.isdecimal()), np.int64)
    if not len(numbers):
        raise UsageError(f"{folder} has no files 0.npy, 1.npy, …")
    missing = np.flatnonzero(numbers != np.arange(len(numbers)))
    if len(missing):
        raise UsageError(f"{folder / f'{missing[0]}.npy'} is missing")
    return len(numbers)
