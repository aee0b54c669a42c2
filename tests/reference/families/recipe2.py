"""Deterministic weights for the newer families: extends `recipe.py` (put both in one folder).

`weight(name, shape)` is `recipe.weight(name, shape)` except for the few kinds of entries for which
that rule would give a value no network of this kind ever has: scalar gains, Fourier tables,
norm gains that are not called `weight`, cosine-attention scales, deformation ranges. Entries in a
case's `fixed` list (manifest) keep the value the network computes for itself: position and RoPE
tables, FlowDCN's 3x3 offset grid.
"""

import math
import zlib

import numpy as np

from tests.reference import recipe


def _rng(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    shape = tuple(shape)
    last = name.split(".")[-1]
    if last in ("emb_gain", "out_gain"):  # EDM2: scalars, shape ()
        a = _rng(name).standard_normal((1,), dtype=np.float32)[0]
        return np.asarray((0.5 if last == "emb_gain" else 0.8) + 0.1 * a, np.float32)
    if last == "freqs" and len(shape) == 1:  # EDM2 Fourier features
        return (2 * math.pi * _rng(name).standard_normal(shape, dtype=np.float32)).astype(np.float32)
    if last == "phases":
        return (2 * math.pi * _rng(name).random(shape, dtype=np.float32)).astype(np.float32)
    if name.endswith("attn.scale"):  # HDiT: cosine-attention scale of each head
        return (10 * (1 + 0.1 * _rng(name).standard_normal(shape, dtype=np.float32))).astype(np.float32)
    if last == "scale" and len(shape) == 1:  # HDiT: gain of an RMS norm
        return (1 + 0.1 * _rng(name).standard_normal(shape, dtype=np.float32)).astype(np.float32)
    if last == "fac":  # HDiT: balance of an up-sampling skip, shape (1,)
        return (0.5 + 0.1 * _rng(name).standard_normal(shape, dtype=np.float32)).astype(np.float32)
    if last == "deformables_scale":  # FlowDCN
        return (10 * recipe.weight(name, shape)).astype(np.float32)
    if name in ("time_emb.weight", "aug_emb.weight"):  # HDiT Fourier tables (n, k)
        return _rng(name).standard_normal(shape, dtype=np.float32)
    return np.asarray(recipe.weight(name, shape), np.float32)


def one_hot(y, num_classes: int) -> np.ndarray:
    return np.eye(num_classes, dtype=np.float32)[np.asarray(y)]


def draws(seed: int, n: int, shape) -> np.ndarray:
    """n standard normal draws of `shape`, in order, drawn in float64 and cast to float32."""
    g = np.random.default_rng(seed)
    return np.stack([g.standard_normal(shape) for _ in range(n)]).astype(np.float32)
