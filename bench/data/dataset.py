"""What a dataset is: labelled grids by index. Subclass `Dataset`, `ImageDataset` or use `MemoryDataset`."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.data import grid
from registry.errors import UsageError


class Dataset(ABC):
    """Labelled grids, asked for by batches of indices; `dataset[i]` is one grid and its label.

    Instances are pickled into worker processes, so they keep neither open files nor networks.

    Attributes:
        name: the registered name, set by `bench.data.load`.
        shape: (C, H, W) of a grid.
        num_classes: labels are 0 … num_classes − 1; 0 where there are none.
        class_names: their names, if known.
        digest: 12 hexadecimal digits of the content, so that a run never continues on other data.
        flippable: whether `grids` can mirror.
        workers: processes that read it while a network trains; 0 where it lies in memory.
    """

    name: str = ""
    shape: tuple[int, int, int]
    num_classes: int = 0
    class_names: list[str] | None = None
    digest: str
    flippable: bool = False
    workers: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def grids(self, indices: np.ndarray, flip: np.ndarray | None = None) -> Tensor:
        """Grids as a network sees them: (N,) indices -> (N, C, H, W) float32, about unit range.

        Args:
            indices: (N,) integers from 0.
            flip: (N,) booleans, which of the images to mirror horizontally.

        Raises:
            UsageError: a file that cannot be read (named), or a flip where `flippable` is false.
        """

    @abstractmethod
    def labels(self, indices: np.ndarray) -> Tensor:
        """(N,) indices -> (N,) int64, zeros where there are no classes."""

    @abstractmethod
    def to_images(self, grids: Tensor) -> np.ndarray:
        """Pictures of grids, real or sampled, on any device: (N, C, H, W) -> (N, H', W', 3) uint8."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):  # the end, to whoever iterates
            raise IndexError(index)
        at = np.array([index])
        return self.grids(at)[0], int(self.labels(at)[0])

    def check(self) -> None:
        """Find before training begins what would end it midway: call it once, in one process.

        Raises:
            UsageError: no images, labels outside the classes, or grids of another shape or type than
                promised.
        """
        if not len(self):
            raise UsageError(f"dataset {self.name!r} has no images")
        check_labels(self.labels(np.arange(len(self))).numpy(), self.num_classes, f"dataset {self.name!r}")
        first = self.grids(np.arange(1))
        if first.shape[1:] != self.shape or first.dtype != torch.float32:
            raise UsageError(
                f"dataset {self.name!r} promises float32 grids of shape {tuple(self.shape)} and gives "
                f"{first.dtype} of {tuple(first.shape[1:])}"
            )


class ImageDataset(Dataset):
    """A dataset of pictures; subclasses give `images` and `labels`, and set `shape` by `grid.grid_shape`."""

    flippable = True

    @abstractmethod
    def images(self, indices: np.ndarray) -> np.ndarray:
        """(N,) indices -> (N, H, W, 1 or 3) uint8."""

    def grids(self, indices: np.ndarray, flip: np.ndarray | None = None) -> Tensor:
        """As `Dataset.grids`; values in [−1, 1]."""
        images = self.images(indices)
        if flip is not None and flip.any():
            if not self.flippable:
                raise UsageError(f"mirrored images are no part of dataset {self.name!r}: train without flips")
            images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
        return grid.to_grids(images)

    def to_images(self, grids: Tensor) -> np.ndarray:
        """As `Dataset.to_images`, exactly the inverse of `grids` on real images."""
        return grid.to_images(grids)


class MemoryDataset(ImageDataset):
    """Pictures held in memory as uint8.

    Args:
        images: (N, H, W, 1 or 3) uint8.
        labels: (N,) integers.
        class_names: of the classes 0, 1, …
        flippable: whether a mirrored image is one of the dataset too.
        source: where they come from, for messages.

    Raises:
        UsageError: arrays of another kind or shape, no images, or labels outside the classes.

    Example:
        >>> MemoryDataset(np.zeros((6, 32, 32, 3), np.uint8), np.arange(6) % 2, ["cat", "dog"])
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        *,
        flippable: bool = True,
        source: str = "the dataset",
    ) -> None:
        if images.dtype != np.uint8 or images.ndim != 4:
            raise UsageError(f"{source}: images are uint8 (N, H, W, C), not {images.dtype} {images.shape}")
        if not len(images):
            raise UsageError(f"{source} has no images")
        if labels.shape != images.shape[:1]:
            raise UsageError(f"{source}: {len(images)} images, but labels of shape {labels.shape}")
        check_labels(labels, len(class_names), source)
        height, width, channels = images.shape[1:]
        self.shape = grid.grid_shape(height, width, channels)
        self.num_classes, self.class_names, self.flippable = len(class_names), list(class_names), flippable
        self._images, self._labels = images, labels.astype(np.int64)
        self.digest = digest(self._images, self._labels)

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """As `ImageDataset.images`."""
        return self._images[indices]

    def labels(self, indices: np.ndarray) -> Tensor:
        """As `Dataset.labels`."""
        return torch.from_numpy(self._labels[indices])


def check_labels(labels: np.ndarray, num_classes: int, source: str) -> None:
    """Nothing, if all labels are 0 … num_classes − 1 (0 without classes).

    Raises:
        UsageError: the first label that is not, and the number of its image.
    """
    last = max(num_classes, 1) - 1
    wrong = np.flatnonzero((labels < 0) | (labels > last))
    if len(wrong):
        raise UsageError(f"{source}: label {labels[wrong[0]]} of image {wrong[0]} is not one of 0 … {last}")


def digest(*parts: str | bytes | np.ndarray) -> str:
    """12 hexadecimal digits of contents in order (SHA-256)."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(f"{len(data)}:".encode())  # so that neighbours cannot trade bytes
        total.update(np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else data)
    return total.hexdigest()[:12]
