"""HDiT: "Scalable High-Resolution Pixel-Space Image Synthesis with Hourglass Diffusion Transformers".

arXiv 2401.11605. A U-shaped transformer on pixels: local attention on the fine grids, global attention on the
coarse ones. Tokens are (N, H, W, C); no layer has a bias. Names follow the authors' program, k-diffusion's
`image_transformer_v2`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, LongSkip, Size, height_width, require_positive
from registry.checkpoints import Rule
from registry.errors import UsageError
from registry.layers.embeddings import LabelEmbedding, made_once

Kind = Literal["global", "neighbourhood", "shifted-window", "none"]
EPS = 1e-6
AUGMENTATIONS = 9  # numbers that describe how an image was augmented; all zero: not augmented
TILE = 8  # largest side of a tile of queries that share keys in neighbourhood attention


class HDiT(Backbone):
    """Hourglass transformer that denoises x = x0 + σ·noise (arXiv 2401.11605).

    Its time t is σ. It returns the denoised image D(x; σ), preconditioned as in EDM (arXiv 2206.00364,
    Table 1).
    """

    objective = "edm"
    checkpoint_names: ClassVar[list[Rule]] = [
        (r"^patch_(in|out)\.proj\.", r"patch_\1."),
        (r"^(time|aug)_emb\.weight$", r"condition.\1_features.frequencies"),
        (r"^(time|aug)_in_proj\.", r"condition.\1_in."),
        (r"^class_emb\.", "condition.label.table."),
        (r"^mapping\.", "condition."),
        (r"^((?:down|up)_levels\.\d+|mid_level)\.(\d+)\.", r"\1.layers.\2."),
        (r"\.layers\.\d+\.self_attn\.pos_emb\.", ".rope."),  # the same for all layers of a level
        (r"\.self_attn\.", ".attention."),
        (r"^(merges|splits)\.(\d+)\.proj\.", r"\1.\2.project."),
        (r"\.norm\.linear\.", ".norm.gain."),
        (r"norm\.scale$", "norm.weight"),
        (r"\.(qkv|up|down|out)_proj\.", r".\1."),
    ]

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 10,
        in_channels: int = 3,
        patch_size: int = 2,
        widths: tuple[int, ...] = (256, 512),
        depths: tuple[int, ...] = (2, 4),
        attention: tuple[Kind, ...] = ("global", "global"),
        head_width: int | tuple[int, ...] = 64,
        mlp_ratio: float | tuple[float, ...] = 3.0,
        kernel_size: int = 7,
        window_size: int = 8,
        mapping_width: int = 256,
        mapping_depth: int = 2,
        mapping_ratio: float = 3.0,
        sigma_data: float = 0.5,
        class_dropout_prob: float = 0.1,
    ) -> None:
        """
        Args:
            input_size: side of the image in pixels, or (H, W).
            num_classes: number of classes without the null class; 0: unconditional.
            in_channels: channels of the image.
            patch_size: side of a patch in pixels; each patch becomes one token of the finest level.
            widths: channels of the tokens at each level, the finest first.
            depths: layers of each level; all levels but the last have as many again in the decoder.
            attention: kind at each level: "global", "neighbourhood", "shifted-window", or "none" for
                feed-forward layers only.
            head_width: channels of a head, a multiple of 8; one number for all levels, or one for each.
            mlp_ratio: hidden width of the feed-forward branch as a multiple of the tokens' width; one number
                for all levels, or one for each.
            kernel_size: side of the neighbourhood that a query attends to, in tokens; odd.
            window_size: side of a shifted window, in tokens.
            mapping_width: channels of the condition.
            mapping_depth: layers of the mapping network, which computes the condition.
            mapping_ratio: hidden width of these layers as a multiple of mapping_width.
            sigma_data: standard deviation σ_data that the preconditioning assumes of the data.
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.

        Raises:
            UsageError: options of different numbers of levels, a size that is not positive, an odd
                mapping_width, an even kernel_size, or a head_width that does not divide the width.
        """
        levels = len(widths)
        for name, value in (("widths", widths), ("depths", depths), ("attention", attention)):
            if len(value) != levels or not value:
                raise UsageError(f"{name} has {len(value)} entries for {levels} levels of widths")
        require_positive(patch_size=patch_size, window_size=window_size)
        multiples = [
            patch_size * 2**level * (window_size if kind == "shifted-window" else 1)
            for level, kind in enumerate(attention)
        ]
        super().__init__(
            input_size=input_size,
            in_channels=in_channels,
            num_classes=num_classes,
            size_multiple=math.lcm(*multiples),
        )
        require_positive(
            widths=min(widths),
            depths=min(depths),
            mapping_depth=mapping_depth,
            mapping_ratio=mapping_ratio,
            sigma_data=sigma_data,
        )
        if mapping_width < 2 or mapping_width % 2:
            raise UsageError(f"mapping_width must be even, for cosines and sines, not {mapping_width}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UsageError(f"kernel_size must be odd, for a query is at the centre, not {kernel_size}")
        heads, ratios = _each(head_width, levels, "head_width"), _each(mlp_ratio, levels, "mlp_ratio")
        self.patch_size, self.sigma_data, self.kernel_size = patch_size, sigma_data, kernel_size
        self.attention = attention
        self._check_neighbourhoods(*height_width(input_size))

        def level(i: int, first: int = 0) -> Level:
            """Level i. Its layers are numbered from `first`; the windows of odd layers are shifted."""
            width, kind = widths[i], attention[i]
            sizes = width, heads[i], mapping_width
            made = []
            for number in range(first, first + depths[i]):
                block: HDiTAttention | None = None
                if kind == "global":
                    block = GlobalAttention(*sizes)
                elif kind == "neighbourhood":
                    block = NeighbourhoodAttention(*sizes, kernel_size)
                elif kind == "shifted-window":
                    block = ShiftedWindowAttention(*sizes, window_size, window_size // 2 if number % 2 else 0)
                made.append(Layer(block, FeedForward(width, ratios[i], mapping_width)))
            return Level(made, None if kind == "none" else AxialRope(width, heads[i]))

        self.condition = HDiTCondition(
            num_classes, mapping_width, mapping_depth, mapping_ratio, class_dropout_prob
        )
        self.patch_in = nn.Linear(patch_size**2 * in_channels, widths[0], bias=False)
        outer = range(levels - 1)
        self.down_levels = nn.ModuleList(map(level, outer))
        self.merges = nn.ModuleList(Merge(widths[i], widths[i + 1]) for i in outer)
        self.mid_level = level(levels - 1)
        self.splits = nn.ModuleList(Split(widths[i + 1], widths[i]) for i in outer)
        self.up_levels = nn.ModuleList(level(i, first=depths[i]) for i in outer)
        self.out_norm = Norm(widths[0])
        self.patch_out = nn.Linear(widths[0], patch_size**2 * in_channels, bias=False)
        nn.init.zeros_(self.patch_out.weight)

    def _check_neighbourhoods(self, height: int, width: int) -> None:
        for level, kind in enumerate(self.attention):
            side = min(height, width) // self.patch_size // 2**level
            if kind == "neighbourhood" and side < self.kernel_size:
                raise UsageError(
                    f"kernel_size {self.kernel_size} does not fit into a {height}×{width} input, whose level "
                    f"{level} has {side} tokens a side: use a smaller one, or global attention there"
                )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None, augmentation: Tensor | None = None) -> Tensor:
        """x (N, C, H, W), t = σ (N,), y (N,) -> denoised (N, C, H, W).

        Args:
            augmentation: (N, 9), how each image was augmented; None: not augmented.
        """
        sigma = t.to(torch.promote_types(x.dtype, torch.float32)).view(-1, 1, 1, 1)
        variance = sigma**2 + self.sigma_data**2
        raw = self.raw((x * variance.rsqrt()).to(x.dtype), t, y, augmentation)
        skip = self.sigma_data**2 / variance * x
        return torch.addcmul(skip, sigma * self.sigma_data * variance.rsqrt(), raw).to(x.dtype)

    def raw(self, x: Tensor, sigma: Tensor, y: Tensor | None, augmentation: Tensor | None = None) -> Tensor:
        """The network without preconditioning: x scaled to variance 1, (N, C, H, W) -> (N, C, H, W)."""
        self.check_input(x)
        self._check_neighbourhoods(*x.shape[2:])
        c = self.condition(sigma, y, augmentation).to(x.dtype)  # (N, mapping_width)
        p = self.patch_size
        x = self.patch_in(gather_cells(x.permute(0, 2, 3, 1), p))  # (N, H/p, W/p, C)
        skips = []
        for down, merge in zip(self.down_levels, self.merges, strict=True):
            x = down(x, c)
            skips.append(x)
            x = merge(x)
        x = self.mid_level(x, c)
        for split, up in reversed([*zip(self.splits, self.up_levels, strict=True)]):
            x = up(split(x, skips.pop()), c)
        return spread_cells(self.patch_out(self.out_norm(x)), p).permute(0, 3, 1, 2)


def _each(value: Any, levels: int, name: str) -> tuple[Any, ...]:
    """An option as one value for each level, given as such or as one value for all."""
    values = value if isinstance(value, tuple | list) else (value,) * levels
    if len(values) != levels:
        raise UsageError(f"{name} has {len(values)} entries for {levels} levels of widths")
    require_positive(**{name: min(values)})
    return tuple(values)


def gather_cells(x: Tensor, side: int) -> Tensor:
    """Squares of s·s cells to tokens: (N, H, W, C) -> (N, H/s, W/s, s·s·C), (row, column, channel)."""
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    return x.transpose(2, 3).flatten(3)


def spread_cells(x: Tensor, side: int) -> Tensor:
    """The inverse of `gather_cells`: (N, H, W, s·s·C) -> (N, H·s, W·s, C)."""
    x = x.unflatten(3, (side, side, -1))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class HDiTCondition(nn.Module):
    """σ, label and augmentation as one vector: the sum of their embeddings, passed through gated MLPs.

    Args:
        num_classes: number of classes without the null class; 0: no labels.
        width: width of the vector.
        depth: number of MLPs.
        ratio: hidden width of the MLPs as a multiple of `width`.
        class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.
    """

    def __init__(
        self, num_classes: int, width: int, depth: int, ratio: float, class_dropout_prob: float
    ) -> None:
        super().__init__()
        self.time_features = FourierFeatures(1, width)
        self.time_in = nn.Linear(width, width, bias=False)
        self.aug_features = FourierFeatures(AUGMENTATIONS, width)
        self.aug_in = nn.Linear(width, width, bias=False)
        self.label = LabelEmbedding(num_classes, width, class_dropout_prob) if num_classes else None
        if self.label is not None:
            nn.init.normal_(self.label.table.weight)
        self.in_norm = Norm(width)
        self.blocks = nn.ModuleList(MappingBlock(width, ratio) for _ in range(depth))
        self.out_norm = Norm(width)

    def forward(self, sigma: Tensor, y: Tensor | None, augmentation: Tensor | None) -> Tensor:
        """σ (N,), y (N,), augmentation (N, 9) -> (N, width)."""
        noise = sigma.to(self.time_features.frequencies.dtype).log()[:, None] / 4
        if augmentation is None:  # nine zeros, whose features are ones and zeros, not only zeros
            augmentation = noise.new_zeros(len(noise), AUGMENTATIONS)
        c = self.time_in(self.time_features(noise)) + self.aug_in(self.aug_features(augmentation))
        if self.label is not None:
            c = c + self.label(y)
        c = self.in_norm(c)
        for block in self.blocks:
            c = block(c)
        return self.out_norm(c)


class FourierFeatures(nn.Module):
    """`[cos, sin]` of 2π times a fixed random projection of the inputs.

    Args:
        inputs: number of inputs.
        width: number of features, half of them cosines.
    """

    frequencies: Tensor

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(width // 2, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, width)."""
        angles = 2 * math.pi * (x[:, None] * self.frequencies).sum(-1)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class Norm(nn.Module):
    """RMS norm over channels, with a weight.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        return F.rms_norm(x, x.shape[-1:], eps=EPS) * self.weight


class AdaptiveNorm(nn.Module):
    """RMS norm with the weight 1 + linear(condition).

    Args:
        width: channels.
        condition: width of the condition.
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.gain = nn.Linear(condition, width, bias=False)
        nn.init.zeros_(self.gain.weight)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, H, W, width), c (N, condition) -> (N, H, W, width)."""
        return F.rms_norm(x, x.shape[-1:], eps=EPS) * (1 + self.gain(c))[:, None, None]


class GatedMlp(nn.Module):
    """down(a·GELU(b)) with [a, b] = up(x) (GEGLU, arXiv 2002.05202); the output starts at zero.

    Args:
        width: channels of x.
        ratio: hidden width as a multiple of `width`.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def gated(self, x: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        a, b = self.up(x).chunk(2, dim=-1)
        return self.down(a * F.gelu(b))


class MappingBlock(GatedMlp):
    """x + MLP(norm(x)), with a gated MLP.

    Args:
        width, ratio: as for `GatedMlp`.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__(width, ratio)
        self.norm = Norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) -> (N, width)."""
        return x + self.gated(self.norm(x))


class FeedForward(GatedMlp):
    """x + MLP(norm(x)), with a gated MLP and a norm that depends on the condition.

    Args:
        width, ratio: as for `GatedMlp`.
        condition: width of the condition.
    """

    def __init__(self, width: int, ratio: float, condition: int) -> None:
        super().__init__(width, ratio)
        self.norm = AdaptiveNorm(width, condition)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, H, W, width), c (N, condition) -> (N, H, W, width)."""
        return x + self.gated(self.norm(x, c))


class Level(nn.Module):
    """Layers of one width, with common rotary positions.

    Args:
        layers: the layers, in order.
        rope: the rotary positions; None for layers without attention.
    """

    def __init__(self, layers: list[Layer], rope: AxialRope | None) -> None:
        super().__init__()
        self.layers, self.rope = nn.ModuleList(layers), rope

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, H, W, C), c (N, mapping_width) -> (N, H, W, C)."""
        rotation = None if self.rope is None else self.rope(*x.shape[1:3])
        for layer in self.layers:
            x = layer(x, c, rotation)
        return x


