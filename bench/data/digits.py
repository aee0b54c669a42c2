"""scikit-learn's 1,797 handwritten digits (UCI, 8×8, grey 0 … 16), resized: small, real, always there."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import register
from bench.data.dataset import MemoryDataset

SIDE = 16  # a 4×8×8 grid after space-to-depth: U-DiT halves three times
VERSION = 1  # raise it when scikit-learn's images give other grids or labels; part of each record


@register("digits")
def digits(split: Literal["all", "train", "test"] = "all") -> MemoryDataset:
    """1,797 handwritten digits in 10 classes, 16×16 grey, as 4×8×8 grids.

    Args:
        split: all of them, the 1,437 to train on, or the 360 held out: a fifth of each class, the only ones
            that the `digits` extractor was trained on (scikit-learn's `train_test_split` of all with
            `test_size=0.2`, stratified, `random_state=0`; the order stays that of the file).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    rows = np.arange(len(loaded.target))
    if split != "all":
        parts = train_test_split(rows, test_size=0.2, stratify=loaded.target, random_state=0)
        rows = np.sort(parts[split == "test"])
    small = np.round(loaded.images[rows] * (255 / 16))  # (N, 8, 8) of whole grey levels
    large = upsample(torch.from_numpy(small).float()[:, None], SIDE).round().to(torch.uint8)
    return MemoryDataset(
        large.permute(0, 2, 3, 1).numpy(),
        loaded.target[rows],
        [str(name) for name in loaded.target_names],
        flippable=False,
        flip_note="a mirrored digit is no digit",
        source="digits",
    )


def upsample(images: Tensor, side: int) -> Tensor:
    """(N, C, H, W) float -> (N, C, side, side) by bilinear interpolation between centres of pixels."""
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
