"""torch.compile of networks, with real arithmetic in place of complex numbers, for which Inductor has no
code.

Inductor calls PyTorch's own kernels for complex numbers, one by one, and fuses nothing with them. A compiled
network therefore turns channel pairs in real arithmetic, which differs from the complex product of an eager
one in the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from registry.layers import attention


def compile_network(network: nn.Module, *, graphs: bool = False, **options: Any) -> None:
    """Compile a network in place, at its first call.

    In place, several processes' all-reduce still runs beside the backward pass: PyTorch cuts what is compiled
    within a wrapped network's call where its buckets end.

    Args:
        graphs: replay a call's kernels as one CUDA graph for each shape; what a call returns is copied, for
            the next one overwrites it. For calls without gradients, on CUDA.
        options: of `torch.compile`.
    """
    if not graphs:
        network.compile(**options)
        return
    network.compile(mode="reduce-overhead", **options)
    replay: Any = network._compiled_call_impl
    network._compiled_call_impl = lambda *inputs: replay(*inputs).clone()


@torch.compiler.substitute_in_graph(attention.rotate)
def _rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """(a + ib)(c + is) = (ac − bs) + i(as + bc); see `registry.layers.attention.rotate`."""
    turn = torch.view_as_real(rotations)  # of a table: no arithmetic
    cosine, sine = turn[..., 0], turn[..., 1]
    a, b = x.to(turn.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cosine - b * sine, a * sine + b * cosine], dim=-1).flatten(-2)
