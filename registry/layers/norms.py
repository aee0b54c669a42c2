"""Norms that families share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.RMSNorm):
    """x·weight / √(mean x² + 1e-6) over the last axis, as in LLaMA; under autocast in the precision of x.

    Args:
        width: length of the last axis.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        # PyTorch's fused kernel needs x and weight in the same precision.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
