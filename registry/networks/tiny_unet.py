"""TinyUNet: the small U-Net of the article "U-Net Architecture", for 28×28 grey images.

As printed it cannot run, because its first GroupNorm has 8 groups on 1 channel. Here a norm has gcd(8,
channels) groups, which leaves the parameter count unchanged.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, LongSkip, Size, require_positive
from registry.checkpoints import Rule
from registry.errors import UsageError
from registry.layers.embeddings import LabelEmbedding, sinusoids


class TinyUNet(Backbone):
    """Three scales of residual blocks, with the step embedding added as a bias; predicts noise."""

    checkpoint_names: ClassVar[list[Rule]] = [
        (r"^t_emb\.(\d)", lambda match: f"time.{int(match[1]) - 1}"),
        (r"^d(\d)\.", r"down\1."),
        (r"^mid\.", "middle."),
        (r"^u(\d)\.", r"up\1."),
        (r"\.t_proj\.", ".time."),
        (r"\.skip\.", ".shortcut."),
        (r"^out\.", "output."),
    ]

    def __init__(
        self,
        input_size: Size = 28,
        num_classes: int = 0,
        in_channels: int = 1,
        widths: tuple[int, int, int] = (32, 64, 128),
        time_width: int = 64,
        class_dropout_prob: float = 0.1,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in pixels, or (H, W); 28 for MNIST's images.
            num_classes: classes without the null class; 0 as in the article. With classes, their embedding is
                added to the step's.
            in_channels: channels of the input; 1 for grey images.
            widths: channels of the three scales.
            time_width: channels of the step embedding.
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.
        """
        super().__init__(input_size=input_size, in_channels=in_channels, num_classes=num_classes)
        require_positive(time_width=time_width, width=min(widths))
        if time_width % 2:
            raise UsageError(f"time_width {time_width} is odd: a step is embedded as sines and cosines")
        w1, w2, w3 = widths
        self.time_width = time_width
        self.time = nn.Sequential(
            nn.Linear(time_width, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        self.label = LabelEmbedding(num_classes, time_width, class_dropout_prob) if num_classes else None
        self.down1 = TinyUNetBlock(in_channels, w1, time_width)
        self.down2 = TinyUNetBlock(w1, w2, time_width)
        self.down3 = TinyUNetBlock(w2, w3, time_width)
        self.middle = TinyUNetBlock(w3, w3, time_width)
        self.skip3, self.skip2, self.skip1 = LongSkip(), LongSkip(), LongSkip()
        self.up3 = TinyUNetBlock(w3 + w3, w2, time_width)
        self.up2 = TinyUNetBlock(w2 + w2, w1, time_width)
        self.up1 = TinyUNetBlock(w1 + w1, w1, time_width)
        self.output = nn.Conv2d(w1, in_channels, 1)

    def _check_grid(self, height: int, width: int) -> None:
        self.size_multiple = 8 if min(height, width) < 8 else 1  # three poolings must leave at least one cell
        super()._check_grid(height, width)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.check_input(x)
        cos, sin = sinusoids(t, self.time_width).to(x.dtype).chunk(2, dim=1)
        c = self.time(torch.cat([sin, cos], dim=1))
        c = F.silu(c if self.label is None else c + self.label(y))

        skip1 = self.down1(x, c)  # (N, 32, H, W)
        skip2 = self.down2(F.avg_pool2d(skip1, 2), c)  # (N, 64, H/2, W/2)
        skip3 = self.down3(F.avg_pool2d(skip2, 2), c)  # (N, 128, H/4, W/4)
        x = self.middle(F.avg_pool2d(skip3, 2), c)  # (N, 128, H/8, W/8)
        x = self.up3(join(x, self.skip3(skip3)), c)
        x = self.up2(join(x, self.skip2(skip2)), c)
        x = self.up1(join(x, self.skip1(skip1)), c)
        return self.output(x)


def join(x: Tensor, skip: Tensor) -> Tensor:
    """x enlarged to the skip's size (nearest neighbours), concatenated with the skip on channels."""
    return torch.cat([F.interpolate(x, size=skip.shape[-2:], mode="nearest"), skip], dim=1)


class TinyUNetBlock(nn.Module):
    """Residual block: twice GroupNorm, SiLU and a 3×3 convolution, with the condition added between.

    Args:
        in_channels, out_channels: channels of the feature map.
        time_width: width of the condition.
    """

    def __init__(self, in_channels: int, out_channels: int, time_width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(8, in_channels), in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_width, out_channels)
        self.norm2 = nn.GroupNorm(math.gcd(8, out_channels), out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, C_in, H, W), c = SiLU(condition) (N, time_width) -> (N, C_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.time(c)[..., None, None]
        return self.conv2(F.silu(self.norm2(h))) + self.shortcut(x)


register("tiny-unet")(TinyUNet)
