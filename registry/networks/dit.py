"""DiT: "Scalable Diffusion Models with Transformers" (arXiv 2212.09748), and SiT (arXiv 2401.08740).

SiT is the same network trained to predict a velocity; its released weights too have 2·C output
channels, of which the velocity is the first half.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, Size, height_width, require_positive
from registry.errors import UsageError
from registry.layers.attention import Attention
from registry.layers.embeddings import Condition, sincos_2d
from registry.layers.feed_forward import Mlp
from registry.layers.modulation import Modulation, gated, norm_modulate


class DiT(Backbone):
    """Isotropic diffusion transformer over patches, conditioned by adaLN-Zero."""

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        patch_size: int = 2,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        learn_sigma: bool = True,
        class_dropout_prob: float = 0.1,
    ) -> None:
        super().__init__(
            input_size=input_size,
            in_channels=in_channels,
            num_classes=num_classes,
            learn_sigma=learn_sigma,
            size_multiple=patch_size,
        )
        require_positive(hidden_size=hidden_size, depth=depth, mlp_ratio=mlp_ratio)
        if hidden_size % 4:
            raise UsageError(f"hidden_size {hidden_size} is not a multiple of 4, as its position table needs")
        height, width = height_width(input_size)
        self.patch_size = patch_size
        self.embed = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(
            torch.empty(1, height * width // patch_size**2, hidden_size), requires_grad=False
        )
        self.condition = Condition(num_classes, hidden_size, class_dropout_prob)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.head = Head(hidden_size, patch_size**2 * self.out_channels)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform linear maps, the patch embedding among them; closed branches; zero output."""
        for block in self.blocks:
            for layer in block.modules():
                if isinstance(layer, nn.Linear) and not isinstance(layer, Modulation):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.embed.weight.flatten(1))  # a view: fills the convolution
        nn.init.constant_(self.embed.bias, 0.0)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.project.weight)
        nn.init.zeros_(self.head.project.bias)
        height, width = (side // self.patch_size for side in height_width(self.input_size))
        with torch.no_grad():
            self.pos_embed.copy_(sincos_2d(height, width, self.pos_embed.shape[-1]))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.check_input(x, fixed_size=True)
        n, _, height, width = x.shape
        x = self.embed(x).flatten(2).transpose(1, 2) + self.pos_embed  # (N, T, D), row-major
        c = F.silu(self.condition(t, y))  # (N, D); every modulation begins with this SiLU
        for block in self.blocks:
            x = block(x, c)
        x = self.head(x, c)  # (N, T, p·p·C_out)
        p = self.patch_size
        x = x.view(n, height // p, width // p, p, p, self.out_channels)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(n, self.out_channels, height, width)


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.modulation = Modulation(hidden_size, 6)
        self.attention = Attention(hidden_size, num_heads, qkv_bias=True)
        self.mlp = Mlp(hidden_size, mlp_ratio, gelu="tanh")

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, T, D), c = SiLU(condition) (N, D) -> (N, T, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c)
        x = gated(x, gate_a, self.attention(norm_modulate(x, shift_a, scale_a)))
        return gated(x, gate_m, self.mlp(norm_modulate(x, shift_m, scale_m)))


class Head(nn.Module):
    """Modulated norm, then a linear map from tokens to patches."""

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.modulation = Modulation(hidden_size, 2)
        self.project = nn.Linear(hidden_size, out_features)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, T, D), c = SiLU(condition) (N, D) -> (N, T, out_features)."""
        return self.project(norm_modulate(x, *self.modulation(c)))


for _size, _depth, _width, _heads in (
    ("s", 12, 384, 6),
    ("b", 12, 768, 12),
    ("l", 24, 1024, 16),
    ("xl", 28, 1152, 16),
):
    for _patch in (2, 4, 8):
        for _family in ("dit", "sit"):
            register(
                f"{_family}-{_size}-{_patch}",
                patch_size=_patch,
                hidden_size=_width,
                depth=_depth,
                num_heads=_heads,
            )(DiT)
