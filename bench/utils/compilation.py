"""torch.compile of networks: what Inductor has no code for is traced in another form, eager is as it was.

Inductor calls PyTorch's own kernels for complex numbers, one by one, and fuses nothing with them. A compiled
network therefore turns channel pairs in real arithmetic, which differs from the complex product of an eager
one in the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from registry.layers import attention


def compile_network(network: nn.Module, **options: Any) -> None:
    """Compile a network in place, at its first call; options are those of `torch.compile`."""
    network.compile(**options)


@torch.compiler.substitute_in_graph(attention.rotate)
def _rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """(a + ib)(c + is) = (ac − bs) + i(as + bc); see `registry.layers.attention.rotate`."""
    turn = torch.view_as_real(rotations)  # of a table: no arithmetic
    cosine, sine = turn[..., 0], turn[..., 1]
    a, b = x.to(turn.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cosine - b * sine, a * sine + b * cosine], dim=-1).flatten(-2)
