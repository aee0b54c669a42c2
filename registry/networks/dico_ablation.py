"""Ablations of DiCo: Tables 4 and 5 of "DiCo: Revitalizing ConvNets …" (arXiv 2505.11196).

DiCo with one part replaced by another, and DiT with long skips. They are separate from `dico` and `dit`, so
that an option added here leaves the records of those networks valid.

The paper prints the parameters and GFLOPs of each row. It says that depth and width were adjusted, but not to
which values. The parts here follow the papers that it cites; `bench/studies/published/tables.toml` says how
the depth and width of each row were found.

Feature maps are (N, C, H, W) in channels-last memory.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import LongSkip, Size, height_width, require_positive
from registry.checkpoints import Rule
from registry.errors import UsageError
from registry.layers.attention import check_heads
from registry.layers.embeddings import made_once
from registry.layers.initial import init_convolutions
from registry.layers.modulation import Modulation, norm_modulate_2d
from registry.networks.dico import DiCo
from registry.networks.dit import DiT

MixerKind = Literal["convolution", "self-attention", "window", "focused-linear", "agent"]
ChannelAttentionKind = Literal["compact", "squeeze-excitation", "self-attention", "none"]
ActivationKind = Literal["gelu", "relu"]
Grid = tuple[int, int]  # (H, W) of a feature map

WINDOW = 8  # side of a window in cells; divides the grid of every scale of a 32×32 input
REDUCTION = 8  # factor by which squeeze-and-excitation reduces the channels between its two layers
AGENTS = 8  # side of the grid of agents: 64 agents, as many as the mediators of arXiv 2408.05710
COARSE = 7  # side of an agent's bias before it is interpolated to the grid


class DiCoAblation(DiCo):
    """DiCo with another mixer, channel attention or activation; the defaults are DiCo-S."""

    checkpoint_names: ClassVar[list[Rule]] = []

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        hidden_size: int = 128,
        depth: tuple[int, int, int, int, int] = (5, 4, 4, 4, 4),
        mlp_ratio: float = 2.0,
        mixer: MixerKind = "convolution",
        kernel_size: int = 3,
        activation: ActivationKind = "gelu",
        channel_attention: ChannelAttentionKind = "compact",
        num_heads: tuple[int, int, int] = (8, 8, 8),
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
            mixer: DiCo's convolution module, or the attention that replaces it.
            kernel_size: side of the depthwise kernels in the convolution module; odd.
            activation: activation of the convolution module and of the feed-forward branch.
            channel_attention: kind of channel attention in the convolution module.
            num_heads: attention heads in blocks of width C, 2C, 4C.
            learn_sigma: output the variance range beside the noise (2·C channels), or the noise alone (C).
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.
        """
        if min(depth) < 0:
            raise UsageError(f"depth {depth} has a negative number of blocks")
        require_positive(kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise UsageError(f"kernel_size {kernel_size} is even: the output would have another size")
        super().__init__(
            input_size=input_size,
            num_classes=num_classes,
            in_channels=in_channels,
            hidden_size=hidden_size,
            depth=(0, 0, 0, 0, 0),
            mlp_ratio=mlp_ratio,
            learn_sigma=learn_sigma,
            class_dropout_prob=class_dropout_prob,
        )
        height, width = height_width(input_size)
        self.one_size = mixer in ("focused-linear", "agent")  # they learn a bias for each cell
        if mixer == "window":
            self.size_multiple = 4 * WINDOW
            self._check_grid(height, width)

        def mixing(channels: int, heads: int, grid: Grid, position: int) -> nn.Module:
            match mixer:
                case "convolution":
                    weighing = channel_weights(channel_attention, channels, heads)
                    return ConvolutionModule(channels, kernel_size, activation, weighing)
                case "self-attention":
                    return SelfAttention(channels, heads)
                case "window":
                    return WindowAttention(channels, heads, shifted=position % 2 == 1 and min(grid) > WINDOW)
                case "focused-linear":
                    return FocusedLinearAttention(channels, heads, grid)
                case "agent":
                    return AgentAttention(channels, heads, grid)

        stages = (self.encoder1, self.encoder2, self.middle, self.decoder2, self.decoder1)
        scales = ((0, 0), (1, 1), (2, 2), (1, 1), (1, 0))  # (scale of the width, scale of the grid)
        for stage, blocks, (wide, small) in zip(stages, depth, scales, strict=True):
            channels, grid = hidden_size << wide, (height >> small, width >> small)
            stage.extend(
                Block(mixing(channels, num_heads[wide], grid, i), channels, mlp_ratio, activation)
                for i in range(blocks)
            )
        init_convolutions(self)

    def check_input(self, x: Tensor, *, fixed_size: bool = False) -> None:
        super().check_input(x, fixed_size=fixed_size or self.one_size)


class Block(nn.Module):
    """A block of DiCo around a module that mixes cells.

    Args:
        mixer: (N, C, H, W) -> (N, C, H, W).
        width: C.
        mlp_ratio, activation: as for `DiCoAblation`.
    """

    def __init__(self, mixer: nn.Module, width: int, mlp_ratio: float, activation: ActivationKind) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.modulation = Modulation(width, 6)
        self.mixer = mixer
        self.ffn = nn.Sequential(
            nn.Conv2d(width, hidden, 1), activated(activation), nn.Conv2d(hidden, width, 1)
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, C, H, W), c = SiLU(condition) (N, C) -> (N, C, H, W)."""
        shift_m, scale_m, gate_m, shift_f, scale_f, gate_f = self.modulation(c)
        x = torch.addcmul(x, gate_m[..., None, None], self.mixer(norm_modulate_2d(x, shift_m, scale_m)))
        return torch.addcmul(x, gate_f[..., None, None], self.ffn(norm_modulate_2d(x, shift_f, scale_f)))


def activated(activation: ActivationKind) -> nn.Module:
    """The activation layer of a name."""
    return nn.GELU() if activation == "gelu" else nn.ReLU()


# ---- the convolution module and its channel attention ----


class ConvolutionModule(nn.Module):
    """1×1 convolution, depthwise convolution, activation, channel attention, 1×1 convolution.

    Feature maps are (N, C, H, W) -> (N, C, H, W).

    Args:
        width: C.
        kernel_size, activation: as for `DiCoAblation`.
        weighing: channel attention, (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, width: int, kernel_size: int, activation: ActivationKind, weighing: nn.Module) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, width, 1)
        self.depthwise = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.activation = activated(activation)
        self.channels = weighing
        self.contract = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.channels(self.activation(self.depthwise(self.expand(x)))))


