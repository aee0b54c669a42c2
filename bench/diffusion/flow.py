"""The straight flow of SiT (arXiv 2401.08740): linear path, velocity prediction.

As in SiT's released program, time runs from noise at t = 0 to data at t = 1, and the network is given t
itself instead of a step 0 … 999.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.diffusion import objectives
from bench.diffusion.base import Objective
from registry.errors import UsageError
from registry.variables import Variables

Times = Literal["uniform", "logit-normal"]


@objectives.register("flow")
class Flow(Objective):
    """Velocity prediction on the straight path from noise to data (SiT, arXiv 2401.08740).

    x_t = t·x0 + (1 − t)·noise; the network predicts dx/dt = x0 − noise.

    Args:
        times: distribution of training times: `uniform` (SiT), or `logit-normal`, the sigmoid of a standard
            normal number (Stable Diffusion 3, arXiv 2403.03206; DDT; LightningDiT, which calls it
            log-normal).
        cosine_loss: weight of 1 − cos(prediction, velocity), the cosine over the channels of each cell, the
            mean over cells; 1 for LightningDiT (arXiv 2501.01423).

    Raises:
        UsageError: a negative weight.
    """

    preview: ClassVar[tuple[str, str] | None] = ("heun", "12")
    variables = Variables("velocity", "unit")
    times: Times = "uniform"  # as of a subclass that does not call ours
    cosine_loss: float = 0.0

    def __init__(self, times: Times = "uniform", cosine_loss: float = 0.0) -> None:
        if not 0 <= cosine_loss < torch.inf:
            raise UsageError(f"objective flow takes a cosine_loss of at least 0, not {cosine_loss}")
        self.times, self.cosine_loss = times, cosine_loss

    def sample_timesteps(self, u: Tensor) -> Tensor:
        """(N,) uniform in [0, 1), as they are, or through the inverse of the times' distribution function."""
        return u if self.times == "uniform" else torch.special.ndtri(u).sigmoid()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The linear path (SiT, Eq. 2 with α = t, σ = 1 − t)."""
        t = t.view(-1, 1, 1, 1)
        return t * x0 + (1 - t) * noise

    def losses(self, output: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the velocity, plus the cosine term if it has a weight; (N,) each.

        Channels beyond those of the data are ignored.
        """
        prediction, velocity = output[:, : x0.shape[1]], x0 - noise
        mse = (prediction - velocity).square().flatten(1).mean(1)
        if not self.cosine_loss:
            return {"loss": mse, "mse": mse}
        angle = 1 - F.cosine_similarity(prediction, velocity, dim=1).flatten(1).mean(1)
        return {"loss": mse + self.cosine_loss * angle, "mse": mse, "cosine": angle}

    def to_epsilon(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t − t·velocity."""
        return x_t - t.view(-1, 1, 1, 1) * prediction[:, : x_t.shape[1]]

    def snr(self, t: Tensor) -> Tensor:
        """(t / (1 − t))², infinite at t = 1."""
        return (t / (1 - t)).square().float()

    def timesteps_at_snr(self, snr: Tensor) -> Tensor:
        """The exact time, 1 / (1 + 1/√snr)."""
        return 1 / (1 + snr.rsqrt())
