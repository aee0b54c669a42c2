"""The straight flow of SiT (arXiv 2401.08740): linear path, velocity prediction.

As in SiT's released program time runs from noise at t = 0 to data at t = 1, and the network is given t
itself, not a step of a thousand.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from bench.diffusion import objectives
from bench.diffusion.base import Objective
from registry.variables import Variables


@objectives.register("flow")
class Flow(Objective):
    """Velocity prediction on the straight path from noise to data (SiT).

    x_t = t·x0 + (1 − t)·noise; the network predicts dx/dt = x0 − noise.
    """

    preview: ClassVar[tuple[str, str] | None] = ("heun", "12")
    variables = Variables("velocity", "unit")

    def sample_timesteps(self, u: Tensor) -> Tensor:
        """(N,) uniform in [0, 1), as they are."""
        return u

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The linear path (SiT, Eq. 2 with α = t, σ = 1 − t)."""
        t = t.view(-1, 1, 1, 1)
        return t * x0 + (1 - t) * noise

    def losses(self, output: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the velocity, (N,); channels beyond those of the data are ignored."""
        mse = (output[:, : x0.shape[1]] - (x0 - noise)).square().flatten(1).mean(1)
        return {"loss": mse, "mse": mse}

    def to_epsilon(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t − t·velocity."""
        return x_t - t.view(-1, 1, 1, 1) * prediction[:, : x_t.shape[1]]

    def snr(self, t: Tensor) -> Tensor:
        """(t / (1 − t))², infinite at t = 1."""
        return (t / (1 - t)).square().float()

    def timesteps_at_snr(self, snr: Tensor) -> Tensor:
        """The exact time, 1 / (1 + 1/√snr)."""
        return 1 / (1 + snr.rsqrt())
