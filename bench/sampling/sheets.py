"""Sheets: images side by side in one PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.utils.files import write_whole

GAP = 2  # white pixels between images


def columns(classes: int) -> int:
    """Number of images in a line of a sheet: one of each class if there are few classes."""
    return classes if 0 < classes <= 10 else 10


def write_sheet(path: Path, images: np.ndarray, columns: int) -> None:
    """Write images in lines of `columns` as a PNG, small ones magnified to about 64 pixels.

    Args:
        images: (N, H, W, 3) uint8.
    """
    from PIL import Image

    times = max(1, 64 // max(images.shape[1:3]))
    count, height, width, _ = images.shape
    height, width = height * times, width * times
    lines = -(-count // columns)
    sheet = np.full((lines * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image.repeat(times, axis=0).repeat(times, axis=1)
    write_whole(path, lambda made: Image.fromarray(sheet).save(made))
