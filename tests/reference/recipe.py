"""Deterministic weights, inputs and feature sets behind the reference values in this folder.

Everything is drawn from NumPy's PCG64 generator, so it is the same on every machine and
PyTorch version. `fill` gives a module (or a dict of shapes) its weights; the reference
outputs were computed with exactly these weights by the original authors' programs.
"""

import math
import zlib

import numpy as np


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One float32 parameter, seeded by its name in the original checkpoint layout."""
    a = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if name.endswith("logit_scale"):
        return (math.log(10) + 0.1 * a).astype(np.float32)
    if name == "pos_embed":  # U-ViT only; DiT keeps its fixed sine-cosine table
        return (0.02 * a).astype(np.float32)
    if name.endswith("running_var"):
        return (1 + 0.1 * np.abs(a)).astype(np.float32)
    if name.endswith(".conv.weight"):  # Inception: keep the signal alive through 94 ReLUs
        return (a * np.float32(math.sqrt(2.6 / np.prod(shape[1:])))).astype(np.float32)
    if len(shape) >= 2:
        return (a * np.float32(0.7 / math.sqrt(np.prod(shape[1:])))).astype(np.float32)
    if ("norm" in name or ".bn." in name) and name.endswith("weight"):
        return (1 + 0.1 * a).astype(np.float32)
    if name.endswith("running_mean") or ".bn." in name:
        return (0.02 * a).astype(np.float32)
    return (0.1 * a).astype(np.float32)


def inputs(channels: int, size: int, num_classes: int):
    """x (2, C, size, size) float32, t (2,) int, y (2,) int."""
    x = np.random.default_rng(7).standard_normal((2, channels, size, size), dtype=np.float32)
    return x, np.array([13, 777]), np.array([5, num_classes - 1])


def features(n: int, seed: int, shift: float, dim: int = 2048, rank: int = 64) -> np.ndarray:
    """(n, dim) float32 non-negative stand-in for Inception features: low rank plus noise."""
    basis = np.random.default_rng(1234).standard_normal((rank, dim)).astype(np.float32) / np.sqrt(rank)
    g = np.random.default_rng(seed)
    z = g.standard_normal((n, rank)).astype(np.float32) + shift
    x = z @ basis + 0.5 * g.standard_normal((n, dim)).astype(np.float32)
    return np.maximum(0.35 + 0.35 * x, 0).astype(np.float32)


def softmax_weight() -> np.ndarray:
    """(2048, 1008) float32 stand-in for the classifier matrix of the Inception graph."""
    return (np.random.default_rng(5).standard_normal((2048, 1008)) * 0.12).astype(np.float32)


def images(n: int, size: int, seed: int = 21) -> np.ndarray:
    """(n, 3, size, size) uint8, smooth enough to exercise the resizing step."""
    g = np.random.default_rng(seed)
    low = g.integers(0, 256, (n, 3, size // 8, size // 8))
    return np.clip(np.kron(low, np.ones((8, 8))) + g.integers(-20, 21, (n, 3, size, size)), 0, 255).astype(
        np.uint8
    )
