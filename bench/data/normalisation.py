"""Latents normalised by channel: (z − mean) / std, as LightningDiT sees them.

z is what the autoencoder gives, less its shift where it has one, and not scaled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from registry.errors import UsageError, reason


@dataclass(frozen=True)
class Normalisation:
    """What is subtracted from each channel and what it is divided by.

    Attributes:
        mean, std: of z by channel, (C,).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, z: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W).

        Raises:
            UsageError: another number of channels.
        """
        mean, std = self._of(z)
        return (z - mean) / std

    def invert(self, grids: Tensor) -> Tensor:
        """The inverse of `apply`."""
        mean, std = self._of(grids)
        return grids * std + mean

    def _of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if z.shape[1] != len(self.mean):
            raise UsageError(
                f"the statistics are of {len(self.mean)} channels, the latents have {z.shape[1]}"
            )
        mean, std = torch.tensor([self.mean, self.std], dtype=z.dtype, device=z.device)[..., None, None]
        return mean, std


def load(path: Path) -> Normalisation:
    """The statistics in a file.

    Args:
        path: of `mean` and `std` by channel: `.json` as `bench encode` writes it, or `.pt` as LightningDiT's
            `latents_stats.pt`, of shape (1, C, 1, 1).

    Raises:
        UsageError: no such file, or one without usable statistics.
    """
    if not path.is_file():
        raise UsageError(f"no statistics of latents: {path} is no file")
    try:
        content = (
            json.loads(path.read_bytes())
            if path.suffix == ".json"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        if not isinstance(content, dict):
            raise TypeError(f"it is a {type(content).__name__}")
        mean, std = (tuple(np.asarray(content[key], float).ravel().tolist()) for key in ("mean", "std"))
    except Exception as error:  # whatever a damaged file makes of its reader
        raise UsageError(f"{path} holds no mean and std of channels: {reason(error)}") from None
    if len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))) or min(std, default=0) <= 0:
        raise UsageError(f"{path} needs as many means as deviations, finite and the latter above 0")
    return Normalisation(mean, std)


def statistics(parts: Iterable[np.ndarray], moments: bool) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel of latents.

    Args:
        parts: (n, V, C, H, W) each, or (n, V, 2, C, H, W) with the mean and the deviation of each number.
        moments: whether it is the latter: the statistics are then those of samples.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for part in parts:
        part = np.asarray(part, np.float64)
        mean, spread = (part[:, :, 0], part[:, :, 1]) if moments else (part, np.zeros(()))
        count += mean.size // mean.shape[2]
        total = total + mean.sum((0, 1, 3, 4))
        squares = squares + (mean**2 + spread**2).sum((0, 1, 3, 4))
    found = total / count
    return {"mean": found.tolist(), "std": np.sqrt(squares / count - found**2).tolist()}
