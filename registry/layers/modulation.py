"""adaLN-Zero (DiT, arXiv 2212.09748, section 3.2): the condition shifts and scales norms and gates branches.

For tokens (N, T, D) of transformers, and for feature maps (N, C, H, W) of U-shaped networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Modulation(nn.Linear):
    """Linear map from the condition to `count` vectors, initially zero, so that gates start at zero.

    The input is SiLU(c); the caller computes it once for all layers of one width.

    Args:
        hidden_size: width D of the condition and of each vector.
        count: number of vectors.
    """

    def __init__(self, hidden_size: int, count: int) -> None:
        super().__init__(hidden_size, count * hidden_size)
        self.count = count

    def reset_parameters(self) -> None:
        """Set weight and bias to zero, the "Zero" of adaLN-Zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, c: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """SiLU(c) (N, D) -> `count` tensors (N, D), such as shift, scale and gate of a branch."""
        return super().forward(c).chunk(self.count, dim=1)


def norm_modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm(x)·(1 + scale) + shift over tokens: x (N, T, D), shift and scale (N, D)."""
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


def gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """x + gate·branch over tokens: x and branch (N, T, D), gate (N, D)."""
    return torch.addcmul(x, gate[:, None], branch)


def norm_modulate_2d(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm(x)·(1 + scale) + shift, the norm over channels: x (N, C, H, W), shift and scale (N, C)."""
    x = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
    return torch.addcmul(shift[..., None, None], x, 1 + scale[..., None, None])


class ConvHead(nn.Module):
    """Modulated norm, then a 3×3 convolution to the output channels.

    Args:
        width: channels of the feature map, and width of the condition.
        out_channels: channels of the network's output.
    """

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 2)
        self.project = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, C, H, W), c = SiLU(condition) (N, C) -> (N, C_out, H, W)."""
        return self.project(norm_modulate_2d(x, *self.modulation(c)))


def run_stage(stage: nn.ModuleList, x: Tensor, c: Tensor) -> Tensor:
    """Apply the layers of a stage in order: x (N, C, H, W), c = SiLU(condition) (N, C) -> (N, C, H, W)."""
    for layer in stage:
        x = layer(x, c)
    return x
