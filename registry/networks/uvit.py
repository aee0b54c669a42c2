"""U-ViT: "All are Worth Words: A ViT Backbone for Diffusion Models" (arXiv 2209.12152).

Diffusers' UVit2DModel (`uvit2d`) is a different network.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from registry import register
from registry.backbone import Backbone, LongSkip, Size, height_width, require_positive
from registry.checkpoints import TRANSFORMER_NAMES, Rule
from registry.errors import UsageError
from registry.layers.attention import Attention
from registry.layers.embeddings import LabelEmbedding, sinusoids
from registry.layers.feed_forward import Mlp


class UViT(Backbone):
    """Transformer with time and label as tokens and long skips between mirrored blocks; predicts noise."""

    beta_schedule = "scaled_linear"  # of the published latent weights of size H
    checkpoint_names: ClassVar[list[Rule]] = [
        (r"^patch_embed\.proj\.", "embed."),
        (r"^label_emb\.", "label.table."),
        (r"\.skip_linear\.", ".fuse."),
        (r"^decoder_pred\.", "project."),
        (r"^final_layer\.", "output."),
        *TRANSFORMER_NAMES,
    ]

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        patch_size: int = 2,
        hidden_size: int = 512,
        depth: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in cells, or (H, W); 32 for latents of 256×256 images.
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the input; 4 for latents.
            patch_size: side of a patch in cells; each patch becomes one token.
            hidden_size: width D of a token, in channels.
            depth: blocks besides the middle one, half before it and half after.
            num_heads: attention heads; each is hidden_size / num_heads wide.
            mlp_ratio: hidden width of the MLP as a multiple of hidden_size.
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null
                class, as in the ImageNet 64 models.

        Raises:
            UsageError: depth or hidden_size is odd, hidden_size is not a multiple of num_heads, or a size is
                not positive.
        """
        require_positive(patch_size=patch_size)
        super().__init__(
            input_size=input_size, in_channels=in_channels, num_classes=num_classes, size_multiple=patch_size
        )
        require_positive(hidden_size=hidden_size, depth=depth, mlp_ratio=mlp_ratio)
        if depth % 2:
            raise UsageError(f"depth {depth} is odd: blocks come in mirrored pairs around a middle one")
        if hidden_size % 2:
            raise UsageError(f"hidden_size {hidden_size} is odd: the time token is sines and cosines")
        height, width = height_width(input_size)
        self.patch_size = patch_size
        self.embed = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)
        self.label = LabelEmbedding(num_classes, hidden_size, class_dropout_prob) if num_classes else None
        extras = 2 if num_classes else 1
        self.pos_embed = nn.Parameter(torch.empty(1, extras + height * width // patch_size**2, hidden_size))

        def blocks(mirrored: bool) -> nn.ModuleList:
            return nn.ModuleList(
                UViTBlock(hidden_size, num_heads, mlp_ratio, mirrored) for _ in range(depth // 2)
            )

        self.in_blocks = blocks(mirrored=False)
        self.mid_block = UViTBlock(hidden_size, num_heads, mlp_ratio, mirrored=False)
        self.out_blocks = blocks(mirrored=True)
        self.norm = nn.LayerNorm(hidden_size)
        self.project = nn.Linear(hidden_size, patch_size**2 * in_channels)
        self.output = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.init_weights()

    def init_weights(self) -> None:
        """Linear maps and positions truncated normal (std 0.02), biases zero, labels standard normal."""
        if self.label is not None:
            nn.init.normal_(self.label.table.weight)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.check_input(x, fixed_size=True)
        n, _, height, width = x.shape
        x = self.embed(x).flatten(2).transpose(1, 2)  # (N, patches, D), row-major
        time = sinusoids(t, x.shape[-1]).to(x.dtype)
        tokens = [time[:, None], x] if self.label is None else [self.label(y)[:, None], time[:, None], x]
        x = torch.cat(tokens, dim=1) + self.pos_embed  # (N, T, D)

        skips = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop())

        p = self.patch_size
        x = self.project(self.norm(x)[:, len(tokens) - 1 :])  # (N, patches, p·p·C)
        x = x.reshape(n, height // p, width // p, p, p, self.in_channels)
        x = x.permute(0, 5, 1, 3, 2, 4).reshape(n, self.in_channels, height, width)
        return self.output(x)


class UViTBlock(nn.Module):
    """Pre-norm attention and MLP; a mirrored block first takes Linear([x, skip]).

    Args:
        hidden_size, num_heads, mlp_ratio: as for `UViT`.
        mirrored: whether the block takes a skip from its mirror image in the first half.
    """

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, mirrored: bool) -> None:
        super().__init__()
        self.skip = LongSkip() if mirrored else None
        self.fuse = nn.Linear(2 * hidden_size, hidden_size) if mirrored else None
        self.norm1 = nn.LayerNorm(hidden_size)
        self.attention = Attention(hidden_size, num_heads, qkv_bias=False)
        self.norm2 = nn.LayerNorm(hidden_size)
        self.mlp = Mlp(hidden_size, mlp_ratio, gelu="none")

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """x and skip (N, T, D) -> (N, T, D)."""
        if self.skip is not None and self.fuse is not None:
            x = self.fuse(torch.cat([x, self.skip(skip)], dim=-1))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UViTLinear(UViT):
    """U-ViT trained on the linear β schedule: the released weights of size L and those for pixels."""

    beta_schedule = "linear"  # time τ in 0 … 1 of their continuous process is step 999·τ


_S: dict[str, Any] = {"hidden_size": 512, "depth": 12, "num_heads": 8}
_S_DEEP: dict[str, Any] = {"hidden_size": 512, "depth": 16, "num_heads": 8}
_M: dict[str, Any] = {"hidden_size": 768, "depth": 16, "num_heads": 12}
_L: dict[str, Any] = {"hidden_size": 1024, "depth": 20, "num_heads": 16}
_H: dict[str, Any] = {"hidden_size": 1152, "depth": 28, "num_heads": 16}
# ImageNet 64, in pixels
_PIXELS: dict[str, Any] = {"in_channels": 3, "patch_size": 4, "input_size": 64, "class_dropout_prob": 0.0}
register("uvit-s-2", aliases=["uvit-s"], **_S)(UViT)
register("uvit-s-2-deep", aliases=["uvit-s-deep", "uvit-s-deep-2"], **_S_DEEP)(UViT)
register("uvit-m-2", aliases=["uvit-m"], **_M)(UViT)
register("uvit-l-2", aliases=["uvit-l"], **_L)(UViTLinear)
register("uvit-h-2", aliases=["uvit-h"], **_H)(UViT)
register("uvit-m-4", **_M, **_PIXELS)(UViTLinear)
register("uvit-l-4", **_L, **_PIXELS)(UViTLinear)
register("uvit-s-2-cifar10", in_channels=3, num_classes=0, **_S)(UViTLinear)
