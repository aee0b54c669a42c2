"""`bench.utils.randomness` as one kernel for a GPU, where PyTorch's operators launch 153 for a draw."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_UNIT = tl.constexpr(2.0**-24)
_TURN = tl.constexpr(6.283185307179586 * 2.0**-24)
_BLOCK = 256  # counters of a program, of four numbers each


def draw(key: tuple[int, int], indices: Tensor, count: int, step: int, *, normal: bool) -> Tensor:
    """Uniform or standard normal numbers: (N,) int64 -> (N, count) float32; see `bench.utils.randomness`."""
    made = torch.empty(len(indices), count, device=indices.device)
    blocks = -(-count // 4)
    total = len(indices) * blocks
    grid = (triton.cdiv(total, _BLOCK),)
    with torch.cuda.device_of(indices):
        _draw[grid](indices.contiguous(), made, *key, step, count, blocks, total, normal, _BLOCK)
    return made


@triton.jit(do_not_specialize=["low", "high", "step", "count", "blocks", "total"])  # or compiled for each 1
def _draw(
    indices: Any,
    made: Any,
    low: Any,
    high: Any,
    step: Any,
    count: Any,
    blocks: Any,
    total: Any,
    normal: tl.constexpr,
    size: tl.constexpr,
) -> None:
    """Philox-4x32-10 of (block, index, step, 0), of whose words the upper 24 bits count."""
    at = tl.program_id(0) * size + tl.arange(0, size)
    inside = at < total
    row, block = at // blocks, at % blocks
    index = tl.load(indices + row, mask=inside, other=0).to(tl.uint32)
    zero = index * 0
    seed = high.to(tl.uint64) << 32 | low.to(tl.uint64)
    a, b, c, d = tl.philox(seed, block.to(tl.uint32), index, zero + step.to(tl.uint32), zero)
    a, b = (a >> 8).to(tl.float32), (b >> 8).to(tl.float32)
    c, d = (c >> 8).to(tl.float32), (d >> 8).to(tl.float32)
    if normal:
        first, second = tl.sqrt(-2 * tl.log((a + 1) * _UNIT)), tl.sqrt(-2 * tl.log((c + 1) * _UNIT))
        a, b = first * tl.cos(b * _TURN), first * tl.sin(b * _TURN)
        c, d = second * tl.cos(d * _TURN), second * tl.sin(d * _TURN)
    else:
        a, b, c, d = a * _UNIT, b * _UNIT, c * _UNIT, d * _UNIT
    to = made + row.to(tl.int64) * count + 4 * block
    left = count - 4 * block
    tl.store(to, a, mask=inside & (left > 0))
    tl.store(to + 1, b, mask=inside & (left > 1))
    tl.store(to + 2, c, mask=inside & (left > 2))
    tl.store(to + 3, d, mask=inside & (left > 3))
