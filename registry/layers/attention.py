"""Self-attention over tokens, and rotary position embeddings.

Every attention uses `scaled_dot_product_attention`, whose kernels do not store the logits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry.errors import UsageError
from registry.layers.embeddings import MAX_PERIOD, made_once


class Attention(nn.Module):
    """Multi-head self-attention with fused qkv, channels ordered (q|k|v, head, channel).

    Args:
        hidden_size: width D of a token.
        num_heads: heads h, each D/h wide.
        qkv_bias: whether the map to q, k and v has a bias.

    Raises:
        UsageError: hidden_size is not a multiple of num_heads.
    """

    def __init__(self, hidden_size: int, num_heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        check_heads(hidden_size, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        n, t, d = x.shape
        qkv = self.qkv(x).view(n, t, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, h, T, d), views of one tensor
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(n, t, d))


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Raise `UsageError` unless hidden_size is a multiple of num_heads."""
    if num_heads < 1 or hidden_size % num_heads:
        raise UsageError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")


@made_once
def rope_2d(height: int, width: int, head_width: int, double: bool) -> np.ndarray:
    """RoPE2D's rotations as complex numbers: (H·W, 1, head_width/2), row-major, equal for all heads.

    There are head_width/4 frequencies θ_i = 10000^(−4i/head_width). Of the pairs of adjacent channels, pair
    2i rotates by column·θ_i and pair 2i + 1 by row·θ_i, as in U-DiT's released program. Unlike there, the
    grid need not be square.

    Args:
        height, width: size of the grid of tokens.
        head_width: d, a multiple of 4.
        double: complex128, for networks in float64; otherwise complex64.
    """
    theta = MAX_PERIOD ** (-4 * np.arange(head_width // 4) / head_width)
    rows, columns = np.mgrid[:height, :width].reshape(2, -1, 1)
    angles = np.stack([columns * theta, rows * theta], axis=-1).reshape(height * width, 1, -1)
    return np.exp(1j * angles).astype(np.complex128 if double else np.complex64)


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Rotate the pairs of adjacent channels of x (…, d) by `rotations`, which broadcast to (…, d/2)."""
    pairs = x.to(rotations.real.dtype).unflatten(-1, (-1, 2))
    return torch.view_as_real(torch.view_as_complex(pairs) * rotations).flatten(-2)
