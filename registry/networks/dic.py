"""DiC: "DiC: Rethinking Conv3x3 Designs in Diffusion Models" (arXiv 2501.00603).

A U-Net of 3×3 convolutions without attention. Feature maps are (N, C, H, W) in channels-last memory.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, LongSkip, Size, require_positive
from registry.checkpoints import Rule
from registry.errors import UsageError
from registry.layers.embeddings import Conditions
from registry.layers.initial import init_convolutions
from registry.layers.modulation import ConvHead, Modulation, run_stage
from registry.layers.resampling import Downsample, Upsample

STRIDE = 3  # one block in three has a long skip


class DiC(Backbone):
    """U-shaped network of 3×3 convolutions of widths C, 2C, 4C, with sparse skips and gated blocks."""

    checkpoint_names: ClassVar[list[Rule]] = [
        (r"^x_embedder\.proj\.", "stem."),
        (r"^t_embedder_ls\.", "condition.time."),
        (r"^y_embedder_ls\.(\d)\.embedding_table\.", r"condition.label.\1."),
        (r"^enc_blocks\.(\d)\.", lambda m: f"encoder{int(m[1]) + 1}."),
        (r"^lat_blocks\.0\.", "middle."),
        (r"^dec_blocks\.(\d)\.", lambda m: f"decoder{2 - int(m[1])}."),
        (r"^downs\.(\d)\.body\.0\.", lambda m: f"down{int(m[1]) + 1}.conv."),
        (r"^ups\.(\d)\.body\.0\.", lambda m: f"up{2 - int(m[1])}.conv."),
        (r"^final_layer\.adaLN_modulation\.1\.", "head.modulation."),
        (r"^final_layer\.out_proj\.", "head.project."),
        (r"\.conv\.affine\.1\.", ".modulation."),
        (r"\.conv\.skip\.", ".shortcut."),
        (r"^((?:encoder|middle|decoder)\d?\.\d+)\.conv\.", r"\1."),
    ]

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        hidden_size: int = 384,
        depth: tuple[int, int, int, int, int] = (7, 7, 8, 7, 7),
        learn_sigma: bool = True,
        class_dropout_prob: float = 0.1,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in cells, or (H, W).
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the input.
            hidden_size: width C of the first scale, in channels.
            depth: blocks of encoder 1, encoder 2, middle, decoder 2, decoder 1. Encoder and decoder of a
                scale must have the same number of skips, one for every three blocks.
            learn_sigma: output the variance range beside the noise (2·C channels), or the noise alone (C).
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.

        Raises:
            UsageError: hidden_size is not a multiple of 4, a size is not positive, or the encoder and the
                decoder of a scale differ in skips.
        """
        super().__init__(
            input_size=input_size,
            in_channels=in_channels,
            num_classes=num_classes,
            learn_sigma=learn_sigma,
            size_multiple=4,
        )
        require_positive(hidden_size=hidden_size, depth=min(depth))
        if hidden_size % 4:
            raise UsageError(f"hidden_size {hidden_size} is not a multiple of 4, as its norms' groups need")
        for encoder, decoder in ((depth[0], depth[4]), (depth[1], depth[3])):
            if -(-encoder // STRIDE) != -(-decoder // STRIDE):
                raise UsageError(
                    f"depth {depth}: encoder of {encoder} blocks and decoder of {decoder} differ in skips"
                )
        c1, c2, c3 = hidden_size, 2 * hidden_size, 4 * hidden_size
        self.stem = nn.Conv2d(in_channels, c1, 3, padding=1)
        self.condition = Conditions(num_classes, (c1, c2, c3), class_dropout_prob)
        self.encoder1 = _stage(c1, depth[0])
        self.down1 = Downsample(c1)
        self.encoder2 = _stage(c2, depth[1])
        self.down2 = Downsample(c2)
        self.middle = _stage(c3, depth[2])
        self.up2 = Upsample(c3)
        self.decoder2 = _stage(c2, depth[3], skips=True)
        self.up1 = Upsample(c2)
        self.decoder1 = _stage(c1, depth[4], skips=True)
        self.output = nn.Conv2d(c1, c1, 3, padding=1)
        self.head = ConvHead(c1, self.out_channels)
        init_convolutions(self)
        for layer in self.modules():
            if isinstance(layer, DiCBlock):  # unlike in DiT, its modulation does not start at zero
                nn.init.xavier_uniform_(layer.modulation.weight)
        self.to(memory_format=torch.channels_last)  # otherwise every call reorders the 3×3 weights

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.check_input(x)
        c1, c2, c3 = map(F.silu, self.condition(t, y))  # once, because every modulation begins with SiLU
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        x, skips1 = _encode(self.encoder1, x, c1)  # (N, C, H, W)
        x = self.down1(x)
        x, skips2 = _encode(self.encoder2, x, c2)  # (N, 2C, H/2, W/2)
        x = self.down2(x)
        x = run_stage(self.middle, x, c3)  # (N, 4C, H/4, W/4)
        x = _decode(self.decoder2, self.up2(x), skips2, c2)  # (N, 2C, H/2, W/2)
        x = _decode(self.decoder1, self.up1(x), skips1, c1)  # (N, C, H, W)
        return self.head(self.output(x), c1)


def _stage(width: int, depth: int, *, skips: bool = False) -> nn.ModuleList:
    """Blocks of one width; with `skips`, blocks 0, 3, 6, … also take a skip."""
    return nn.ModuleList(DiCBlock(width, skip=skips and i % STRIDE == 0) for i in range(depth))


def _encode(stage: nn.ModuleList, x: Tensor, c: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output of a stage, and the skips: outputs of every third block, counted back from the last."""
    skips = []
    for i, block in enumerate(stage):
        x = block(x, c)
        if (len(stage) - 1 - i) % STRIDE == 0:
            skips.append(x)
    return x, skips


def _decode(stage: nn.ModuleList, x: Tensor, skips: list[Tensor], c: Tensor) -> Tensor:
    """The output of a stage that takes the skips, the last one first."""
    for i, block in enumerate(stage):
        x = block(x, c, skips.pop() if i % STRIDE == 0 else None)
    return x


class DiCBlock(nn.Module):
    """Residual block: twice GroupNorm, GELU and a 3×3 convolution.

    The condition scales and shifts the second norm and gates the branch.

    Args:
        width: output channels, and width of the condition.
        skip: whether a skip of `width` channels is concatenated to the input. The shortcut is then a 1×1
            convolution of both.
    """

    def __init__(self, width: int, *, skip: bool = False) -> None:
        super().__init__()
        channels = 2 * width if skip else width
        self.skip = LongSkip() if skip else None
        self.norm0 = nn.GroupNorm(min(32, channels // 4), channels)
        self.conv0 = nn.Conv2d(channels, width, 3, padding=1)
        self.modulation = Modulation(width, 3)
        self.norm1 = nn.GroupNorm(min(32, width // 4), width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, width, 1) if skip else nn.Identity()

    def forward(self, x: Tensor, c: Tensor, skip: Tensor | None = None) -> Tensor:
        """x and skip (N, C, H, W), c = SiLU(condition) (N, C) -> (N, C, H, W)."""
        if self.skip is not None:
            x = torch.cat([x, self.skip(skip)], dim=1)
        gate, scale, shift = (part[..., None, None] for part in self.modulation(c))
        h = self.conv0(F.gelu(self.norm0(x)))
        h = torch.addcmul(shift, self.norm1(h), 1 + scale)
        return torch.addcmul(self.shortcut(x), gate, self.conv1(F.gelu(h)))


register("dic-s", hidden_size=96, depth=(6, 6, 5, 6, 6))(DiC)
register("dic-b", hidden_size=192, depth=(6, 6, 5, 6, 6))(DiC)
register("dic-xl", hidden_size=384, depth=(7, 7, 8, 7, 7))(DiC)
register("dic-h", hidden_size=384, depth=(14, 14, 10, 14, 14))(DiC)
