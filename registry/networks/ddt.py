"""DDT: "Decoupled Diffusion Transformer" (arXiv 2504.05741).

An encoder computes a condition for each token from the noised input. A decoder predicts the velocity from the
input and these conditions. The released training also aligns the encoder with DINOv2's features; that loss is
not implemented here.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, Size, require_positive
from registry.errors import UsageError
from registry.layers.attention import check_heads, rotate
from registry.layers.embeddings import MAX_PERIOD, LabelEmbedding, made_once
from registry.layers.feed_forward import SwiGLU
from registry.layers.norms import RMSNorm


class DDT(Backbone):
    """Encoder and decoder of transformer blocks over patches; predicts the velocity of a flow.

    `forward` is `decode(x, encode(x, t, y))`. Sampling may reuse the encoder's output of an earlier step
    (section 3.4 of the paper; the sampling option `encoder_every`).
    """

    objective = "flow"

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        patch_size: int = 2,
        hidden_size: int = 1152,
        depth: int = 28,
        encoder_depth: int = 22,
        num_heads: int = 16,
        class_dropout_prob: float = 0.1,
    ) -> None:
        """
        Args:
            input_size: side of the input grid in cells, or (H, W); 32 for latents of 256×256 images.
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the input; 4 for latents.
            patch_size: side of a patch in cells; each patch becomes one token.
            hidden_size: width D of a token, in channels.
            depth: number of blocks in encoder and decoder together.
            encoder_depth: number of blocks in the encoder.
            num_heads: attention heads; each is hidden_size / num_heads wide.
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.

        Raises:
            UsageError: encoder_depth leaves no block for the decoder, hidden_size is not a multiple of
                num_heads, or a head's width is not one of 4.
        """
        require_positive(patch_size=patch_size)
        super().__init__(
            input_size=input_size, in_channels=in_channels, num_classes=num_classes, size_multiple=patch_size
        )
        require_positive(hidden_size=hidden_size, depth=depth)
        if not 0 <= encoder_depth < depth:
            raise UsageError(
                f"encoder_depth must be 0 to {depth - 1}, of {depth} blocks, not {encoder_depth}"
            )
        self.checkpoint_names = [  # type: ignore[misc]  # where the encoder ends is an option
            (r"^s_embedder\.proj\.", "encoder_embed."),
            (r"^x_embedder\.proj\.", "decoder_embed."),
            (r"^t_embedder\.mlp\.", "time.mlp."),
            (r"^y_embedder\.embedding_table\.", "label.table."),
            (r"^blocks\.(\d+)\.", lambda match: _place(match, encoder_depth)),
            (r"\.adaLN_modulation\.0\.", ".modulation."),
            (r"\.attn\.proj\.", ".attention.out."),
            (r"\.attn\.", ".attention."),
            (r"\.mlp\.w1\.", ".mlp.gate."),
            (r"\.mlp\.w3\.", ".mlp.expand."),
            (r"\.mlp\.w2\.", ".mlp.contract."),
            (r"^final_layer\.linear\.", "head.project."),
            (r"^final_layer\.", "head."),
        ]
        self.patch_size = patch_size
        features = patch_size**2 * in_channels
        self.time = TimeEmbedding(hidden_size)
        self.label = LabelEmbedding(num_classes, hidden_size, class_dropout_prob) if num_classes else None

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(DDTBlock(hidden_size, num_heads) for _ in range(count))

        self.encoder_embed = nn.Linear(features, hidden_size)
        self.encoder = blocks(encoder_depth)
        self.decoder_embed = nn.Linear(features, hidden_size)
        self.decoder = blocks(depth - encoder_depth)
        self.head = DDTHead(hidden_size, features)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform patch embeddings, zero output layer, otherwise PyTorch's defaults."""
        for embed in (self.encoder_embed, self.decoder_embed):
            nn.init.xavier_uniform_(embed.weight)
            nn.init.zeros_(embed.bias)
        for layer in (self.head.modulation, self.head.project):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return self.decode(x, self.encode(x, t, y))

    def encode(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The decoder's condition: x (N, C, H, W), t (N,), y (N,) -> (N, T, D)."""
        self.check_input(x)
        time = self.time(t)[:, None]  # (N, 1, D)
        c = F.silu(time if self.label is None else time + self.label(y)[:, None])
        s, turns = self.encoder_embed(self._patches(x)), self._turns(x)
        for block in self.encoder:
            s = block(s, c, turns)
        return F.silu(time + s)

    def decode(self, x: Tensor, s: Tensor) -> Tensor:
        """The velocity: x (N, C, H, W), s (N, T, D) of `encode` -> (N, C, H, W)."""
        rows, columns = (side // self.patch_size for side in x.shape[2:])
        z, turns = self.decoder_embed(self._patches(x)), self._turns(x)
        for block in self.decoder:
            z = block(z, s, turns)
        z = self.head(z, s).transpose(1, 2).unflatten(2, (rows, columns))
        return F.pixel_shuffle(z, self.patch_size)

    def _patches(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, T, C·p·p): patches row-major, values within a patch (channel, row, column)."""
        return F.pixel_unshuffle(x, self.patch_size).flatten(2).transpose(1, 2)

    def _turns(self, x: Tensor) -> Tensor:
        rows, columns = (side // self.patch_size for side in x.shape[2:])
        attention: Any = self.decoder[0].attention
        return rotations(rows, columns, attention.head_width, x.dtype == torch.float64, device=x.device)


def _place(match: re.Match[str], encoder_depth: int) -> str:
    """Our name for a block of the authors' checkpoints, which number encoder and decoder together."""
    i = int(match[1])
    return f"encoder.{i}." if i < encoder_depth else f"decoder.{i - encoder_depth}."


class TimeEmbedding(nn.Module):
    """Times to vectors: 256 sinusoids, then Linear, SiLU, Linear.

    The sinusoids are 128 cosines, then 128 sines, of frequencies f_i = 10^(−i/128).

    Args:
        hidden_size: width D of the vectors.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        first, second = nn.Linear(256, hidden_size), nn.Linear(hidden_size, hidden_size)
        for layer in (first, second):
            nn.init.normal_(layer.weight, std=0.02)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, t: Tensor) -> Tensor:
        """(N,) from 0 (noise) to 1 (data) -> (N, hidden_size)."""
        angles = t.float()[:, None] * _frequencies(device=t.device)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.mlp(waves.to(next(self.mlp.parameters()).dtype))


@made_once
def _frequencies() -> np.ndarray:
    return (10.0 ** (-np.arange(128) / 128)).astype(np.float32)


class DDTBlock(nn.Module):
    """Attention and SwiGLU; each branch has a norm and is shifted, scaled and gated by the condition.

    Args:
        hidden_size, num_heads: as for `DDT`.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(hidden_size, 6 * hidden_size)
        self.norm1 = RMSNorm(hidden_size)
        self.attention = DDTAttention(hidden_size, num_heads)
        self.norm2 = RMSNorm(hidden_size)
        self.mlp = SwiGLU(hidden_size, int(2 * (4 * hidden_size) / 3))

    def forward(self, x: Tensor, c: Tensor, turns: Tensor) -> Tensor:
        """x (N, T, D), condition c (N, 1 or T, D), rotations (T, d/2) -> (N, T, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c).chunk(6, dim=-1)
        z = torch.addcmul(shift_a, self.norm1(x), 1 + scale_a)
        x = torch.addcmul(x, gate_a, self.attention(z, turns))
        return torch.addcmul(x, gate_m, self.mlp(torch.addcmul(shift_m, self.norm2(x), 1 + scale_m)))


class DDTAttention(nn.Module):
    """Multi-head self-attention with QK-norm and RoPE; channels ordered (q|k|v, head, channel).

    Args:
        hidden_size, num_heads: as for `DDT`.

    Raises:
        UsageError: hidden_size is not a multiple of num_heads, or a head's width is not one of 4.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        check_heads(hidden_size, num_heads)
        self.num_heads, self.head_width = num_heads, hidden_size // num_heads
        if self.head_width % 4:
            raise UsageError(f"RoPE needs a head width that is a multiple of 4, not {self.head_width}")
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_width)
        self.k_norm = RMSNorm(self.head_width)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """x (N, T, D), rotations (T, d/2) -> (N, T, D)."""
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.num_heads, self.head_width).permute(2, 0, 3, 1, 4)
        q, k = (rotate(z, turns).to(v.dtype) for z in (self.q_norm(q), self.k_norm(k)))  # N h T d
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(n, t, d))


