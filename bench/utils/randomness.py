"""Random numbers as a function of the seed, a purpose, and two indices.

There is no sequence and no state: image i of a run gets the same noise in any process or batch, and after
resuming. The generator is Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
in integers, hence the same on every device; on a GPU as one kernel, for there launches are what takes the
time.
"""

from __future__ import annotations

import functools
import math
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from registry.errors import UsageError

_MASK = 0xFFFFFFFF


def check_seed(seed: int) -> None:
    """Nothing, if a number can be a seed.

    Raises:
        UsageError: it is negative, or more than 64 bits hold.
    """
    if not 0 <= seed < 2**64:
        raise UsageError(f"a seed is a number from 0 to 2^64 - 1, not {seed}")


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four words of 32 random bits for each counter.

    Args:
        counter: four int64 tensors that broadcast, values 0 … 2³² − 1.
        key: two words.

    Returns:
        Four int64 tensors of the same values' range.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # A product that overflows int64 keeps its low 64 bits, which are all that is wanted.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32 & _MASK) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, purpose: str, indices: Tensor, count: int, step: int = 0) -> Tensor:
    """Uniform numbers in [0, 1): (N,) indices -> (N, count) float32, on the device of the indices.

    Args:
        seed: of the run.
        purpose: name of the use, such as `"noise"` or `"label"`; different purposes have independent numbers.
        indices: of images or samples, 0 … 2³² − 1.
        count: numbers for each.
        step: of training or of a sampling loop.
    """
    if kernel := _kernel(indices):
        return kernel(_key(seed, purpose), indices, count, step & _MASK, normal=False)
    return _uniform(seed, purpose, indices, count, step)


def _uniform(seed: int, purpose: str, indices: Tensor, count: int, step: int) -> Tensor:
    words = _words(seed, purpose, indices, count, step)
    return torch.stack(words, dim=-1).flatten(1)[:, :count].bitwise_right_shift(8).float() * 2.0**-24


def normal(seed: int, purpose: str, indices: Tensor, shape: tuple[int, ...], step: int = 0) -> Tensor:
    """Standard normal numbers by Box and Muller: (N,) indices -> (N, *shape) float32; see `uniform`."""
    count = math.prod(shape)
    if kernel := _kernel(indices):
        return kernel(_key(seed, purpose), indices, count, step & _MASK, normal=True).reshape(-1, *shape)
    a, b, c, d = (w.bitwise_right_shift(8).float() for w in _words(seed, purpose, indices, count, step))
    pairs = []
    for u, v in ((a, b), (c, d)):
        radius = torch.sqrt(-2 * torch.log((u + 1) * 2.0**-24))
        angle = v * (2 * math.pi * 2.0**-24)
        pairs += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(pairs, dim=-1).flatten(1)[:, :count].reshape(-1, *shape)


def permutation(seed: int, purpose: str, count: int, step: int = 0) -> np.ndarray:
    """The numbers 0 … count − 1 in an order of their own for each step: (count,) int64."""
    a, b, c, d = _words(seed, purpose, torch.zeros(1, dtype=torch.int64), 2 * count, step)
    keys = torch.stack([a << 31 | b >> 1, c << 31 | d >> 1], dim=-1).flatten()[:count]
    return torch.argsort(keys, stable=True).numpy()


def _words(seed: int, purpose: str, indices: Tensor, count: int, step: int) -> tuple[Tensor, ...]:
    block = torch.arange(-(-count // 4), device=indices.device)[None, :]
    index = indices.to(torch.int64)[:, None]
    zero = torch.zeros_like(index)
    return torch.broadcast_tensors(*philox((block, index, zero + (step & _MASK), zero), _key(seed, purpose)))


def _key(seed: int, purpose: str) -> tuple[int, int]:
    return seed & _MASK, seed >> 32 & _MASK ^ zlib.crc32(purpose.encode())


def _kernel(indices: Tensor) -> Any:
    """What draws on a GPU; None elsewhere, and for the fake tensors of a tracer."""
    return _kernel_of(indices.device) if indices.is_cuda and type(indices) is Tensor else None


@functools.cache
def _kernel_of(device: torch.device) -> Any:
    """The kernel, once it has given the numbers of PyTorch's operators; None where it cannot be made."""
    indices = torch.tensor([0, 3, _MASK], device=device)
    expected = _uniform(_MASK << 7, "kernel", indices, 9, _MASK)
    try:
        from bench.utils.philox_kernel import draw

        found = draw(_key(_MASK << 7, "kernel"), indices, 9, _MASK, normal=False)
        return draw if torch.equal(found, expected) else None
    except Exception:  # of Triton, which is not everywhere, or finds no compiler
        return None
