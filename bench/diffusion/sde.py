"""Sampling of flows by a stochastic differential equation of the same marginals (SiT, arXiv 2401.08740).

With score s and any w(t) ≥ 0, dx = (velocity + w·s) dt + √(2w) dW has the marginals of the flow (SiT, section
2; the paper's w is twice this one). Released settings: w = σ = 1 − t, Euler–Maruyama to t = 0.96, and a last
step of 0.04 without noise. FlowDCN's program (arXiv 2410.22655) has the same steps, its last one along the
velocity alone.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor

from bench.diffusion import samplers
from bench.diffusion.base import Denoiser, Noise, Objective, Sampler
from bench.diffusion.ode import velocity
from registry.errors import UsageError


@samplers.register("euler-maruyama")
class EulerMaruyama(Sampler[Objective]):
    """SiT's SDE sampler, stochastic; `steps`, 2 or more, counts the last step without noise.

    Args:
        last_step: size of the last step; 0.04 in SiT's published figures.
        last: direction of the last step: `mean`, the equation without noise (SiT), or `euler`, the velocity
            (FlowDCN).

    Raises:
        UsageError: a last step that is not between 0 and 1.
    """

    objectives: ClassVar[tuple[str, ...]] = ("flow",)

    def __init__(self, last_step: float = 0.04, last: Literal["mean", "euler"] = "mean") -> None:
        if not 0 < last_step < 1:
            raise UsageError(f"sampler euler-maruyama takes a last_step between 0 and 1, not {last_step}")
        self.last_step, self.last = last_step, last

    def evaluations(self, steps: str) -> int:
        """As many as steps."""
        return self.number(steps, least=2)

    def loop(self, objective: Objective, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str) -> Tensor:
        """See `Sampler.sample`."""
        count = int(steps) - 1
        end = 1 - self.last_step
        size = end / count
        for i in range(count):
            t = i * size
            x = x + _drift(denoiser, x, t) * size + math.sqrt(2 * (1 - t) * size) * noise(i)
        direction = _drift if self.last == "mean" else velocity
        return x + direction(denoiser, x, end) * self.last_step


def _drift(denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
    """velocity + σ·s: the score is −ε/σ and ε = x − t·velocity, so that σ drops out."""
    v = velocity(denoiser, x, t)
    return v - (x - t * v)