@made_once
def rotations(rows: int, columns: int, head_width: int, double: bool) -> np.ndarray:
    """RoPE's rotations as complex numbers: (rows · columns, head_width / 2), row-major, equal for all heads.

    Positions run from 0 to 16 along each axis, whatever its length. There are head_width / 4 frequencies
    θ_j = 10000^(−4j/head_width). Of the pairs of adjacent channels, pair 2j rotates by column·θ_j and pair
    2j + 1 by row·θ_j.

    Args:
        rows, columns: size of the grid of tokens.
        head_width: a multiple of 4.
        double: complex128, for networks in float64; otherwise complex64.
    """
    theta = MAX_PERIOD ** (-4 * np.arange(head_width // 4) / head_width)
    row, column = np.meshgrid(np.linspace(0, 16, rows), np.linspace(0, 16, columns), indexing="ij")
    angles = np.stack([column.reshape(-1, 1) * theta, row.reshape(-1, 1) * theta], axis=-1)
    return np.exp(1j * angles.reshape(rows * columns, -1)).astype(np.complex128 if double else np.complex64)


class DDTHead(nn.Module):
    """Norm, shifted and scaled by the condition of each token, then a linear map from tokens to patches.

    Args:
        hidden_size: width D of a token.
        out_features: values of an output patch, C·p·p.
    """

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(hidden_size, 2 * hidden_size)
        self.project = nn.Linear(hidden_size, out_features)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """x and condition s (N, T, D) -> (N, T, out_features)."""
        shift, scale = self.modulation(s).chunk(2, dim=-1)
        return self.project(torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale))


_B: dict[str, Any] = {"hidden_size": 768, "depth": 12, "encoder_depth": 8, "num_heads": 12}
_L: dict[str, Any] = {"hidden_size": 1024, "depth": 24, "encoder_depth": 20, "num_heads": 16}
_XL: dict[str, Any] = {"hidden_size": 1152, "depth": 28, "encoder_depth": 22, "num_heads": 16}
register("ddt-b-2", aliases=["ddt-b-2-8en4de"], **_B)(DDT)
register("ddt-l-2", aliases=["ddt-l-2-20en4de"], **_L)(DDT)
register("ddt-xl-2", aliases=["ddt-xl-2-22en6de"], **_XL)(DDT)
