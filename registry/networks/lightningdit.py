"""LightningDiT: "Reconstruction vs. Generation" (arXiv 2501.01423), DiT with layers of language models.

Its released weights were trained on VA-VAE's latents, normalised by the mean and standard deviation of each
channel.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, Size, height_width, require_positive
from registry.checkpoints import TRANSFORMER_NAMES, Rule
from registry.errors import UsageError
from registry.layers.attention import check_heads, rotate
from registry.layers.embeddings import MAX_PERIOD, Condition, made_once, sincos_2d
from registry.layers.feed_forward import Mlp
from registry.layers.modulation import Modulation, gated
from registry.layers.norms import RMSNorm


class LightningDiT(Backbone):
    """DiT with RMS norms, SwiGLU, and RoPE as well as a position table; predicts the velocity of a flow."""

    objective = "flow"
    guided_channels = 3  # of 32, as in the released sampling program
    fixed_parameters = frozenset({"pos_embed", "feat_rope.freqs_cos", "feat_rope.freqs_sin"})
    checkpoint_names: ClassVar[list[Rule]] = [
        (r"^x_embedder\.proj\.", "embed."),
        (r"^t_embedder\.", "condition.time."),
        (r"^y_embedder\.embedding_table\.", "condition.label.table."),
        (r"\.adaLN_modulation\.1\.", ".modulation."),
        (r"^final_layer\.norm_final\.", "head.norm."),
        (r"^final_layer\.linear\.", "head.project."),
        (r"^final_layer\.", "head."),
        (r"\.mlp\.w12\.", ".mlp.expand."),
        (r"\.mlp\.w3\.", ".mlp.contract."),
        *TRANSFORMER_NAMES,
    ]

    def __init__(
        self,
        input_size: Size = 16,
        num_classes: int = 1000,
        in_channels: int = 32,
        patch_size: int = 1,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        swiglu: bool = True,
        rope: bool = True,
        rms_norm: bool = True,
        qk_norm: bool = False,
        shift: bool = True,
        learn_sigma: bool = False,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in cells, or (H, W); 16 for VA-VAE's latents of 256×256 images.
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the input; 32 for VA-VAE's latents.
            patch_size: side of a patch in cells; each patch becomes one token.
            hidden_size: width D of a token, in channels.
            depth: number of blocks.
            num_heads: attention heads; each is hidden_size / num_heads wide.
            mlp_ratio: hidden width of the MLP as a multiple of hidden_size; each half of SwiGLU has two
                thirds of it.
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.
            swiglu: SwiGLU in place of the MLP with tanh GELU.
            rope: rotary positions in addition to the position table.
            rms_norm: RMS norms with a weight in place of LayerNorm without weights.
            qk_norm: normalise queries and keys.
            shift: whether the condition shifts the norms in addition to scaling them.
            learn_sigma: whether the head computes C further channels, which are discarded.

        Raises:
            UsageError: hidden_size is not a multiple of 4 or of num_heads, or with RoPE a head's width is not
                a multiple of 4.
        """
        require_positive(patch_size=patch_size)
        super().__init__(
            input_size=input_size, in_channels=in_channels, num_classes=num_classes, size_multiple=patch_size
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
        self.blocks = nn.ModuleList(
            LightningDiTBlock(hidden_size, num_heads, mlp_ratio, swiglu, rope, rms_norm, qk_norm, shift)
            for _ in range(depth)
        )
        channels = 2 * in_channels if learn_sigma else in_channels
        self.head = LightningDiTHead(hidden_size, patch_size**2 * channels, rms_norm)
        self.init_weights()

    def init_weights(self) -> None:
        """As in DiT: Xavier-uniform linear maps and patch embedding; gates and the output start at zero."""
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear) and not isinstance(layer, Modulation):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.embed.weight.flatten(1))  # a view, so it fills the convolution's weight
        nn.init.zeros_(self.embed.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.project.weight)
        nn.init.zeros_(self.head.project.bias)
        height, width = (side // self.patch_size for side in height_width(self.input_size))
        with torch.no_grad():
            self.pos_embed.copy_(sincos_2d(height, width, self.pos_embed.shape[-1]))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.check_input(x, fixed_size=True)
        n, channels, height, width = x.shape
        p = self.patch_size
        rows, columns = height // p, width // p
        x = self.embed(x).flatten(2).transpose(1, 2) + self.pos_embed  # (N, T, D), row-major
        c = F.silu(self.condition(t, y))  # (N, D); computed once, because every modulation begins with SiLU
        for block in self.blocks:
            x = block(x, c, rows, columns)
        x = self.head(x, c).view(n, rows, columns, p, p, -1)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(n, -1, height, width)[:, :channels]


class LightningDiTBlock(nn.Module):
    """Attention and SwiGLU; each branch has a norm and is shifted, scaled and gated by the condition.

    Args:
        hidden_size, num_heads, mlp_ratio, swiglu, rope, rms_norm, qk_norm, shift: as for `LightningDiT`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        swiglu: bool,
        rope: bool,
        rms_norm: bool,
        qk_norm: bool,
        shift: bool,
    ) -> None:
        super().__init__()
        self.modulation = Modulation(hidden_size, 6 if shift else 4)
        self.norm1 = _norm(hidden_size, rms_norm)
        self.attention = LightningDiTAttention(hidden_size, num_heads, rope, rms_norm, qk_norm)
        self.norm2 = _norm(hidden_size, rms_norm)
        self.mlp = (
            FusedSwiGLU(hidden_size, int(2 / 3 * int(mlp_ratio * hidden_size)))
            if swiglu
            else Mlp(hidden_size, mlp_ratio, gelu="tanh")
        )

    def forward(self, x: Tensor, c: Tensor, rows: int, columns: int) -> Tensor:
        """x (N, T, D), c = SiLU(condition) (N, D), T = rows · columns -> (N, T, D)."""
        modulation = self.modulation(c)
        half = len(modulation) // 2
        *shift, scale, gate = modulation[:half]
        x = gated(x, gate, self.attention(_modulate(self.norm1(x), scale, *shift), rows, columns))
        *shift, scale, gate = modulation[half:]
        return gated(x, gate, self.mlp(_modulate(self.norm2(x), scale, *shift)))


class LightningDiTAttention(nn.Module):
    """Multi-head self-attention with optional QK-norm and RoPE; channels ordered (q|k|v, head, channel).

    Args:
        hidden_size, num_heads, rope, rms_norm, qk_norm: as for `LightningDiT`.

    Raises:
        UsageError: hidden_size is not a multiple of num_heads, or with RoPE a head's width is not one of 4.
    """

    def __init__(self, hidden_size: int, num_heads: int, rope: bool, rms_norm: bool, qk_norm: bool) -> None:
        super().__init__()
        check_heads(hidden_size, num_heads)
        width = hidden_size // num_heads
        if rope and width % 4:
            raise UsageError(f"RoPE needs a head width that is a multiple of 4, not {width}")
        self.num_heads, self.rope = num_heads, rope
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)

        def norm() -> nn.Module:
            if not qk_norm:
                return nn.Identity()
            return RMSNorm(width) if rms_norm else nn.LayerNorm(width)

        self.q_norm, self.k_norm = norm(), norm()
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """(N, T, D), T = rows · columns -> (N, T, D)."""
        n, t, d = x.shape
        qkv = self.qkv(x).view(n, t, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each N h T d
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope:
            turn = rotations(rows, columns, q.shape[-1], q.dtype == torch.float64, device=q.device)
            q, k = rotate(q, turn), rotate(k, turn)
        x = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.out(x.transpose(1, 2).reshape(n, t, d))


@made_once
def rotations(rows: int, columns: int, head_width: int, double: bool) -> np.ndarray:
    """RoPE's rotations as complex numbers: (rows · columns, head_width / 2), row-major, equal for all heads.

    With e = head_width / 2 there are e / 2 frequencies θ_j = 10000^(−2j/e). Pairs of adjacent channels rotate
    by row·θ_j in the first half of a head and by column·θ_j in the second.

    Args:
        rows, columns: size of the grid of tokens.
        head_width: a multiple of 4.
        double: complex128, for networks in float64; otherwise complex64.
    """
    theta = MAX_PERIOD ** (-4 * np.arange(head_width // 4) / head_width)
    row, column = np.mgrid[:rows, :columns].reshape(2, -1, 1)
    angles = np.concatenate([row * theta, column * theta], axis=1)
    return np.exp(1j * angles).astype(np.complex128 if double else np.complex64)


class FusedSwiGLU(nn.Module):
    """SwiGLU with one linear map for both halves: contract(SiLU(a)·b), [a, b] = expand(x) (arXiv 2002.05202).

    Args:
        hidden_size: width D of a token.
        inner: width of each half.
    """

    def __init__(self, hidden_size: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Linear(hidden_size, 2 * inner)
        self.contract = nn.Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        gate, x = self.expand(x).chunk(2, dim=-1)
        return self.contract(F.silu(gate) * x)


class LightningDiTHead(nn.Module):
    """Modulated norm, then a linear map from tokens to patches.

    Args:
        hidden_size: width D of a token.
        out_features: values of an output patch, p·p·C.
        rms_norm: as for `LightningDiT`.
    """

    def __init__(self, hidden_size: int, out_features: int, rms_norm: bool) -> None:
        super().__init__()
        self.modulation = Modulation(hidden_size, 2)
        self.norm = _norm(hidden_size, rms_norm)
        self.project = nn.Linear(hidden_size, out_features)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, T, D), c = SiLU(condition) (N, D) -> (N, T, out_features)."""
        shift, scale = self.modulation(c)
        return self.project(_modulate(self.norm(x), scale, shift))


def _norm(width: int, rms_norm: bool) -> nn.Module:
    return RMSNorm(width) if rms_norm else nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def _modulate(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    """x·(1 + scale) + shift over tokens: x (N, T, D), scale and shift (N, D)."""
    if shift is None:
        return x * (1 + scale[:, None])
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


_B: dict[str, Any] = {"hidden_size": 768, "depth": 12, "num_heads": 12}
_L: dict[str, Any] = {"hidden_size": 1024, "depth": 24, "num_heads": 16}
_XL: dict[str, Any] = {"hidden_size": 1152, "depth": 28, "num_heads": 16}
_1P0B: dict[str, Any] = {"hidden_size": 1536, "depth": 24, "num_heads": 24}
_1P6B: dict[str, Any] = {"hidden_size": 1792, "depth": 28, "num_heads": 28}
# For latents of Stable Diffusion's autoencoder, in patches of 2×2.
_PATCH_2: dict[str, Any] = {"input_size": 32, "in_channels": 4, "patch_size": 2}
register("lightningdit-b-1", **_B)(LightningDiT)
register("lightningdit-b-2", **_B, **_PATCH_2)(LightningDiT)
register("lightningdit-l-2", **_L, **_PATCH_2)(LightningDiT)
register("lightningdit-xl-1", **_XL)(LightningDiT)
register("lightningdit-xl-2", **_XL, **_PATCH_2)(LightningDiT)
register("lightningdit-1p0b-1", **_1P0B)(LightningDiT)
register("lightningdit-1p0b-2", **_1P0B, **_PATCH_2)(LightningDiT)
register("lightningdit-1p6b-1", **_1P6B)(LightningDiT)
register("lightningdit-1p6b-2", **_1P6B, **_PATCH_2)(LightningDiT)
