"""Base classes of datasets: labelled grids by index. Subclass `Dataset`, `ImageDataset` or use
`MemoryDataset`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.data import grid
from bench.data.digests import digest
from registry.errors import CodeError, UsageError


class Dataset(ABC):
    """Labelled grids, read in batches of indices; `dataset[i]` is one grid and its label.

    Instances are pickled into worker processes, so they keep neither open files nor networks.

    Attributes:
        name: the registered name, set by `bench.data.load`.
        shape: (C, H, W) of a grid.
        num_classes: labels are 0 … num_classes − 1; 0 where there are none.
        class_names: their names, if known.
        digest: 12 hexadecimal digits of the content and of options that change it, so that a run never
            continues on other data, and a record of other data is never taken for one of these.
        flippable: whether `grids` can mirror. Where it cannot, a protocol's `flip = true` does nothing.
        flip_note: why it cannot, for messages and records.
        posterior: whether an image has many grids, one for each `noise` given to `grids`; training then
            draws anew at every step.
        workers: number of processes that read it in training; 0 for data in memory.
    """

    name: str = ""
    shape: tuple[int, int, int]
    num_classes: int = 0
    class_names: list[str] | None = None
    digest: str
    flippable: bool = False
    flip_note: str = "mirrored images are no part of it"
    posterior: bool = False
    workers: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def grids(
        self, indices: np.ndarray, flip: np.ndarray | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Grids as a network sees them: (N,) indices -> (N, C, H, W) float32, about unit range.

        Args:
            indices: (N,) integers from 0.
            flip: (N,) booleans, which of the images to mirror horizontally.
            noise: (N, C, H, W) standard normal numbers that choose one grid of each image. Given only where
                `posterior` is true, others may leave the argument out; without it the choice is fixed.

        Raises:
            UsageError: a file that cannot be read (named), or a flip where `flippable` is false.
        """

    @abstractmethod
    def labels(self, indices: np.ndarray) -> Tensor:
        """(N,) indices -> (N,) int64, zeros where there are no classes."""

    @abstractmethod
    def to_images(self, grids: Tensor) -> np.ndarray:
        """Images of grids, real or sampled, on any device: (N, C, H, W) -> (N, H', W', 3) uint8."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):  # the end, to whoever iterates
            raise IndexError(index)
        at = np.array([index])
        return self.grids(at)[0], int(self.labels(at)[0])

    def check(self) -> None:
        """Find errors before training starts; call it once, in one process.

        Raises:
            UsageError: there are no images, or a file cannot be read.
            CodeError: the class lacks an attribute, or returns labels or grids of another kind than promised.
        """
        title, own = f"dataset {self.name!r}", type(self)
        for attribute in ("shape", "digest"):
            if attribute not in dir(self):
                raise CodeError(f"{title} sets no {attribute}", own)
        if not len(self):
            raise UsageError(f"{title} has no images")
        labels: object = self.labels(np.arange(len(self)))
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (len(self),):
            raise CodeError(
                f"{title}: labels of {len(self)} images are int64 ({len(self)},), not {_kind(labels)}",
                own.labels,
            )
        wrong = _wrong_label(labels.numpy(), self.num_classes)
        if wrong:
            raise CodeError(f"{title}: {wrong}", own.labels)
        grids: object = self.grids(np.arange(1))
        shape = (1, *self.shape)
        if not isinstance(grids, Tensor) or grids.shape != shape or grids.dtype != torch.float32:
            raise CodeError(f"{title}: grids of one image are float32 {shape}, not {_kind(grids)}", own.grids)
        if not grids.isfinite().all():
            raise CodeError(f"{title}: the grid of image 0 has numbers that are not finite", own.grids)


class ImageDataset(Dataset):
    """A dataset of images; subclasses give `images` and `labels`, and set `shape` by `grid.grid_shape`.

    Attributes:
        layout: of colour in grids, `pixels` (3×H×W) or `space-to-depth` (12×H/2×W/2).
    """

    flippable = True
    layout: grid.Layout = "pixels"

    @abstractmethod
    def images(self, indices: np.ndarray) -> np.ndarray:
        """(N,) indices -> (N, H, W, 1 or 3) uint8."""

    def grids(
        self, indices: np.ndarray, flip: np.ndarray | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """As `Dataset.grids`; values in [−1, 1]. Images have no posterior, so there is no use for noise."""
        images = self.images(indices)
        if flip is not None and flip.any():
            if not self.flippable:
                raise UsageError(f"dataset {self.name!r} cannot be mirrored: {self.flip_note}")
            images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
        return grid.to_grids(images, self.layout)

    def to_images(self, grids: Tensor) -> np.ndarray:
        """As `Dataset.to_images`, exactly the inverse of `grids` on real images."""
        return grid.to_images(grids)


class MemoryDataset(ImageDataset):
    """Images held in memory as uint8.

    Args:
        images: (N, H, W, 1 or 3) uint8.
        labels: (N,) integers.
        class_names: of the classes 0, 1, …
        flippable: whether images may be mirrored in training (digits may not).
        flip_note: why it is not.
        layout: of colour in grids; see `ImageDataset`.
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
        flip_note: str = Dataset.flip_note,
        layout: grid.Layout = "pixels",
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
        self.shape, self.layout = grid.grid_shape(height, width, channels, layout), layout
        self.num_classes, self.class_names = len(class_names), list(class_names)
        self.flippable, self.flip_note = flippable, flip_note
        self._images, self._labels = images, labels.astype(np.int64)
        self.digest = digest(self._images, self._labels, *[layout] * (layout != "pixels"))

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
    wrong = _wrong_label(labels, num_classes)
    if wrong:
        raise UsageError(f"{source}: {wrong}")


def _wrong_label(labels: np.ndarray, num_classes: int) -> str:
    """What is wrong with the first label outside the classes, or nothing."""
    last = max(num_classes, 1) - 1
    wrong = np.flatnonzero((labels < 0) | (labels > last))
    return f"label {labels[wrong[0]]} of image {wrong[0]} is not one of 0 … {last}" if len(wrong) else ""


def _kind(value: object) -> str:
    """Type and shape of what a dataset returned, for a message."""
    if isinstance(value, Tensor | np.ndarray):
        of = "" if isinstance(value, Tensor) else " (an array, not a tensor)"
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}{of}"
    return f"a {type(value).__name__}"
