"""A folder of images by class: ROOT/CLASS/…/IMAGE, resized and cropped as ADM and DiT prepare ImageNet."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.data import register
from bench.data.dataset import ImageDataset
from bench.data.digests import digest, files_digest
from bench.data.images import FORMATS, image_files, left_out_note, to_rgb
from registry.errors import UsageError, reason

READ_THROUGH = 64 * 2**20  # bytes of files that `check` reads all of, in a few seconds
VERSION = 2  # raise it when the same files give other grids or labels; part of each record


@register("folder")
class Folder(ImageDataset):
    """Images of a folder by class (ROOT/CLASS/…/IMAGE), read when asked for, as 3×size×size grids.

    Classes are the sorted names of the folders; all images become 8-bit RGB (`bench.data.images.to_rgb`).
    What is no image is left out with a warning (`bench.data.images.image_files`).

    Args:
        root: the folder.
        size: side of the square that images are resized and cropped to.
        holdout: the share of images that are held out, about: those where the first 8 bytes of the SHA-256 of
            their path from `root` (`CLASS/IMAGE`), as a big-endian number, are less than that share of 2⁶⁴.
            Which they are does not change when other images come or go. They come in the order of this
            number, so that the first of them are of all classes.
        split: all images, those to `train` on or those held out (`test`).

    Attributes:
        left_out: how many files, or folders, of which kind were left out.

    Raises:
        UsageError: no such folder, no class folders, one without images, something that is no regular file,
            or a split without images.
    """

    def __init__(
        self, root: Path, size: int, holdout: float = 0.0, split: Literal["all", "train", "test"] = "all"
    ) -> None:
        if size < 1:
            raise UsageError(f"size must be at least 1, not {size}")
        if not (0 < holdout < 1 if split != "all" else holdout == 0):
            raise UsageError(
                "holdout is between 0 and 1 and needs split=train or split=test, "
                f"not holdout={holdout:g} split={split}"
            )
        self.root, self.size = root.expanduser(), size
        self.workers = min(os.cpu_count() or 1, 8)
        self.shape = (3, size, size)
        found, self.left_out = image_files(self.root)
        classes = sorted(e.name for e in os.scandir(self.root) if e.is_dir() and not e.name.startswith("."))
        if not classes:
            raise UsageError(f"{root} has no class folders: put images into {root}/CLASS/")
        images: dict[str, list[str]] = {name: [] for name in classes}
        for path in found:
            name, inside, _ = path.partition("/")
            if inside:
                images[name].append(path)
            else:
                self.left_out["images outside of class folders"] += 1
        for name in classes:
            if not images[name]:
                raise UsageError(f"the class folder {self.root / name} has no images that Pillow reads")
        if self.left_out:
            warnings.warn(left_out_note(self.root, self.left_out), stacklevel=2)
        self.class_names, self.num_classes = classes, len(classes)
        # Arrays, not lists: millions of names go to every worker process.
        self._files = np.array([file for name in classes for file in sorted(map(os.fsencode, images[name]))])
        self._labels = np.repeat(np.arange(len(classes)), [len(images[name]) for name in classes])
        sizes = np.array([found[os.fsdecode(file)] for file in self._files])
        if split != "all":
            places = np.array([_place(file) for file in self._files])
            if split == "test":
                ours = np.flatnonzero(places < holdout)[np.argsort(places[places < holdout], kind="stable")]
            else:
                ours = np.flatnonzero(places >= holdout)
            if not len(ours):
                raise UsageError(f"no image of {root} is in split={split} with holdout={holdout:g}")
            self._files, self._labels, sizes = self._files[ours], self._labels[ours], sizes[ours]
        self._bytes = int(sizes.sum())

    @functools.cached_property
    def digest(self) -> str:  # type: ignore[override]
        """As `Dataset.digest`: of the size, the names of classes, and the names and contents of the files.

        The first time the files are read through; afterwards their sizes and times are looked at.
        """
        assert self.class_names is not None
        classes = b"\0".join(map(os.fsencode, self.class_names))
        return digest(str(self.size), classes, files_digest(self.root, self._files.tolist()))

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
            with Image.open(path, formats=FORMATS) as image:
                return np.asarray(resize_and_crop(to_rgb(image), self.size))
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


def _place(file: bytes) -> float:
    """A number from 0 to 1 that follows from the path of an image."""
    return int.from_bytes(hashlib.sha256(file).digest()[:8], "big") / 2**64