class Layer(nn.Module):
    """Attention and feed-forward branch.

    Args:
        attention: the attention with its residual connection; None: the layer has none.
        feed_forward: the feed-forward branch with its residual connection.
    """

    def __init__(self, attention: HDiTAttention | None, feed_forward: FeedForward) -> None:
        super().__init__()
        self.attention, self.ff = attention, feed_forward

    def forward(self, x: Tensor, c: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """x (N, H, W, C), c (N, mapping_width), rotation from `AxialRope` -> (N, H, W, C)."""
        if self.attention is not None:
            x = self.attention(x, c, rotation)
        return self.ff(x, c)


class Merge(nn.Module):
    """Downsampling: a linear map of 2×2 tokens to one.

    Args:
        narrow, wide: channels before and after.
    """

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.project = nn.Linear(4 * narrow, wide, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, narrow) -> (N, H/2, W/2, wide)."""
        return self.project(gather_cells(x, 2))


class Split(nn.Module):
    """Upsampling: a linear map of a token to 2×2, interpolated with the long skip: skip + fac·(split − skip).

    Args:
        wide, narrow: channels before and after.
    """

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.project = nn.Linear(wide, 4 * narrow, bias=False)
        self.fac = nn.Parameter(torch.full((1,), 0.5))
        self.skip = LongSkip()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x (N, H, W, wide), skip (N, 2H, 2W, narrow) -> (N, 2H, 2W, narrow)."""
        skip, x = self.skip(skip), spread_cells(self.project(x), 2)
        return skip + self.fac.to(x.dtype) * (x - skip)


@made_once
def _positions(height: int, width: int) -> np.ndarray:
    """(row, column) of each cell's centre, (H, W, 1, 2, 1); the longer side of the grid is −1 to 1."""
    sides = np.array([height, width]).reshape(2, 1, 1)
    centres = (2 * np.mgrid[:height, :width] + 1 - sides) / max(height, width)
    return np.moveaxis(centres, 0, -1)[:, :, None, :, None].astype(np.float32)


class AxialRope(nn.Module):
    """Axial rotary position embedding: rotations of queries and keys by row and column.

    There are h·d/8 frequencies f_k = π·10^(k/(h·d/8)), distributed over the h heads: head a has f_{i·h + a},
    i = 0 … d/8 − 1. Half of a head's channels rotate; each channel of the first quarter is paired with one of
    the second.

    Args:
        width: channels of a token, h·d.
        head_width: d.

    Raises:
        UsageError: head_width is not a multiple of 8, or does not divide the width.
    """

    freqs: Tensor

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        if width % head_width or head_width % 8:
            raise UsageError(
                f"head_width {head_width} must be a multiple of 8 that divides the width {width}"
            )
        heads, count = width // head_width, head_width // 8
        freqs = math.pi * 10 ** (torch.arange(heads * count, dtype=torch.float64) / (heads * count))
        self.register_buffer("freqs", freqs.view(count, heads).T.float())

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Factors of each channel and of the channel it is paired with, for `rotate`: (H, W, h, d) each."""
        angles = (_positions(height, width, device=self.freqs.device) * self.freqs[:, None]).flatten(-2)
        unturned = (0, 2 * angles.shape[-1])
        straight = F.pad(angles.cos().repeat(1, 1, 1, 2), unturned, value=1.0)
        sines = angles.sin()
        crossed = F.pad(torch.cat([-sines, sines], dim=-1), unturned)
        return straight, crossed


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the first quarter of the channels with the second: (N, H, W, h, d) -> (N, H, W, h, d)."""
    straight, crossed = rotation
    other = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return torch.addcmul(x * straight, other, crossed)


class HDiTAttention(nn.Module):
    """Base class of the attentions: x + attention(norm(x)), with a norm that depends on the condition.

    Logits are cosines times a learned scale for each head, with rotary positions.

    Args:
        width: channels of a token.
        head_width: channels of a head.
        condition: width of the condition.
    """

    def __init__(self, width: int, head_width: int, condition: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = AdaptiveNorm(width, condition)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.scale = nn.Parameter(torch.full((width // head_width,), 10.0))
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, c: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x (N, H, W, C), c (N, condition), rotation from `AxialRope` -> (N, H, W, C)."""
        q, k, v = self.qkv(self.norm(x, c)).unflatten(-1, (3, -1, self.head_width)).unbind(3)
        q, k = (rotate(self._scaled(vectors), rotation).to(v.dtype) for vectors in (q, k))
        return x + self.out(self.attend(q, k, v).flatten(3))

    def _scaled(self, x: Tensor) -> Tensor:
        """Queries or keys (N, H, W, h, d), scaled to the norm √scale, in float32 or better."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x * (self.scale.sqrt()[:, None] * (x.square().sum(-1, keepdim=True) + EPS).rsqrt())

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q·k) v over the keys that a query attends to: (N, H, W, h, d) each -> (N, H, W, h, d)."""
        raise NotImplementedError


class GlobalAttention(HDiTAttention):
    """Every token attends to all tokens."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = q.shape
        q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # (N, h, T, d)
        return F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).reshape(shape)


class ShiftedWindowAttention(HDiTAttention):
    """A token attends to its window on a shifted grid (Swin, arXiv 2103.14030).

    Args:
        width, head_width, condition: as for `HDiTAttention`.
        size: side of a window in tokens; divides the grid's sides.
        shift: tokens by which the grid is rolled. Tokens from opposite sides of the grid are masked from each
            other.
    """

    def __init__(self, width: int, head_width: int, condition: int, size: int, shift: int) -> None:
        super().__init__(width, head_width, condition)
        self.size, self.shift = size, shift

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape, mask = q.shape, None
        if self.shift:
            q, k, v = (x.roll((self.shift, self.shift), dims=(1, 2)) for x in (q, k, v))
            mask = _window_mask(*shape[1:3], self.size, self.shift, device=q.device)
        q, k, v = (cut(x, self.size, self.size) for x in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        x = join(x, shape, self.size, self.size)
        return x.roll((-self.shift, -self.shift), dims=(1, 2)) if self.shift else x


@made_once
def _window_mask(height: int, width: int, size: int, shift: int) -> np.ndarray:
    """Which tokens of a window attend to each other on a rolled grid: (windows, 1, size², size²) bool."""
    rows, columns = np.mgrid[:height, :width]
    origin = 2 * (rows < shift) + (columns < shift)  # equal where no border lies between two cells
    origin = origin.reshape(height // size, size, width // size, size).swapaxes(1, 2).reshape(-1, 1, size**2)
    return origin[..., None] == origin[:, :, None]


class NeighbourhoodAttention(HDiTAttention):
    """A token attends to the square of tokens around it, moved inwards at borders (arXiv 2204.07143).

    Queries are processed in tiles. All queries of a tile use the keys around the tile, and a mask leaves each
    query those of its own square.

    Args:
        width, head_width, condition: as for `HDiTAttention`.
        size: side of the square in tokens.

    Attributes:
        attended_keys: keys that a query attends to, size²; only these count as operations.
    """

    def __init__(self, width: int, head_width: int, condition: int, size: int) -> None:
        super().__init__(width, head_width, condition)
        self.size, self.attended_keys = size, size**2

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, height, width, heads, d = q.shape
        rows = _around(height, self.size, device=q.device)[:, None, :, None]
        columns = _around(width, self.size, device=q.device)[:, None]
        k, v = (  # for each tile: (tiles, N·h, keys, d)
            x.permute(1, 2, 0, 3, 4)[rows, columns].view(-1, rows.shape[2] * columns.shape[2], n * heads, d)
            for x in (k, v)
        )
        tile = _tile(height), _tile(width)
        mask = _neighbourhood_mask(height, width, self.size, device=q.device)
        x = F.scaled_dot_product_attention(
            cut(q, *tile), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=1.0
        )
        return join(x, (n, height, width, heads, d), *tile)


def _tile(length: int) -> int:
    """Side of a tile along an axis: the largest divisor of its length up to `TILE`."""
    return next(side for side in range(TILE, 0, -1) if length % side == 0)


def _keys(length: int, size: int) -> np.ndarray:
    """The cells of an axis that at least one query of a tile attends to: (tiles, keys)."""
    tile = _tile(length)
    count = min(tile + size - 1, length)
    first = np.clip(np.arange(0, length, tile) - size // 2, 0, length - count)
    return first[:, None] + np.arange(count)


_around = made_once(_keys)


@made_once
def _neighbourhood_mask(height: int, width: int, size: int) -> np.ndarray:
    """Which of the keys around its tile a query attends to: (tiles, 1, queries, keys) bool."""

    def seen(length: int) -> np.ndarray:
        first = np.clip(np.arange(length) - size // 2, 0, length - size).reshape(-1, _tile(length), 1)
        keys = _keys(length, size)[:, None]
        return (first <= keys) & (keys < first + size)  # (tiles, queries, keys)

    rows, columns = seen(height), seen(width)
    both = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]
    return both.reshape(len(rows) * len(columns), 1, rows.shape[1] * columns.shape[1], -1)


def cut(x: Tensor, tall: int, broad: int) -> Tensor:
    """Split a grid into tiles of tall·broad tokens: (N, H, W, h, d) -> (tiles, N·h, tall·broad, d)."""
    x = x.unflatten(2, (-1, broad)).unflatten(1, (-1, tall))  # N, rows, tall, columns, broad, h, d
    return x.permute(1, 3, 0, 5, 2, 4, 6).flatten(4, 5).flatten(2, 3).flatten(0, 1)


def join(x: Tensor, shape: tuple[int, ...], tall: int, broad: int) -> Tensor:
    """The inverse of `cut`, for a grid of `shape` (N, H, W, h, d)."""
    n, height, width, heads, d = shape
    x = x.view(height // tall, width // broad, n, heads, tall, broad, d)
    return x.permute(2, 0, 4, 1, 5, 3, 6).reshape(shape)


_FLOWERS: dict[str, Any] = {
    "widths": (128, 256, 512), "depths": (2, 2, 4), "patch_size": 4, "input_size": 256, "num_classes": 0,
}  # fmt: skip
register(
    "hdit-mnist",
    widths=(256,),
    depths=(8,),
    attention=("global",),
    patch_size=4,
    input_size=28,
    in_channels=1,
)(HDiT)
register("hdit-cifar10")(HDiT)
register("hdit-flowers", attention=("neighbourhood", "neighbourhood", "global"), **_FLOWERS)(HDiT)
register("hdit-flowers-windows", attention=("shifted-window", "shifted-window", "global"), **_FLOWERS)(HDiT)
register(
    "hdit-imagenet-256", widths=(384, 768, 1536), depths=(2, 2, 16), patch_size=4, input_size=256,
    attention=("neighbourhood", "neighbourhood", "global"), num_classes=1000,
)(HDiT)  # fmt: skip
register(
    "hdit-ffhq-1024", widths=(128, 256, 384, 768, 1024), depths=(2, 2, 2, 2, 2), patch_size=4,
    attention=("neighbourhood", "neighbourhood", "neighbourhood", "global", "global"), input_size=1024,
    num_classes=0,
)(HDiT)  # fmt: skip
