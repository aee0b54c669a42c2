"""Embeddings of time, label and position, as in DiT (arXiv 2212.09748) and U-ViT (arXiv 2209.12152).

Tables that depend only on sizes are made once for each device and kept outside the modules. As buffers they
would be rounded by `.half()` and lost between the meta device and a real one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from registry.errors import UsageError

MAX_PERIOD = 10000.0


def made_once(make: Callable[..., np.ndarray]) -> Callable[..., Tensor]:
    """Decorator: a function that makes a NumPy table returns it as a tensor, made once for each `device`."""
    made: dict[tuple[Any, ...], Tensor] = {}

    @torch.compiler.assume_constant_result
    @functools.wraps(make)
    def table(*sizes: int, device: torch.device) -> Tensor:
        sizes = tuple(map(int, sizes))  # under a tracer, sizes are tensors
        found = made.get((*sizes, device))
        if found is None:
            # The table must be a plain tensor: an inference tensor cannot be used in training later, and a
            # tracer's tensor not at all.
            with torch.inference_mode(False), _disable_current_modes():
                found = torch.from_numpy(make(*sizes))
            with torch.inference_mode(False):
                found = found.to(device)
            if type(found) is Tensor:
                made[(*sizes, device)] = found
        return found

    return table


@made_once
def _frequencies(count: int) -> np.ndarray:
    """f_i = 10000^(−i/count), i = 0 … count − 1: (count,) float32."""
    return np.exp(-np.log(MAX_PERIOD) * np.arange(count) / count).astype(np.float32)


def sinusoids(t: Tensor, width: int) -> Tensor:
    """`[cos(t·f), sin(t·f)]` with f_i = 10000^(−i/(width/2)): (N,) -> (N, width) float32."""
    angles = t.float()[:, None] * _frequencies(width // 2, device=t.device)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimestepEmbedding(nn.Module):
    """Steps to vectors: 256 sinusoids, then Linear, SiLU, Linear (DiT, section 3.2).

    Args:
        hidden_size: width D of the vectors.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        first, second = nn.Linear(256, hidden_size), nn.Linear(hidden_size, hidden_size)
        for layer in (first, second):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, t: Tensor) -> Tensor:
        """(N,) steps 0 … 999, fractions allowed -> (N, hidden_size)."""
        return self.mlp(sinusoids(t, 256).to(next(self.mlp.parameters()).dtype))


class LabelDropout(nn.Module):
    """In training, replaces random labels by the null class, for classifier-free guidance.

    Args:
        num_classes: labels are 0 … num_classes − 1; with dropout, label num_classes is the null class.
        dropout: probability of replacing a label, at least 0 and below 1; 0: no null class.

    Raises:
        UsageError: a probability outside this range, or a call without labels.
    """

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UsageError(f"class_dropout_prob must be at least 0 and below 1, not {dropout}")
        self.num_classes, self.dropout = num_classes, dropout

    def forward(self, y: Tensor | None) -> Tensor:
        """(N,) labels -> (N,) labels."""
        if y is None:
            raise UsageError(f"a network of {self.num_classes} classes needs labels y (N,), not None")
        if self.training and self.dropout > 0:
            dropped = torch.rand(y.shape, device=y.device) < self.dropout
            y = torch.where(dropped, self.num_classes, y)
        return y


class LabelEmbedding(LabelDropout):
    """Class labels to vectors: label dropout, then a learned table, with a row for the null class if any.

    Args:
        num_classes: number of classes without the null class.
        hidden_size: width D of the vectors.
        dropout: probability that a label becomes the null class in training; 0: no null class.
    """

    def __init__(self, num_classes: int, hidden_size: int, dropout: float) -> None:
        super().__init__(num_classes, dropout)
        self.table = nn.Embedding(num_classes + (dropout > 0), hidden_size)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, y: Tensor | None) -> Tensor:
        """(N,) labels -> (N, hidden_size)."""
        return self.table(super().forward(y))


class Condition(nn.Module):
    """c = embedding of the step + embedding of the label.

    Args:
        num_classes: number of classes without the null class; 0: no labels.
        hidden_size: width of c.
        class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.
    """

    def __init__(self, num_classes: int, hidden_size: int, class_dropout_prob: float) -> None:
        super().__init__()
        self.time = TimestepEmbedding(hidden_size)
        self.label = LabelEmbedding(num_classes, hidden_size, class_dropout_prob) if num_classes else None

    def forward(self, t: Tensor, y: Tensor | None) -> Tensor:
        """t (N,), y (N,) -> c (N, hidden_size)."""
        return self.time(t) if self.label is None else self.time(t) + self.label(y)


def sincos_2d(height: int, width: int, hidden_size: int) -> Tensor:
    """Fixed position table (H·W, hidden_size) float32, row-major.

    The first half of the channels encodes the column, the second the row. Each half is
    `[sin(pos·ω), cos(pos·ω)]` with ω_i = 10000^(−i/(hidden_size/4)).
    """
    omega = MAX_PERIOD ** (-np.arange(hidden_size // 4) / (hidden_size / 4))
    rows, columns = np.mgrid[:height, :width].reshape(2, -1, 1)
    table = [f(position * omega) for position in (columns, rows) for f in (np.sin, np.cos)]
    return torch.from_numpy(np.concatenate(table, axis=1).astype(np.float32))


class Conditions(nn.Module):
    """For each of several widths, a condition: embedding of the step + embedding of the label.

    A label that becomes the null class in training does so at all widths (DiC, DiCo).

    Args:
        num_classes: number of classes without the null class; 0: no labels.
        widths: width D of each condition.
        class_dropout_prob: probability that a label becomes the null class in training; 0: no null class.
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...], class_dropout_prob: float) -> None:
        super().__init__()
        self.time = nn.ModuleList(map(TimestepEmbedding, widths))
        self.dropout = LabelDropout(num_classes, class_dropout_prob) if num_classes else None
        rows = num_classes + (class_dropout_prob > 0)
        self.label = nn.ModuleList(nn.Embedding(rows, width) for width in widths if num_classes)
        for table in self.label:
            nn.init.normal_(table.weight, std=0.02)  # type: ignore[arg-type]

    def forward(self, t: Tensor, y: Tensor | None) -> list[Tensor]:
        """t (N,), y (N,) -> c (N, D) for each width."""
        times = [embed(t) for embed in self.time]
        if self.dropout is None:
            return times
        y = self.dropout(y)
        return [time + embed(y) for time, embed in zip(times, self.label, strict=True)]
