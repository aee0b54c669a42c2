"""scikit-learn's 1,797 handwritten digits (UCI, 8×8, grey 0 … 16), enlarged: small, real, always there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import register
from bench.data.dataset import MemoryDataset

SIDE = 16  # a 4×8×8 grid after space-to-depth: U-DiT halves three times


def enlarge(pictures: Tensor, side: int = SIDE) -> Tensor:
    """(N, C, H, W) float -> (N, C, side, side) by bilinear interpolation between centres of pixels."""
    return F.interpolate(pictures, (side, side), mode="bilinear", align_corners=False)


@register("digits")
def digits() -> MemoryDataset:
    """1,797 handwritten digits in 10 classes, 16×16 grey, as 4×8×8 grids."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = np.round(found.images * (255 / 16))  # (N, 8, 8) of whole grey levels
    large = enlarge(torch.from_numpy(small).float()[:, None]).round().to(torch.uint8)
    names = [str(name) for name in found.target_names]
    # A mirrored 2 is no digit.
    return MemoryDataset(
        large.permute(0, 2, 3, 1).numpy(), found.target, names, flippable=False, source="digits"
    )
