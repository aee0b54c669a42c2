"""Feed-forward branches: over tokens (DiT, U-ViT, DDT, FlowDCN) and over feature maps (DiT-UNet, U-DiT)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mlp(nn.Module):
    """Linear, GELU, Linear over tokens: (N, T, D) -> (N, T, D).

    Args:
        hidden_size: D.
        ratio: hidden width as a multiple of D.
        gelu: approximation of GELU: "tanh", or "none" for the exact function.
    """

    def __init__(self, hidden_size: int, ratio: float, *, gelu: Literal["tanh", "none"]) -> None:
        super().__init__()
        self.expand = nn.Linear(hidden_size, int(hidden_size * ratio))
        self.contract = nn.Linear(int(hidden_size * ratio), hidden_size)
        self.gelu = gelu

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(x), approximate=self.gelu))


class SwiGLU(nn.Module):
    """SwiGLU: contract(SiLU(gate(x))·expand(x)), linear maps without biases (arXiv 2002.05202).

    Args:
        hidden_size: width D of a token.
        inner: hidden width.
    """

    def __init__(self, hidden_size: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, inner, bias=False)
        self.expand = nn.Linear(hidden_size, inner, bias=False)
        self.contract = nn.Linear(inner, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        return self.contract(F.silu(self.gate(x)) * self.expand(x))


class ConvMlp(nn.Module):
    """1×1 convolution, tanh GELU, 1×1 convolution: (N, C, H, W) -> (N, C, H, W).

    Args:
        width: C.
        ratio: hidden width as a multiple of C.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, int(width * ratio), 1)
        self.contract = nn.Conv2d(int(width * ratio), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(x), approximate="tanh"))


class DepthwiseFeedForward(nn.Module):
    """1×1 convolution, exact GELU, 5×5 depthwise, 1×1 convolution (U-DiT, Table 6, +DWconv FFN).

    (N, C, H, W) -> (N, C, H, W).

    Args:
        width: C.
        ratio: hidden width as a multiple of C.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.expand = nn.Conv2d(width, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden)
        self.contract = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.depthwise(F.gelu(self.expand(x))))


class ReparamFeedForward(nn.Module):
    """`DepthwiseFeedForward` with more trained parameters (U-DiT, Table 6, +Re-param.).

    Each 1×1 convolution is a chain of two. The depthwise convolution is a sum of four branches: identity,
    5×5, 3×3 and 1×1. `merged` returns the `DepthwiseFeedForward` that computes the same function.

    (N, C, H, W) -> (N, C, H, W).

    Args:
        width: C.
        ratio: hidden width as a multiple of C.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.width, self.ratio = width, ratio
        hidden = int(width * ratio)
        self.expand = nn.Sequential(nn.Conv2d(width, hidden // 2, 1), nn.Conv2d(hidden // 2, hidden, 1))
        self.depthwise = nn.ModuleList(
            nn.Conv2d(hidden, hidden, k, padding=k // 2, groups=hidden) for k in (5, 3, 1)
        )
        self.contract = nn.Sequential(nn.Conv2d(hidden, hidden // 2, 1), nn.Conv2d(hidden // 2, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(_chain(self.expand, x))
        # One convolution with the sum of the kernels replaces the four branches, in training as well.
        weight, bias = merge_depthwise(self.depthwise)
        x = F.conv2d(x, weight, bias, padding=2, groups=len(weight))
        return _chain(self.contract, x)

    @torch.no_grad()
    def merged(self) -> DepthwiseFeedForward:
        """The inference form, in new tensors; this module does not change."""
        with torch.device("meta"):
            ffn = DepthwiseFeedForward(self.width, self.ratio)
        weight, bias = merge_depthwise(self.depthwise)
        _assign(ffn.expand, *_merge_pointwise(self.expand))
        _assign(ffn.depthwise, weight, bias)
        _assign(ffn.contract, *_merge_pointwise(self.contract))
        return ffn


def merge_depthwise(convs: nn.ModuleList | list[nn.Conv2d]) -> tuple[Tensor, Tensor]:
    """Kernel and bias of one depthwise convolution equal to identity + the sum of `convs`.

    Args:
        convs: depthwise convolutions with odd kernels and biases, the largest kernel first.

    Returns:
        (C, 1, k, k) and (C,), differentiable with respect to the weights of `convs`.
    """
    weights: list[Tensor] = [conv.weight for conv in convs]  # type: ignore[misc]
    weights.append(torch.ones_like(weights[0][..., :1, :1]))
    side = weights[0].shape[-1]
    total = weights[0]
    for weight in weights[1:]:
        total = total + F.pad(weight, [(side - weight.shape[-1]) // 2] * 4)
    return total, sum(conv.bias for conv in convs)  # type: ignore[misc, return-value]


def _chain(chain: nn.Sequential, x: Tensor) -> Tensor:
    """Two 1×1 convolutions in sequence, computed with merged weights where that takes fewer products."""
    first: Any = chain[0]
    second: Any = chain[1]
    inner, middle, outer = first.in_channels, first.out_channels, second.out_channels
    saved = x.shape[0] * x.shape[2] * x.shape[3] * (inner * middle + middle * outer - inner * outer)
    if saved > 2 * inner * middle * outer:
        return F.conv2d(x, *_merge_pointwise(chain))
    return chain(x)


def _merge_pointwise(chain: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Weight and bias of the 1×1 convolution equal to a chain of two: W₂W₁ and W₂b₁ + b₂."""
    first: Any = chain[0]
    second: Any = chain[1]
    w1, w2 = first.weight.flatten(1), second.weight.flatten(1)
    return (w2 @ w1)[..., None, None], torch.addmv(second.bias, w2, first.bias)


def _assign(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
