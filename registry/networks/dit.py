"""DiT: "Scalable Diffusion Models with Transformers" (arXiv 2212.09748), and SiT (arXiv 2401.08740).

SiT is the same network trained to predict a velocity. Its released weights also have 2·C output channels;
the first C are the velocity.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, Size, height_width, require_positive
from registry.checkpoints import TRANSFORMER_NAMES, Rule
from registry.errors import UsageError
from registry.layers.attention import Attention
from registry.layers.embeddings import Condition, sincos_2d
from registry.layers.feed_forward import Mlp
from registry.layers.modulation import Modulation, gated, norm_modulate


class DiT(Backbone):
    """Isotropic diffusion transformer over patches, conditioned by adaLN-Zero."""

    guided_channels = 3  # of 4, as in the released sampling programs of DiT and SiT
    fixed_parameters = frozenset({"pos_embed"})
    checkpoint_names: ClassVar[list[Rule]] = [
        (r"^x_embedder\.proj\.", "embed."),
        (r"^t_embedder\.", "condition.time."),
        (r"^y_embedder\.embedding_table\.", "condition.label.table."),
        (r"\.adaLN_modulation\.1\.", ".modulation."),
        (r"^final_layer\.linear\.", "head.project."),
        (r"^final_layer\.", "head."),
        *TRANSFORMER_NAMES,
    ]

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
        """
        Args:
            input_size: side of the input grid in cells, or (H, W); 32 for latents of 256×256 images.
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the input; 4 for latents.
            patch_size: side of a patch in cells; each patch becomes one token.
            hidden_size: width D of a token, in channels.
            depth: number of blocks.
            num_heads: attention heads; each is hidden_size / num_heads wide.
            mlp_ratio: hidden width of the MLP as a multiple of hidden_size.
            learn_sigma: output the variance range beside the noise (2·C channels), or the noise alone (C).
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.

        Raises:
            UsageError: hidden_size is not a multiple of 4 (position table) or of num_heads, or a size is not
                positive.
        """
        require_positive(patch_size=patch_size)
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
        self.blocks = nn.ModuleList(DiTBlock(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.head = DiTHead(hidden_size, patch_size**2 * self.out_channels)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform linear maps and patch embedding; gates and the output layer start at zero."""
        for block in self.blocks:
            for layer in block.modules():
                if isinstance(layer, nn.Linear) and not isinstance(layer, Modulation):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.embed.weight.flatten(1))  # a view, so it fills the convolution's weight
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
        c = F.silu(self.condition(t, y))  # (N, D); computed once, because every modulation begins with SiLU
        for block in self.blocks:
            x = block(x, c)
        x = self.head(x, c)  # (N, T, p·p·C_out)
        p = self.patch_size
        x = x.view(n, height // p, width // p, p, p, self.out_channels)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(n, self.out_channels, height, width)


class SiT(DiT):
    """DiT that predicts the velocity of a straight flow from data to noise (arXiv 2401.08740)."""

    objective = "flow"


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition.

    Args:
        hidden_size, num_heads, mlp_ratio: as for `DiT`.
    """

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


class DiTHead(nn.Module):
    """Modulated norm, then a linear map from tokens to patches.

    Args:
        hidden_size: width D of a token.
        out_features: values of an output patch, p·p·C_out.
    """

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.modulation = Modulation(hidden_size, 2)
        self.project = nn.Linear(hidden_size, out_features)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, T, D), c = SiLU(condition) (N, D) -> (N, T, out_features)."""
        return self.project(norm_modulate(x, *self.modulation(c)))


_S: dict[str, Any] = {"hidden_size": 384, "depth": 12, "num_heads": 6}
_B: dict[str, Any] = {"hidden_size": 768, "depth": 12, "num_heads": 12}
_L: dict[str, Any] = {"hidden_size": 1024, "depth": 24, "num_heads": 16}
_XL: dict[str, Any] = {"hidden_size": 1152, "depth": 28, "num_heads": 16}
register("dit-s-2", patch_size=2, **_S)(DiT)
register("dit-s-4", patch_size=4, **_S)(DiT)
register("dit-s-8", patch_size=8, **_S)(DiT)
register("dit-b-2", patch_size=2, **_B)(DiT)
register("dit-b-4", patch_size=4, **_B)(DiT)
register("dit-b-8", patch_size=8, **_B)(DiT)
register("dit-l-2", patch_size=2, **_L)(DiT)
register("dit-l-4", patch_size=4, **_L)(DiT)
register("dit-l-8", patch_size=8, **_L)(DiT)
register("dit-xl-2", patch_size=2, **_XL)(DiT)
register("dit-xl-4", patch_size=4, **_XL)(DiT)
register("dit-xl-8", patch_size=8, **_XL)(DiT)
register("sit-s-2", patch_size=2, **_S)(SiT)
register("sit-s-4", patch_size=4, **_S)(SiT)
register("sit-s-8", patch_size=8, **_S)(SiT)
register("sit-b-2", patch_size=2, **_B)(SiT)
register("sit-b-4", patch_size=4, **_B)(SiT)
register("sit-b-8", patch_size=8, **_B)(SiT)
register("sit-l-2", patch_size=2, **_L)(SiT)
register("sit-l-4", patch_size=4, **_L)(SiT)
register("sit-l-8", patch_size=8, **_L)(SiT)
register("sit-xl-2", patch_size=2, **_XL)(SiT)
register("sit-xl-4", patch_size=4, **_XL)(SiT)
register("sit-xl-8", patch_size=8, **_XL)(SiT)
