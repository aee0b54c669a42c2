"""DiCo: "DiCo: Revitalizing ConvNets for Scalable and Efficient Diffusion Modeling" (arXiv 2505.11196).

The U-shape of DiT-UNet with depthwise convolutions and compact channel attention. Feature maps are
(N, C, H, W) in channels-last memory.
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
from registry.layers.modulation import ConvHead, Modulation, norm_modulate_2d, run_stage
from registry.layers.resampling import Downsample, Upsample


class DiCo(Backbone):
    """U-shaped convolutional network of widths C, 2C, 4C with channel attention."""

    checkpoint_names: ClassVar[list[Rule]] = [
        (r"^x_embedder\.proj\.", "stem."),
        (r"^t_embedder_(\d)\.", lambda m: f"condition.time.{int(m[1]) - 1}."),
        (r"^y_embedder\.embedding_table_(\d)\.", r"condition.label.\1."),
        (r"^(en|de)coder_level_", r"\1coder"),
        (r"^latent\.", "middle."),
        (r"^(down\d)_\d\.body\.0\.", r"\1.conv."),
        (r"^up\d_(\d)\.body\.0\.", r"up\1.conv."),  # up3_2 leads to scale 2
        (r"^reduce_chan_level", "fuse"),
        (r"^final_layer\.adaLN_modulation\.1\.", "head.modulation."),
        (r"^final_layer\.out_proj\.", "head.project."),
        (r"\.adaLN_modulation\.1\.", ".modulation."),
        (r"\.ca\.1\.", ".channel_attention."),
        (r"\.conv1\.", ".expand."),
        (r"\.conv2\.", ".depthwise."),
        (r"\.conv3\.", ".contract."),
        (r"\.conv4\.", ".ffn.0."),
        (r"\.conv5\.", ".ffn.2."),
    ]

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        hidden_size: int = 416,
        depth: tuple[int, int, int, int, int] = (9, 9, 10, 9, 9),
        mlp_ratio: float = 2.0,
        learn_sigma: bool = True,
        class_dropout_prob: float = 0.1,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in cells, or (H, W).
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the input.
            hidden_size: width C of the first scale, in channels.
            depth: blocks of encoder 1, encoder 2, middle, decoder 2, decoder 1.
            mlp_ratio: hidden width of the feed-forward branch as a multiple of its input width.
            learn_sigma: output the variance range beside the noise (2·C channels), or the noise alone (C).
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.

        Raises:
            UsageError: hidden_size is odd, or a size or number of blocks makes no sense.
        """
        super().__init__(
            input_size=input_size,
            in_channels=in_channels,
            num_classes=num_classes,
            learn_sigma=learn_sigma,
            size_multiple=4,
        )
        require_positive(hidden_size=hidden_size, mlp_ratio=mlp_ratio)
        if min(depth) < 0:
            raise UsageError(f"depth {depth} has a negative number of blocks")
        if hidden_size % 2:
            raise UsageError(f"hidden_size {hidden_size} is odd: a downsampling convolution halves it")
        c1, c2, c3 = hidden_size, 2 * hidden_size, 4 * hidden_size

        def stage(width: int, blocks: int) -> nn.ModuleList:
            return nn.ModuleList(DiCoBlock(width, mlp_ratio) for _ in range(blocks))

        self.stem = nn.Conv2d(in_channels, c1, 3, padding=1)
        self.condition = Conditions(num_classes, (c1, c2, c3), class_dropout_prob)
        self.encoder1 = stage(c1, depth[0])
        self.down1 = Downsample(c1)
        self.encoder2 = stage(c2, depth[1])
        self.down2 = Downsample(c2)
        self.middle = stage(c3, depth[2])
        self.up2 = Upsample(c3)
        self.skip2 = LongSkip()
        self.fuse2 = nn.Conv2d(2 * c2, c2, 1)
        self.decoder2 = stage(c2, depth[3])
        self.up1 = Upsample(c2)
        self.skip1 = LongSkip()
        self.fuse1 = nn.Conv2d(2 * c1, c2, 1)  # to 2C: the last stage is wide at full resolution
        self.decoder1 = stage(c2, depth[4])
        self.head = ConvHead(c2, self.out_channels)
        init_convolutions(self)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.check_input(x)
        c1, c2, c3 = map(F.silu, self.condition(t, y))  # once, because every modulation begins with SiLU
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        x = skip1 = run_stage(self.encoder1, x, c1)  # (N, C, H, W)
        x = self.down1(x)
        x = skip2 = run_stage(self.encoder2, x, c2)  # (N, 2C, H/2, W/2)
        x = self.down2(x)
        x = run_stage(self.middle, x, c3)  # (N, 4C, H/4, W/4)
        x = self.up2(x)
        x = self.fuse2(torch.cat([x, self.skip2(skip2)], dim=1))
        x = run_stage(self.decoder2, x, c2)  # (N, 2C, H/2, W/2)
        x = self.up1(x)
        x = self.fuse1(torch.cat([x, self.skip1(skip1)], dim=1))
        x = run_stage(self.decoder1, x, c2)  # (N, 2C, H, W)
        return self.head(x, c2)


class DiCoBlock(nn.Module):
    """Convolution module and feed-forward branch, each shifted, scaled and gated by the condition.

    The convolution module (Figure 4 of the paper) is a 1×1 convolution, a depthwise 3×3 convolution, GELU,
    compact channel attention and a 1×1 convolution. Compact channel attention multiplies each channel by the
    sigmoid of a 1×1 convolution of the spatial means.

    Args:
        width: channels.
        mlp_ratio: hidden width of the feed-forward branch as a multiple of `width`.
    """

    def __init__(self, width: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.modulation = Modulation(width, 6)
        self.expand = nn.Conv2d(width, width, 1)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.channel_attention = nn.Conv2d(width, width, 1)
        self.contract = nn.Conv2d(width, width, 1)
        self.ffn = nn.Sequential(nn.Conv2d(width, hidden, 1), nn.GELU(), nn.Conv2d(hidden, width, 1))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, C, H, W), c = SiLU(condition) (N, C) -> (N, C, H, W)."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(c)
        h = F.gelu(self.depthwise(self.expand(norm_modulate_2d(x, shift_a, scale_a))))
        h = h * torch.sigmoid(self.channel_attention(h.mean((2, 3), keepdim=True)))
        x = torch.addcmul(x, gate_a[..., None, None], self.contract(h))
        return torch.addcmul(x, gate_f[..., None, None], self.ffn(norm_modulate_2d(x, shift_f, scale_f)))


register("dico-s", hidden_size=128, depth=(5, 4, 4, 4, 4))(DiCo)
register("dico-b", hidden_size=256, depth=(5, 4, 4, 4, 4))(DiCo)
register("dico-l", hidden_size=352, depth=(9, 8, 9, 8, 9))(DiCo)
register("dico-xl", hidden_size=416, depth=(9, 9, 10, 9, 9))(DiCo)
register("dico-h", hidden_size=416, depth=(14, 12, 10, 12, 14), mlp_ratio=4.0)(DiCo)
