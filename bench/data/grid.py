"""Images (uint8) to the grids that networks see (float32, about unit range) and back, exactly.

A colour image becomes a grid of its three channels, or of twelve and half its sides by space-to-depth. A
grey one always becomes a grid of four channels by space-to-depth, so that every backbone made for latents
sees what it expects. Values are v / 127.5 − 1, and back clamp(127.5·x + 128, 0, 255) cut to an integer, as
the papers' samplers write images: cutting v + ½ returns v.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from registry.errors import UsageError

Layout = Literal["pixels", "space-to-depth"]


def space_to_depth(images: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> (N, 4·C, H/2, W/2): channel 4·c + 2·i + j holds row 2y + i, column 2x + j of c.

    As `torch.nn.functional.pixel_unshuffle`, but it wakes no threads, which for a batch cost more.
    """
    n, c, h, w = images.shape
    cells = images.reshape(n, c, h // 2, 2, w // 2, 2)
    return cells.transpose(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def depth_to_space(grids: Tensor) -> Tensor:
    """(N, 4·C, H, W) -> (N, C, 2·H, 2·W), the inverse of `space_to_depth`."""
    return F.pixel_shuffle(grids, 2)


def grid_shape(height: int, width: int, channels: int, layout: Layout = "pixels") -> tuple[int, int, int]:
    """The grid (C, H, W) of an image; the layout matters for colour alone.

    Raises:
        UsageError: neither 1 nor 3 channels, or odd sides where space-to-depth halves them.
    """
    if channels not in (1, 3):
        raise UsageError(f"images need 1 channel or 3, not {channels}")
    if channels == 3 and layout == "pixels":
        return 3, height, width
    if height % 2 or width % 2:
        kind = "grey images" if channels == 1 else "images for space-to-depth"
        raise UsageError(f"{kind} need even sides, not {height}×{width}: pad them by a pixel")
    return 4 * channels, height // 2, width // 2


def to_grids(images: np.ndarray, layout: Layout = "pixels") -> Tensor:
    """(N, H, W, 1 or 3) uint8 -> (N, C, H', W') float32 in [−1, 1]; shapes as of `grid_shape`."""
    x = images.transpose(0, 3, 1, 2)
    if x.shape[1] == 1 or layout == "space-to-depth":
        x = space_to_depth(x)
    x = x.astype(np.float32, order="C")
    x /= np.float32(127.5)
    x -= 1
    return torch.from_numpy(x)


def to_images(grids: Tensor) -> np.ndarray:
    """(N, 3, 4 or 12, H, W) grids of images -> (N, H', W', 3) uint8; grey ones get three equal channels.

    Raises:
        UsageError: another number of channels.
    """
    channels = grids.shape[1]
    if channels not in (3, 4, 12):
        raise UsageError(f"grids of images have 3, 4 or 12 channels, not {channels}")
    x = grids if channels == 3 else depth_to_space(grids)
    x = (127.5 * x.float() + 128).clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
    return x.permute(0, 2, 3, 1).contiguous().cpu().numpy()
