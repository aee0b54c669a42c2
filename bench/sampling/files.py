"""Image files: the ADM suite's `.npz`, or a folder of PNGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.utils.files import write_whole
from bench.utils.progress import Progress, silent


def write_images(out: Path, images: np.ndarray, labels: np.ndarray, progress: Progress = silent) -> None:
    """Write images, whole or not at all: `arr_0` and `arr_1` of an `.npz`, or PNGs of a folder.

    Args:
        out: a path that ends in `.npz`, or a folder.
        images: (N, H, W, 3) uint8.
        labels: (N,) int64; a folder has none.

    Raises:
        UsageError: the place cannot be written to.
    """
    if out.suffix == ".npz":
        write_whole(out, lambda made: np.savez(made, arr_0=images, arr_1=labels))
    else:
        write_whole(out, lambda made: _write_folder(made, images, progress))


def _write_folder(folder: Path, images: np.ndarray, progress: Progress) -> None:
    from PIL import Image

    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:06d}.png")
        progress("writing", i + 1, len(images))
