"""FlowDCN: "Exploring DCN-like Architectures for Fast Image Generation with Arbitrary Resolution".

arXiv 2410.22655. DiT with deformable convolutions in place of attention. Tokens have no position embedding,
so the network takes grids of any size.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from registry import register
from registry.backbone import Backbone, Size, require_positive
from registry.checkpoints import Rule
from registry.errors import UsageError
from registry.layers.embeddings import Condition
from registry.layers.feed_forward import SwiGLU
from registry.layers.modulation import Modulation, gated
from registry.networks.dit import DiTHead

POINTS = 9  # K: sampling points of a channel group for each token
REACH = 6.0  # an offset of 1 is scaled to at most this many cells


class FlowDCN(Backbone):
    """Isotropic network of deformable convolutions that predicts the velocity of a flow (arXiv 2410.22655).

    The released weights have 2·C output channels; the first C are the velocity.
    """

    objective = "flow"
    checkpoint_names: ClassVar[list[Rule]] = [
        (r"^x_embedder\.proj\.", "embed."),
        (r"^t_embedder\.", "condition.time."),
        (r"^y_embedder\.embedding_table\.", "condition.label.table."),
        (r"\.adaLN_modulation\.1\.", ".modulation."),
        (r"^final_layer\.linear\.", "head.project."),
        (r"^final_layer\.", "head."),
        (r"\.attn\.v\.", ".deformable.value."),
        (r"\.attn\.qk_deformables\.", ".deformable.offsets."),
        (r"\.attn\.qk_scales\.", ".deformable.scales."),
        (r"\.attn\.qk_weights\.", ".deformable.weights."),
        (r"\.attn\.deformables_(prior|scale)$", r".deformable.\1"),
        (r"\.attn\.out\.", ".deformable.out."),
        (r"\.mlp\.w1\.", ".mlp.gate."),
        (r"\.mlp\.w3\.", ".mlp.expand."),
        (r"\.mlp\.w2\.", ".mlp.contract."),
    ]

    def __init__(
        self,
        input_size: Size = 32,
        num_classes: int = 1000,
        in_channels: int = 4,
        patch_size: int = 2,
        hidden_size: int = 1152,
        depth: int = 28,
        num_groups: int = 16,
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
            num_groups: groups G of channels; each group has its own sampling points.
            learn_sigma: output 2·C channels, as the released weights do, or the velocity alone (C).
            class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.

        Raises:
            UsageError: hidden_size is not a multiple of num_groups, or a size is not positive.
        """
        require_positive(patch_size=patch_size)
        super().__init__(
            input_size=input_size,
            in_channels=in_channels,
            num_classes=num_classes,
            learn_sigma=learn_sigma,
            size_multiple=patch_size,
        )
        require_positive(hidden_size=hidden_size, depth=depth, num_groups=num_groups)
        self.patch_size = patch_size
        self.embed = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)
        self.condition = Condition(num_classes, hidden_size, class_dropout_prob)
        self.blocks = nn.ModuleList(FlowDCNBlock(hidden_size, num_groups) for _ in range(depth))
        self.head = DiTHead(hidden_size, patch_size**2 * self.out_channels)
        nn.init.xavier_uniform_(self.embed.weight.flatten(1))  # a view, so it fills the convolution's weight
        nn.init.zeros_(self.embed.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.project.weight)
        nn.init.zeros_(self.head.project.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.check_input(x)
        p = self.patch_size
        n, _, height, width = x.shape
        rows, columns = height // p, width // p
        x = self.embed(x).flatten(2).transpose(1, 2)  # (N, T, D), row-major
        c = F.silu(self.condition(t, y))  # (N, D); computed once, because every modulation begins with SiLU
        for block in self.blocks:
            x = block(x, c, rows, columns)
        x = self.head(x, c).view(n, rows, columns, p, p, self.out_channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(n, self.out_channels, height, width)


class FlowDCNBlock(nn.Module):
    """Deformable convolution and gated MLP, each shifted, scaled and gated by the condition.

    Args:
        hidden_size, num_groups: as for `FlowDCN`.
    """

    def __init__(self, hidden_size: int, num_groups: int) -> None:
        super().__init__()
        self.modulation = Modulation(hidden_size, 6)
        nn.Linear.reset_parameters(self.modulation)  # unlike in DiT, gates do not start at zero
        self.norm1 = ModulatedNorm(hidden_size)
        self.deformable = DeformableConvolution(hidden_size, num_groups)
        self.norm2 = ModulatedNorm(hidden_size)
        self.mlp = SwiGLU(hidden_size, 2 * 4 * hidden_size // 3)

    def forward(self, x: Tensor, c: Tensor, rows: int, columns: int) -> Tensor:
        """x (N, T, D), c = SiLU(condition) (N, D), T = rows·columns -> (N, T, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c)
        x = gated(x, gate_a, self.deformable(self.norm1(x, shift_a, scale_a), rows, columns))
        return gated(x, gate_m, self.mlp(self.norm2(x, shift_m, scale_m)))


class ModulatedNorm(nn.Module):
    """RMS norm with a weight, scaled and shifted by the condition.

    Args:
        hidden_size: width D of a token.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """x (N, T, D), shift and scale (N, D) -> (N, T, D)."""
        x = F.rms_norm(x, x.shape[-1:], eps=1e-6)
        return torch.addcmul(shift[:, None], x, (self.weight * (1 + scale))[:, None])


class DeformableConvolution(nn.Module):
    """A weighted sum of values at nine points of the grid; points and weights depend on the token.

    For each token and channel group:

        output = Σ_k w_k · value((column, row) + 6·sigmoid(s_k)·(o_k + p_k))

    The offsets o, scales s and weights w are linear maps of the token (w without softmax). p is the 3×3 grid
    around the token.

    Args:
        hidden_size: width D of a token.
        num_groups: groups G of D/G channels.

    Raises:
        UsageError: hidden_size is not a multiple of num_groups.
    """

    def __init__(self, hidden_size: int, num_groups: int) -> None:
        super().__init__()
        if hidden_size % num_groups:
            raise UsageError(f"hidden_size {hidden_size} is not a multiple of num_groups {num_groups}")
        self.num_groups = num_groups
        self.value = nn.Linear(hidden_size, hidden_size)
        self.offsets = nn.Linear(hidden_size, num_groups * POINTS * 2)
        self.scales = nn.Linear(hidden_size, num_groups * POINTS, bias=False)
        self.weights = nn.Linear(hidden_size, num_groups * POINTS)
        self.out = nn.Linear(hidden_size, hidden_size)
        # (column, row) of each point, column fastest; the authors' checkpoints store it
        steps = torch.tensor([-1.0, 0.0, 1.0])
        grid = torch.cartesian_prod(steps, steps).flip(-1)
        self.prior = nn.Parameter(grid.view(1, 1, 1, 1, POINTS, 2), requires_grad=False)
        reach = torch.arange(1, num_groups + 1) / num_groups - 1e-4  # increases from group to group
        self.scale = nn.Parameter(torch.logit(reach).view(1, 1, 1, num_groups, 1, 1))
        for layer in (self.offsets, self.scales, self.weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """(N, T, D), T = rows·columns tokens, row-major -> (N, T, D)."""
        n, _, d = x.shape
        grid = (n, rows, columns, self.num_groups, POINTS)
        wide = torch.promote_types(x.dtype, torch.float32)  # half precision is too coarse for positions
        reach = REACH * torch.sigmoid(self.scales(x).view(*grid, 1).to(wide) + self.scale)
        offset = (self.offsets(x).view(*grid, 2).to(wide) + self.prior) * reach
        column, row = offset.unbind(-1)
        column = column + torch.arange(columns, device=x.device).view(-1, 1, 1)
        row = row + torch.arange(rows, device=x.device).view(-1, 1, 1, 1)
        value = self.value(x).view(n, rows, columns, self.num_groups, -1)
        sampled = sample_sum(value, column, row, self.weights(x).view(grid))
        return self.out(sampled.view(n, rows * columns, d))


def sample_sum(value: Tensor, column: Tensor, row: Tensor, weight: Tensor) -> Tensor:
    """Σ_k weight_k · value(point k), bilinearly interpolated; values outside the grid are 0.

    As in the authors' kernels, the cell before a position is found by rounding towards zero. Between −1 and 0
    this extrapolates from cells 0 and 1, where other programs interpolate between 0 and cell 0.

    Args:
        value: (N, H, W, G, c).
        column, row: position of each point in cells, (N, H, W, G, K).
        weight: (N, H, W, G, K).

    Returns:
        (N, H, W, G, c).
    """
    n, rows, columns, groups, width = value.shape
    row_cells, row_shares = _between(row, rows)
    column_cells, column_shares = _between(column, columns)
    sample = torch.arange(n, device=value.device).view(-1, 1, 1, 1, 1, 1)
    cells = ((sample * rows + row_cells)[..., None] * columns + column_cells[..., None, :]) * groups
    cells = cells + torch.arange(groups, device=value.device).view(-1, 1, 1, 1)
    shares = (weight[..., None] * row_shares)[..., None] * column_shares[..., None, :]
    # One bag for each token and group, so that the values of its 36 cells are not copied.
    sums = F.embedding_bag(
        cells.view(-1, 4 * POINTS),
        value.reshape(-1, width),
        mode="sum",
        per_sample_weights=shares.view(-1, 4 * POINTS).to(value.dtype),
    )
    return sums.view(value.shape)


def _between(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two cells around each position on an axis of `size` cells, and their weights: (…, 2) each."""
    cell = position.detach().trunc()[..., None]
    beyond = position[..., None] - cell
    side = torch.arange(2, device=position.device)
    shares = torch.where(side == 0, 1 - beyond, beyond)
    cells = cell + side
    inside = (cells >= 0) & (cells < size)
    return cells.clamp(0, size - 1).long(), shares * inside


_S: dict[str, Any] = {"hidden_size": 384, "depth": 12, "num_groups": 6}
_B: dict[str, Any] = {"hidden_size": 768, "depth": 12, "num_groups": 12}
_L: dict[str, Any] = {"hidden_size": 1024, "depth": 24, "num_groups": 16}
_XL: dict[str, Any] = {"hidden_size": 1152, "depth": 28, "num_groups": 16}
register("flowdcn-s-2", aliases=["flowdcn-s"], **_S)(FlowDCN)
register("flowdcn-b-2", aliases=["flowdcn-b"], **_B)(FlowDCN)
register("flowdcn-l-2", aliases=["flowdcn-l"], **_L)(FlowDCN)
register("flowdcn-xl-2", aliases=["flowdcn-xl"], **_XL)(FlowDCN)
