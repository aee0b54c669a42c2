"""The straight flow of SiT (arXiv 2401.08740): linear path, velocity prediction, Euler and Heun.

As in SiT's released program time runs from noise at t = 0 to data at t = 1, and the network is given t
itself, not a step of a thousand.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bench.diffusion.interface import Denoiser, Draw, Objective
from registry.errors import UsageError


class Flow(Objective):
    """x_t = t·x0 + (1 − t)·noise; the network predicts dx/dt = x0 − noise."""

    name: ClassVar[str] = "flow"
    samplers: ClassVar[tuple[str, ...]] = ("euler", "heun")

    def times(self, u: Tensor) -> Tensor:
        """(N,) uniform in [0, 1), as they are."""
        return u

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The linear path (SiT, Eq. 2 with α = t, σ = 1 − t)."""
        t = t.view(-1, 1, 1, 1)
        return t * x0 + (1 - t) * noise

    def losses(self, output: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the velocity, (N,); channels beyond those of the data are ignored."""
        mse = (output[:, : x0.shape[1]] - (x0 - noise)).square().flatten(1).mean(1)
        return {"loss": mse, "mse": mse}

    @torch.inference_mode()
    def sample(self, denoiser: Denoiser, x: Tensor, draw: Draw, *, sampler: str, steps: str) -> Tensor:
        """Solve the ODE in even steps; deterministic, so `draw` is not called.

        Euler evaluates the network once a step. Heun, of second order, twice.
        """
        self.check_sampler(sampler, steps)
        count = int(steps)
        for i in range(count):
            t, after = i / count, (i + 1) / count
            velocity = _velocity(denoiser, x, t)
            if sampler == "heun":
                ahead = _velocity(denoiser, x + velocity / count, after)
                velocity = (velocity + ahead) / 2
            x = x + velocity / count
        return x

    def check_sampler(self, sampler: str, steps: str) -> int:
        """Steps for euler, twice as many for heun."""
        self._check_name(sampler)
        if not steps.isdecimal() or int(steps) < 1:
            raise UsageError(f"sampler {sampler} takes a number of steps, 1 or more, not {steps!r}")
        return int(steps) * (2 if sampler == "heun" else 1)


def _velocity(denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
    return denoiser(x, torch.full((len(x),), t, device=x.device))[:, : x.shape[1]]
