"""A folder of images by class: ROOT/CLASS/…/IMAGE, resized and cropped as ADM and DiT prepare ImageNet."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.data import register
from bench.data.dataset import ImageDataset, digest
from registry.errors import UsageError, reason

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
READ_THROUGH = 64 * 2**20  # bytes of files that `check` reads all of, in a few seconds


@register("folder")
class Folder(ImageDataset):
    """Images of a folder by class (ROOT/CLASS/…/IMAGE), read when asked for, as 3×size×size grids.

    Classes are the sorted names of the folders; grey images and those with an alpha channel become RGB as
    Pillow converts them. The digest is of names and sizes of files, not of their content.

    Args:
        root: the folder.
        size: side of the square that images are resized and cropped to.

    Raises:
        UsageError: no such folder, no class folders, or one without images.
    """

    def __init__(self, root: Path, size: int) -> None:
        if size < 1:
            raise UsageError(f"size must be at least 1, not {size}")
        self.root, self.size = root.expanduser(), size
        self.workers = min(os.cpu_count() or 1, 8)
        self.shape = (3, size, size)
        try:
            self.class_names = sorted(
                entry.name
                for entry in os.scandir(self.root)
                if entry.is_dir() and not entry.name.startswith(".")
            )
            found = [_images(self.root, name) for name in self.class_names]
        except OSError as error:
            raise UsageError(f"cannot read the folder {error.filename or root}: {error.strerror}") from None
        if not found:
            raise UsageError(f"{root} has no class folders: put images into {root}/CLASS/")
        for name, images in zip(self.class_names, found, strict=True):
            if not images:
                raise UsageError(f"the class folder {self.root / name} has no {', '.join(ENDINGS)} files")
        self.num_classes = len(found)
        # Arrays, not lists: millions of names go to every worker process.
        self._files = np.array([file for images in found for file, _ in images])
        self._labels = np.repeat(np.arange(len(found)), [len(images) for images in found])
        sizes = np.array([length for images in found for _, length in images])
        self._bytes = int(sizes.sum())
        self.digest = digest(str(size), b"\0".join(self._files), sizes)

    def __len__(self) -> int:
        return len(self._files)

    def labels(self, indices: np.ndarray) -> Tensor:
        """As `Dataset.labels`."""
        return torch.from_numpy(self._labels[indices])

    def images(self, indices: np.ndarray) -> np.ndarray:
        """As `ImageDataset.images`: (N, size, size, 3).

        Raises:
            UsageError: an image that cannot be read, named.
        """
        return np.stack([self._read(index) for index in indices])

    def check(self) -> None:
        """As `Dataset.check`; a folder of up to 64 MiB is read through, for damaged images."""
        super().check()
        if self._bytes <= READ_THROUGH:
            with ThreadPoolExecutor() as pool:
                for _ in pool.map(self._read, range(len(self))):
                    pass

    def _read(self, index: int) -> np.ndarray:
        path = self.root / os.fsdecode(self._files[index])
        try:
            with Image.open(path) as image:
                return np.asarray(resize_and_crop(image.convert("RGB"), self.size))
        except Exception as error:  # decoders raise anything on damaged files; Pillow refuses huge ones
            raise UsageError(f"cannot read the image {path}: {reason(error)}") from None


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The square of side `size` in the middle of an image whose shorter side is made that long.

    As in ADM and DiT: halved by box averages while the shorter side is at least twice as long, then
    bicubic.

    Raises:
        ValueError: an image so long and thin that it would become huge.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if max(width, height) > 100 * size:
        raise ValueError(f"{image.width}×{image.height} is too long and thin")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _images(root: Path, inside: str) -> list[tuple[bytes, int]]:
    """Images in a folder of `root`: paths from `root` and sizes in bytes, sorted."""
    found = []
    for entry in os.scandir(root / inside):
        path = f"{inside}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            found += _images(root, path)
        elif entry.name.lower().endswith(ENDINGS):
            found.append((os.fsencode(path), entry.stat().st_size))
    return sorted(found)
