"""Sampling of flows by solving dx/dt = velocity from noise at t = 0 to data at t = 1 (SiT, arXiv 2401.08740).

`euler` and `heun` take steps of fixed times; `dopri5` chooses its own, by Dormand and Prince's pair of orders
5 and 4 (Hairer, Nørsett and Wanner, "Solving Ordinary Differential Equations I", section II.4).

`steps` counts steps, as `num_steps` of DDT and FlowDCN does. `num_steps` of SiT's and LightningDiT's released
programs counts the times of their ODE, both ends included, so that they take one step fewer: N steps here are
their `num_steps` N + 1. For SiT's SDE both counts are equal.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from bench.diffusion import samplers
from bench.diffusion.base import Denoiser, Noise, Objective, Sampler
from registry.errors import UsageError


class FixedTimes(Sampler[Objective]):
    """A deterministic sampler whose times depend on the number of steps only; evenly spaced by default.

    Args:
        shift: s > 0. A step that would begin at t begins at t / (t + s·(1 − t)), so with s > 1 steps are
            smaller near the noise. It is Stable Diffusion 3's shift and the `timeshift` of DDT and FlowDCN.
            LightningDiT's is 1 / s: its 0.3 is `shift=3.3333`.
        last_step: size of the last step before the shift; the others are of equal size. None: all are of
            equal size. DDT's and FlowDCN's published samples use 0.04.

    Raises:
        UsageError: the shift is not positive, or the last step is not between 0 and 1.
    """

    objectives: ClassVar[tuple[str, ...]] = ("flow",)

    def __init__(self, shift: float = 1.0, last_step: float | None = None) -> None:
        if not 0 < shift < torch.inf:
            raise UsageError(f"shift must be above 0, not {shift}")
        if last_step is not None and not 0 < last_step < 1:
            raise UsageError(f"last_step must be between 0 and 1, not {last_step}")
        self.shift = Fraction(shift)
        self.last_step = Fraction(last_step) if last_step else None

    def evaluations(self, steps: str) -> int:
        """One evaluation per step; with `last_step` there must be at least two steps."""
        return self.number(steps, least=2 if self.last_step else 1)

    def grid(self, steps: str) -> list[tuple[float, float, float]]:
        """(start, end, 1 / size) of each step; the last is exactly N for N steps of equal size."""
        count = int(steps)
        end = 1 - (self.last_step or Fraction(1, count))
        even = [end * Fraction(i, max(count - 1, 1)) for i in range(count)] + [Fraction(1)]
        times = [t / (t + self.shift * (1 - t)) for t in even]
        return [(float(t), float(after), float(1 / (after - t))) for t, after in pairwise(times)]


@samplers.register("euler")
class Euler(FixedTimes):
    """Euler's method, one evaluation a step; deterministic.

    Args:
        shift: above 1, steps are smaller near the noise; see `FixedTimes`.
        last_step: size of the last step before the shift; None: as all others.
    """

    def loop(self, objective: Objective, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str) -> Tensor:
        """See `Sampler.sample`."""
        for t, _, rate in self.grid(steps):
            x = x + velocity(denoiser, x, t) / rate
        return x


@samplers.register("heun")
class Heun(FixedTimes):
    """Heun's method, of second order, two evaluations a step; deterministic.

    Args:
        shift: above 1, steps are smaller near the noise; see `FixedTimes`.
        last_step: size of the last step before the shift; None: as all others.
    """

    def evaluations(self, steps: str) -> int:
        """Twice as many as steps."""
        return 2 * super().evaluations(steps)

    def loop(self, objective: Objective, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str) -> Tensor:
        """See `Sampler.sample`."""
        for t, after, rate in self.grid(steps):
            slope = velocity(denoiser, x, t)
            ahead = velocity(denoiser, x + slope / rate, after)
            x = x + (slope + ahead) / 2 / rate
        return x


# Dormand and Prince: times of the stages, their weights, and fifth order minus fourth. The last stage is the
# fifth-order solution, so that its slope is the first of the next step.
_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@samplers.register("dopri5")
class Dopri5(Sampler[Objective]):
    """Dormand and Prince's adaptive method; `steps` is the largest number of steps, of six evaluations each.

    Each sample of a batch has its own step sizes, so an image does not depend on the rest of the batch.

    Args:
        atol, rtol: absolute and relative error tolerance of a step; the defaults are SiT's released settings.

    Raises:
        UsageError: a tolerance is not positive.
    """

    objectives: ClassVar[tuple[str, ...]] = ("flow",)

    def __init__(self, atol: float = 1e-6, rtol: float = 1e-3) -> None:
        if not (atol > 0 and rtol > 0):
            raise UsageError(f"sampler dopri5 takes tolerances above 0, not atol {atol}, rtol {rtol}")
        self.atol, self.rtol = atol, rtol

    def evaluations(self, steps: str) -> int:
        """At most six for each step, and two to choose the size of the first."""
        return 6 * self.number(steps) + 2

    def loop(self, objective: Objective, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str) -> Tensor:
        """See `Sampler.sample`.

        Raises:
            UsageError: more than `steps` steps would be needed.
        """
        # Times in float64: in float32 a small step added to the time could be lost.
        t = torch.zeros(len(x), device=x.device, dtype=torch.float64)
        slope = velocity(denoiser, x, t)
        step = self._first_step(denoiser, x, slope)
        rejected = torch.zeros_like(t, dtype=torch.bool)
        for _ in range(int(steps)):
            step = torch.minimum(step, 1 - t)  # 0 for samples that have arrived
            h = _column(step, x)
            slopes = [slope]
            for c, weights in zip(_C, _A, strict=True):
                ahead = x + h * _combine(weights, slopes)
                slopes.append(velocity(denoiser, ahead, t + c * step))
            scale = self.atol + self.rtol * torch.maximum(x.abs(), ahead.abs())
            error = _norm(h * _combine(_E, slopes) / scale)
            accepted = ~(error >= 1)  # a step with NaN is accepted, so that NaN shows in the samples
            # Factors between 0.2 and 10, and no growth after a rejection (Hairer et al., Eq. 4.13).
            factor = (0.9 * error ** (-1 / 5)).clamp(0.2, 10).nan_to_num(10)
            factor = torch.where(accepted & ~rejected, factor, factor.clamp(max=1))
            t = torch.where(accepted, torch.where(step < 1 - t, t + step, 1.0), t)
            x = torch.where(_column(accepted, x), ahead, x)
            if bool((t == 1).all()):
                return x
            slope = torch.where(_column(accepted, x), slopes[-1], slope)
            step, rejected = step * factor, ~accepted
        raise UsageError(
            f"sampler {self.name} needs more than {steps} steps at atol {self.atol:g}, "
            f"rtol {self.rtol:g}: allow more"
        )

    def _first_step(self, denoiser: Denoiser, x: Tensor, slope: Tensor) -> Tensor:
        """A first step from the size of the slope and of its change (Hairer et al., II.4): (N,) float64."""
        scale = self.atol + self.rtol * x.abs()
        size, rise = _norm(x / scale), _norm(slope / scale)
        guess = torch.where((size < 1e-5) | (rise < 1e-5), 1e-6, 0.01 * size / rise).clamp(max=1)
        ahead = velocity(denoiser, x + _column(guess, x) * slope, guess)
        bend = _norm((ahead - slope) / scale) / guess
        largest = torch.maximum(rise, bend)
        step = torch.where(largest <= 1e-15, (guess * 1e-3).clamp(min=1e-6), (0.01 / largest) ** (1 / 5))
        return torch.minimum(100 * guess, step).clamp(max=1)


def velocity(denoiser: Denoiser, x: Tensor, t: float | Tensor) -> Tensor:
    """dx/dt at one time or at (N,) of them, (N, C, H, W); channels beyond those of x are ignored."""
    times = torch.full((len(x),), t, device=x.device) if isinstance(t, float) else t.to(x.dtype)
    return denoiser(x, times)[:, : x.shape[1]]


def _combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return sum(
        (w * slope for w, slope in zip(weights, slopes, strict=True) if w), torch.zeros_like(slopes[0])
    )


def _norm(x: Tensor) -> Tensor:
    """Root mean square of each sample: (N, C, H, W) -> (N,) float64."""
    return x.double().square().flatten(1).mean(1).sqrt()


def _column(values: Tensor, x: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1) beside x, of its dtype unless boolean."""
    return (values if values.dtype == torch.bool else values.to(x.dtype)).view(-1, 1, 1, 1)
