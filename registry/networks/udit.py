"""DiT-UNet and U-DiT: "U-DiTs: Downsample Tokens in U-Shaped Diffusion Transformers" (arXiv 2405.02730).

One network with options. With all of them off it is DiT-UNet; with all of them on it is U-DiT. The rows of
Tables 5 and 6 turn them on one by one. The paper does not print the settings of the T-sized rows; those used
here reproduce every cost that it prints.

Feature maps are (N, C, H, W) in channels-last memory, in which norms and 1×1 convolutions need no copies and
depthwise convolutions run fastest.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, LongSkip, Size, require_positive
from registry.checkpoints import Rule
from registry.errors import UsageError
from registry.layers.attention import check_heads, rope_2d, rotate
from registry.layers.embeddings import Condition
from registry.layers.feed_forward import ConvMlp, DepthwiseFeedForward, ReparamFeedForward
from registry.layers.initial import init_convolutions
from registry.layers.modulation import ConvHead, Modulation, norm_modulate_2d, run_stage
from registry.layers.resampling import (
    ConvShortcut,
    DepthwiseShortcut,
    Downsample,
    Upsample,
    merge_tokens,
    split_tokens,
)

FeedForwardKind = Literal["mlp", "dwconv", "reparam"]
DownsamplerKind = Literal["pixel-shuffle", "depthwise", "depthwise+shortcut", "conv"]


def _layer_name(match: re.Match[str]) -> str:
    """The name of a layer. A stage unit has two layers: `.3.attn2.` -> `.7.attention.`"""
    parts = {"attn": "attention", "mlp": "ffn", "adaLN_modulation": "modulation"}
    return f".{2 * int(match[1]) + int(match[3]) - 1}.{parts[match[2]]}."


class UDiT(Backbone):
    """U-shaped diffusion transformer of widths C, 2C, 4C that attends to downsampled tokens."""

    guided_channels = 3  # of 4, as in the released sampling program
    checkpoint_names: ClassVar[list[Rule]] = [
        (r"^x_embedder\.proj\.", "stem."),
        (r"^t_embedder_(\d)\.", r"condition\1.time."),
        (r"^y_embedder_(\d)\.embedding_table\.", r"condition\1.label.table."),
        (r"^encoder_level_", "encoder"),
        (r"^decoder_level_", "decoder"),
        (r"^latent\.", "middle."),
        (r"^(down\d)_\d\.body\.0\.", r"\1.conv."),
        (r"^up\d_(\d)\.body\.0\.", r"up\1.conv."),  # up3_2 leads to scale 2
        (r"^reduce_chan_level", "fuse"),
        (r"\.(\d+)\.(attn|mlp|adaLN_modulation)([12])\.", _layer_name),
        (r"^final_layer\.adaLN_modulation\.", "head.modulation."),
        (r"^final_layer\.out_proj\.", "head.project."),
        (r"\.modulation\.1\.", ".modulation."),
        (r"\.attention\.to_", ".attention."),
        (r"\.downsampler\.layer\.", ".downsampler."),
        (r"\.ffn\.(project_in|fc1)\.", ".ffn.expand."),
        (r"\.ffn\.(project_out|fc2)\.", ".ffn.contract."),
        (r"\.ffn\.dwconv\.", ".ffn.depthwise."),
    ]

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        hidden_size: int = 96,
        depth: tuple[int, int, int, int, int] = (2, 5, 8, 5, 2),
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        attention: Literal["full", "downsampled"] = "downsampled",
        downsampler: DownsamplerKind = "depthwise+shortcut",
        cosine: bool = True,
        rope: bool = True,
        ffn: FeedForwardKind = "reparam",
        learn_sigma: bool = True,
        class_dropout_prob: float = 0.1,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in cells, or (H, W); 32 for latents of 256×256 images.
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the input; 4 for latents.
            hidden_size: width C of the first scale, in channels.
            depth: stage units of encoder 1, encoder 2, middle, decoder 2, decoder 1; a unit has two layers.
            num_heads: attention heads at every scale; their width grows with that of the scale.
            mlp_ratio: hidden width of the feed-forward branch as a multiple of its input width.
            attention: over all tokens (full), or within each of four groups of tokens, which hold every
                second row and column (downsampled).
            downsampler: the filter before the tokens are grouped (Table 5); no effect with full attention.
            cosine: cosine attention with a learned scale instead of dot products.
            rope: RoPE2D on queries and keys.
            ffn: the feed-forward branch: two 1×1 convolutions (mlp), a depthwise convolution between them
                (dwconv), or the same with more trained parameters, merged for inference (reparam).
            learn_sigma: output the variance range beside the noise (2·C channels), or the noise alone (C).
            class_dropout_prob: probability that a label becomes the null class in training, drawn by the
                network itself for each of the three widths separately, by `bench train` once for all
                three; 0: no null class.

        Raises:
            UsageError: hidden_size is odd or not a multiple of num_heads, a head's width is not a multiple
                of 4 with RoPE2D, or a size does not fit.
        """
        factor = 2 if attention == "downsampled" else 1
        super().__init__(
            input_size=input_size,
            in_channels=in_channels,
            num_classes=num_classes,
            learn_sigma=learn_sigma,
            size_multiple=4 * factor,
        )

        require_positive(hidden_size=hidden_size, mlp_ratio=mlp_ratio)
        if int(hidden_size * mlp_ratio) < 2:
            raise UsageError(f"mlp_ratio {mlp_ratio} leaves no hidden channels at hidden_size {hidden_size}")
        if min(depth) < 0:
            raise UsageError(f"depth {depth} has a negative number of stage units")
        if hidden_size % 2:
            raise UsageError(f"hidden_size {hidden_size} is odd: a downsampling convolution halves it")

        def stage(width: int, units: int) -> nn.ModuleList:
            return nn.ModuleList(
                UDiTLayer(width, num_heads, mlp_ratio, factor, downsampler, cosine, rope, ffn)
                for _ in range(2 * units)
            )

        def condition(width: int) -> Condition:
            return Condition(num_classes, width, class_dropout_prob)

        c1, c2, c3 = hidden_size, 2 * hidden_size, 4 * hidden_size
        self.stem = nn.Conv2d(in_channels, c1, 3, padding=1)
        self.condition1, self.condition2, self.condition3 = condition(c1), condition(c2), condition(c3)
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
        self.output = nn.Conv2d(c2, c2, 3, padding=1)
        self.head = ConvHead(c2, self.out_channels)
        init_convolutions(self)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.check_input(x)
        # SiLU is computed here once, because the modulation of every layer begins with it.
        c1, c2, c3 = (F.silu(c(t, y)) for c in (self.condition1, self.condition2, self.condition3))

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
        return self.head(self.output(x), c2)