def channel_weights(kind: ChannelAttentionKind, width: int, heads: int) -> nn.Module:
    """Channel attention of a kind for C channels: (N, C, H, W) -> (N, C, H, W)."""
    match kind:
        case "compact":
            return ChannelGate(nn.Conv2d(width, width, 1))
        case "squeeze-excitation":
            inner = max(1, width // REDUCTION)
            return ChannelGate(nn.Conv2d(width, inner, 1), nn.ReLU(), nn.Conv2d(inner, width, 1))
        case "self-attention":
            return ChannelSelfAttention(width, heads)
        case "none":
            return nn.Identity()


class ChannelGate(nn.Sequential):
    """x·sigmoid(layers(m)), where m (N, C, 1, 1) are the spatial means of x.

    With one 1×1 convolution this is DiCo's compact channel attention, with two it is squeeze-and-excitation
    (arXiv 1709.01507, Figure 3).
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(super().forward(x.mean((2, 3), keepdim=True)))


class ChannelSelfAttention(nn.Module):
    """Attention between channels: Restormer (arXiv 2111.09881), equation 1, without biases.

    A 1×1 and a depthwise 3×3 convolution make queries, keys and values. The channels of a head attend to each
    other; a logit is the cosine over all cells times a learned temperature.

    Args:
        width: C of (N, C, H, W).
        heads: number of heads, each of C/heads channels.

    Raises:
        UsageError: the width is not a multiple of the number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        heads = len(self.temperature)
        qkv = self.depthwise(self.qkv(x)).flatten(2).unflatten(1, (3, heads, -1))
        q, k, v = qkv.unbind(1)  # each (N, heads, C/heads, H·W)
        cosine = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        mixed = (cosine * self.temperature).softmax(-1) @ v
        return self.out(mixed.reshape(x.shape))


# ---- attentions that replace the convolution module ----


class CellAttention(nn.Module):
    """Base class: linear maps before and after an attention that subclasses define.

    (N, C, H, W) -> (N, C, H, W).

    Args:
        width: C.
        heads: number of heads, each C/heads wide.

    Raises:
        UsageError: the width is not a multiple of the number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = xavier(nn.Linear(width, 3 * width))
        self.out = xavier(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.permute(0, 2, 3, 1)).chunk(3, dim=-1)  # each (N, H, W, C)
        return self.out(self.attend(q, k, v)).permute(0, 3, 1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, keys and values (N, H, W, C) -> (N, H, W, C)."""
        raise NotImplementedError

    def split(self, x: Tensor) -> Tensor:
        """(N, …, C) -> (N, heads, T, C/heads), where T is the product of the axes between N and C."""
        return x.reshape(len(x), -1, self.heads, x.shape[-1] // self.heads).transpose(1, 2)


def xavier(layer: nn.Linear) -> nn.Linear:
    """The layer, with Xavier-uniform weights and a zero bias as DiCo's layers start."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class SelfAttention(CellAttention):
    """Each cell attends to all cells, as in DiT."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        x = F.scaled_dot_product_attention(self.split(q), self.split(k), self.split(v))
        return x.transpose(1, 2).reshape(q.shape)


class WindowAttention(CellAttention):
    """Cells attend within windows of 8×8: Swin Transformer (arXiv 2103.14030), section 3.2.

    Args:
        width, heads: as for `CellAttention`.
        shifted: whether windows are shifted by half a window, as in every second block. Cells from opposite
            sides of the grid are masked from each other.
    """

    def __init__(self, width: int, heads: int, shifted: bool) -> None:
        super().__init__(width, heads)
        self.shift = WINDOW // 2 if shifted else 0
        self.bias = nn.Parameter(torch.empty(heads, (2 * WINDOW - 1) ** 2))  # by relative position
        nn.init.trunc_normal_(self.bias, std=0.02)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, height, width, channels = q.shape
        q, k, v = (self.split(self._windows(part)) for part in (q, k, v))  # (N·windows, heads, 64, d)
        near = self.bias.index_select(1, _relative_positions(device=q.device)).view(self.heads, *_SQUARE)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + near
        if self.shift:
            apart = _far_sides(height, width, self.shift, device=q.device)  # (windows, 1, 64, 64)
            logits = (logits.unflatten(0, (n, -1)) + apart).flatten(0, 1)
        x = (logits.softmax(-1) @ v).transpose(1, 2)
        x = x.reshape(n, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
        x = x.transpose(2, 3).reshape(n, height, width, channels)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x

    def _windows(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N·windows, 64, C), windows row-major."""
        n, height, width, channels = x.shape
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = x.reshape(n, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
        return x.transpose(2, 3).reshape(-1, WINDOW**2, channels)


_SQUARE = (WINDOW**2, WINDOW**2)


@made_once
def _relative_positions() -> np.ndarray:
    """Index of the bias table for each pair of cells of a window, by relative position: (64·64,)."""
    rows, columns = np.mgrid[:WINDOW, :WINDOW].reshape(2, -1)
    row, column = (at[:, None] - at + WINDOW - 1 for at in (rows, columns))
    return (row * (2 * WINDOW - 1) + column).ravel()


@made_once
def _far_sides(height: int, width: int, shift: int) -> np.ndarray:
    """Mask of a shifted window: −∞ between cells from opposite sides of the grid, else 0.

    (windows, 1, 64, 64).
    """
    rows, columns = np.mgrid[:height, :width]
    side = (rows >= height - shift) * 2 + (columns >= width - shift)
    side = side.reshape(height // WINDOW, WINDOW, width // WINDOW, WINDOW).swapaxes(1, 2)
    side = side.reshape(-1, 1, WINDOW**2)
    return np.where(side.swapaxes(1, 2) == side, 0, -np.inf).astype(np.float32)[:, None]


class FocusedLinearAttention(CellAttention):
    """Focused linear attention: FLatten Transformer (arXiv 2308.00442), equations 6 to 9.

    Args:
        width, heads: as for `CellAttention`.
        grid: (H, W) of the feature map; each cell has a learned position.
    """

    def __init__(self, width: int, heads: int, grid: Grid) -> None:
        super().__init__(width, heads)
        self.positions = nn.Parameter(torch.zeros(*grid, width))
        self.sharpness = nn.Parameter(torch.zeros(width))
        self.depthwise = nn.Conv2d(width // heads, width // heads, 5, padding=2, groups=width // heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, height, width, channels = v.shape
        q, k, v = self.split(self._focused(q)), self.split(self._focused(k + self.positions)), self.split(v)
        summary = k.transpose(-2, -1) @ v / (height * width)  # (N, heads, d, d)
        x = q @ summary / (q @ k.mean(-2, keepdim=True).transpose(-2, -1) + 1e-6)
        local = self.depthwise(v.reshape(n * self.heads, height, width, -1).permute(0, 3, 1, 2))
        x = x + local.permute(0, 2, 3, 1).reshape(x.shape)
        return x.transpose(1, 2).reshape(n, height, width, channels)

    def _focused(self, x: Tensor) -> Tensor:
        """The focusing function: cubes of the features, at the original norm: (N, H, W, C) of both."""
        x = (F.relu(x) + 1e-6) / F.softplus(self.sharpness)
        cubes = x**3
        return cubes / cubes.norm(dim=-1, keepdim=True) * x.norm(dim=-1, keepdim=True)


class AgentAttention(CellAttention):
    """Agent attention (arXiv 2312.08874), equations 4 to 6.

    Agents are means of the queries. They attend to all cells, and each cell attends to the agents. There are
    64 agents, as in diffusion transformers with attention mediators (arXiv 2408.05710).

    Args:
        width, heads: as for `CellAttention`.
        grid: (H, W) of the feature map; each cell has biases of its own.
    """

    def __init__(self, width: int, heads: int, grid: Grid) -> None:
        super().__init__(width, heads)
        self.gather = AgentBias(heads, grid)
        self.spread = AgentBias(heads, grid)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        agents = F.adaptive_avg_pool2d(q.permute(0, 3, 1, 2), AGENTS).permute(0, 2, 3, 1)
        local = self.depthwise(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        q, k, v, agents = (self.split(part) for part in (q, k, v, agents))
        scale = q.shape[-1] ** -0.5
        read = (agents * scale @ k.transpose(-2, -1) + self.gather()).softmax(-1) @ v
        x = (q * scale @ agents.transpose(-2, -1) + self.spread().transpose(-2, -1)).softmax(-1) @ read
        return x.transpose(1, 2).reshape(local.shape) + local


class AgentBias(nn.Module):
    """A bias for each head, agent and cell: the sum of a coarse table, a row table and a column table.

    Args:
        heads: number of heads.
        grid: (H, W) of the feature map.
    """

    def __init__(self, heads: int, grid: Grid) -> None:
        super().__init__()
        height, width = grid
        agents = AGENTS**2
        self.coarse = nn.Parameter(torch.empty(heads, agents, COARSE, COARSE))
        self.rows = nn.Parameter(torch.empty(heads, agents, height, 1))
        self.columns = nn.Parameter(torch.empty(heads, agents, 1, width))
        for table in self.parameters():
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self) -> Tensor:
        """(heads, agents, H·W)."""
        grid = self.rows.shape[2], self.columns.shape[3]
        coarse = F.interpolate(self.coarse, size=grid, mode="bilinear")
        return (coarse + self.rows + self.columns).flatten(2)


# ---- DiT with long skips ----


class DiTSkip(DiT):
    """DiT with long skips from its first blocks to its last, as in U-ViT; the defaults are DiT-S/2."""

    checkpoint_names: ClassVar[list[Rule]] = []

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        patch_size: int = 2,
        hidden_size: int = 384,
        depth: int = 12,
        num_heads: int = 6,
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
            depth: number of blocks; each of the first (depth − 1) // 2 has a skip to its mirror image.
            num_heads: attention heads; each is hidden_size / num_heads wide.
            mlp_ratio: hidden width of the MLP as a multiple of hidden_size.
            learn_sigma: output the variance range beside the noise (2·C channels), or the noise alone (C).
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.
        """
        super().__init__(
            input_size=input_size,
            num_classes=num_classes,
            in_channels=in_channels,
            patch_size=patch_size,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            learn_sigma=learn_sigma,
            class_dropout_prob=class_dropout_prob,
        )
        self.blocks = nn.ModuleList([SkippedBlocks(self.blocks, hidden_size)])


class SkippedBlocks(nn.Module):
    """Blocks in sequence; the last ones take Linear([x, skip]) of the outputs of the first.

    Args:
        blocks: each maps x (N, T, D) and the condition (N, D) to (N, T, D).
        hidden_size: D.
    """

    def __init__(self, blocks: nn.ModuleList, hidden_size: int) -> None:
        super().__init__()
        count = (len(blocks) - 1) // 2
        self.blocks = blocks
        self.skips = nn.ModuleList(LongSkip() for _ in range(count))
        self.fuse = nn.ModuleList(xavier(nn.Linear(2 * hidden_size, hidden_size)) for _ in range(count))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (N, T, D), c = SiLU(condition) (N, D) -> (N, T, D)."""
        count = len(self.skips)
        kept: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            into = number - (len(self.blocks) - count)
            if into >= 0:
                x = self.fuse[into](torch.cat([x, self.skips[into](kept.pop())], dim=-1))
            x = block(x, c)
            if number < count:
                kept.append(x)
        return x


register("dico-ablation")(DiCoAblation)
register("dit-skip")(DiTSkip)
