"""Averages of the weights at any width after training (EDM2, arXiv 2312.02696, Section 3).

During training, two averages with power-function weightings of different widths are kept, and snapshots of
them are stored. The average of any other width is approximated by the linear combination of snapshots whose
weighting of the steps is nearest in least squares.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bench.training.step import averaged, current, move, start


@functools.cache
def exponent(width: float) -> float:
    """γ of the power function whose weighting has the relative standard deviation σ = `width`.

    The largest root of γ³ + 7γ² + (16 − σ⁻²)γ + 12 − σ⁻² = 0, which is
    σ² = (γ + 1) / ((γ + 2)² (γ + 3)).
    """
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def power_decay(width: float, step: int) -> float:
    """β of step 1, 2, …: the weight of the previous value in a power-function average (Eq. 4)."""
    return (1 - 1 / step) ** (exponent(width) + 1)


class PosthocAverages:
    """Power-function averages of a network's weights while it trains.

    Args:
        network: on its device; its weights are followed in place.
        widths: relative standard deviations σ_rel.

    Attributes:
        averages: tensors by name for each width, by `str` of the width.
    """

    def __init__(self, network: nn.Module, widths: Sequence[float]) -> None:
        self._places = averaged(network)
        self._widths = {str(width): width for width in widths}
        self.averages = {width: start(current(self._places)) for width in self._widths}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages after step 1, 2, …."""
        for name, width in self._widths.items():
            move(self.averages[name], current(self._places), 1 - power_decay(width, step))

    def load(self, averages: dict[str, dict[str, Tensor]]) -> None:
        """Restore `averages`."""
        for width, tensors in averages.items():
            for name, value in tensors.items():
                self.averages[width][name].copy_(value)


def combination(times: np.ndarray, widths: np.ndarray, time: float, width: float) -> np.ndarray:
    """Factors of the stored averages whose sum approximates the wanted average.

    Args:
        times, widths: (n,) steps and σ_rel of the stored averages.
        time, width: step and σ_rel of the wanted average.

    Returns:
        (n,) factors with sum 1, as in EDM2's `phema.py`, so that weights that did not change are reproduced.
        A factor may be negative or above 1.
    """
    gammas = np.array([exponent(each) for each in widths])
    normal = _product(times[:, None], gammas[:, None], times[None], gammas[None])
    wanted = _product(times, gammas, np.array(float(time)), np.array(exponent(width)))
    factors: np.ndarray = np.linalg.lstsq(normal, wanted, rcond=None)[0]
    return factors / factors.sum()


def _product(ta: np.ndarray, a: np.ndarray, tb: np.ndarray, b: np.ndarray) -> np.ndarray:
    """∫ of the product of two weightings, (γ + 1) τ^γ / t^(γ + 1) on [0, t] each."""
    least, most = np.minimum(ta, tb), np.maximum(ta, tb)
    of_longer = np.where(ta < tb, b, a)
    return (a + 1) * (b + 1) / (a + b + 1) * (least / most) ** of_longer / most