class UDiTLayer(nn.Module):
    """Attention and feed-forward branch, each shifted, scaled and gated by the condition.

    Args:
        width: channels of the feature map, and width of the condition.
        factor: factor of token downsampling, 2 or 1.
        num_heads, mlp_ratio, downsampler, cosine, rope, ffn: as for `UDiT`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_ratio: float,
        factor: int,
        downsampler: DownsamplerKind,
        cosine: bool,
        rope: bool,
        ffn: FeedForwardKind,
    ) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.attention = TokenAttention(width, num_heads, factor, downsampler, cosine, rope)
        branches = {"mlp": ConvMlp, "dwconv": DepthwiseFeedForward, "reparam": ReparamFeedForward}
        self.ffn = branches[ffn](width, mlp_ratio)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, C, H, W), c = SiLU(condition) (N, C) -> (N, C, H, W)."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(c)
        x = torch.addcmul(x, gate_a[..., None, None], self.attention(norm_modulate_2d(x, shift_a, scale_a)))
        return torch.addcmul(x, gate_f[..., None, None], self.ffn(norm_modulate_2d(x, shift_f, scale_f)))


class TokenAttention(nn.Module):
    """Self-attention on downsampled tokens (Section 3, Figure 3c).

    The downsampler filters the feature map, whose tokens are then split into factor² groups. Tokens attend to
    the tokens of their group.

    Args:
        width: channels of the feature map.
        factor: factor of token downsampling: 2, or 1 for full attention.
        num_heads, downsampler, cosine, rope: as for `UDiT`.

    Raises:
        UsageError: the width is not a multiple of num_heads, or with RoPE2D a head's width is not one of 4.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        factor: int,
        downsampler: DownsamplerKind,
        cosine: bool,
        rope: bool,
    ) -> None:
        super().__init__()
        check_heads(width, num_heads)
        if rope and width // num_heads % 4:
            raise UsageError(f"RoPE2D needs a head width that is a multiple of 4, not {width // num_heads}")
        self.num_heads, self.factor, self.rope = num_heads, factor, rope
        self.downsampler = make_downsampler(downsampler if factor > 1 else "pixel-shuffle", width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10.0))) if cosine else None
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = split_tokens(self.downsampler(x), self.factor)
        groups, width, height, columns = x.shape
        qkv = self.qkv(x).permute(0, 2, 3, 1).contiguous()
        qkv = qkv.view(groups, height * columns, 3, self.num_heads, width // self.num_heads)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]  # G T 2 h d and G T h d, views of one tensor
        if self.rope:
            turn = rope_2d(height, columns, qk.shape[-1], qk.dtype == torch.float64, device=qk.device)
            qk = rotate(qk, turn[:, None])
        scale = None
        if self.logit_scale is not None:
            # exp(s)·q̂·k̂: exp(s) is applied to q, so that the logits need no second pass.
            sharpness = torch.exp(self.logit_scale.clamp(max=4.6052)).view(-1, 1)
            norm = torch.linalg.vector_norm(qk, dim=-1, keepdim=True).clamp_min(1e-12)
            qk = qk / (norm / torch.stack([sharpness, torch.ones_like(sharpness)]))
            scale = 1.0
        q, k = qk.to(v.dtype).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        x = F.scaled_dot_product_attention(q, k, v, scale=scale)  # G h T d
        x = x.transpose(1, 2).reshape(groups, height, columns, width).permute(0, 3, 1, 2)
        return self.out(merge_tokens(x, self.factor))


def make_downsampler(kind: DownsamplerKind, width: int) -> nn.Module:
    """The filter of a feature map before its tokens are grouped (Table 5): (N, C, H, W) -> (N, C, H, W)."""
    if kind == "pixel-shuffle":
        return nn.Identity()
    if kind == "depthwise":
        return nn.Conv2d(width, width, 5, padding=2, groups=width)
    return DepthwiseShortcut(width) if kind == "depthwise+shortcut" else ConvShortcut(width)


_T: dict[str, Any] = {"hidden_size": 48, "num_heads": 2, "depth": (1, 1, 2, 1, 1), "mlp_ratio": 4.0}
_OFF: dict[str, Any] = {"attention": "full", "cosine": False, "rope": False, "ffn": "mlp"}
register("dit-unet", **_T, **_OFF)(UDiT)
register("dit-unet-slim", **{**_T, "hidden_size": 36}, **_OFF)(UDiT)
register("udit-t", **_T)(UDiT)
register("udit-s", hidden_size=96, num_heads=4)(UDiT)
register("udit-b", hidden_size=192, num_heads=8)(UDiT)
register("udit-l", hidden_size=384, num_heads=16)(UDiT)
