"""Changes of resolution: between the scales of a U-Net, and the token downsampling of U-DiT."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry.layers.feed_forward import merge_depthwise


class Downsample(nn.Module):
    """Halve H and W and double the width: 3×3 convolution w -> w/2, then pixel-unshuffle.

    Args:
        width: channels w of the input.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width // 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2C, H/2, W/2)."""
        return F.pixel_unshuffle(self.conv(x), 2).contiguous(memory_format=torch.channels_last)


class Upsample(nn.Module):
    """Double H and W and halve the width: 3×3 convolution w -> 2w, then pixel-shuffle.

    Args:
        width: channels w of the input.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C/2, 2H, 2W)."""
        return F.pixel_shuffle(self.conv(x), 2).contiguous(memory_format=torch.channels_last)


class DepthwiseShortcut(nn.Module):
    """x + 5×5 depthwise convolution of x (U-DiT, Table 5, DW Conv. Shortcut + PS): x (N, C, H, W).

    Args:
        width: channels C of x.
    """

    checkpoint_part = "conv"  # the part that the authors' checkpoints store under this module's name

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 5, padding=2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        # The shortcut is a 1 added at the kernel's centre, which saves a pass over the feature map.
        weight, bias = merge_depthwise([self.conv])
        return F.conv2d(x, weight, bias, padding=2, groups=len(weight))

    @torch.no_grad()
    def merged(self) -> nn.Conv2d:
        """The inference form, in new tensors; this module does not change."""
        weight, bias = merge_depthwise([self.conv])
        with torch.device("meta"):
            conv = nn.Conv2d(len(weight), len(weight), 5, padding=2, groups=len(weight))
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias.clone())
        return conv


class ConvShortcut(nn.Module):
    """x + dense 3×3 convolution of x (N, C, H, W): the "conventional downsampler" (U-DiT, Table 5's caption).

    Args:
        width: channels C of x.
    """

    checkpoint_part = "conv"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def split_tokens(x: Tensor, factor: int) -> Tensor:
    """(N, C, H, W) -> (N·f², C, H/f, W/f): cell (i, j) goes to group (i mod f, j mod f).

    Input and output are in channels-last memory, so that this is the only copy that attention needs.
    """
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h // factor, factor, w // factor, factor, c)
    x = x.permute(0, 2, 4, 1, 3, 5).reshape(n * factor**2, h // factor, w // factor, c)
    return x.permute(0, 3, 1, 2)


def merge_tokens(x: Tensor, factor: int) -> Tensor:
    """The inverse of `split_tokens`: (N·f², C, H/f, W/f) -> (N, C, H, W)."""
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n // factor**2, factor, factor, h, w, c)
    x = x.permute(0, 3, 1, 4, 2, 5).reshape(n // factor**2, h * factor, w * factor, c)
    return x.permute(0, 3, 1, 2)
