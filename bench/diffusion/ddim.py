"""Sampling of DDPM-trained networks by DDIM (arXiv 2010.02502)."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from bench.diffusion import samplers
from bench.diffusion.base import Denoiser, Noise, Sampler
from bench.diffusion.ddpm import DDPM
from bench.diffusion.respacing import respaced_timesteps
from registry.errors import UsageError


@samplers.register("ddim")
class DDIM(Sampler[DDPM]):
    """DDIM (Eq. 12), deterministic; `steps` is a number up to 1000, or ddimN for even strides.

    Args:
        eta: share of the ancestral noise; 0 is deterministic, 1 as noisy as DDPM.

    Raises:
        UsageError: eta is not between 0 and 1.
    """

    objectives: ClassVar[tuple[str, ...]] = ("ddpm",)

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise UsageError(f"sampler ddim takes eta from 0 to 1, not {eta}")
        self.eta = eta

    def evaluations(self, steps: str) -> int:
        """Number of steps of the respacing."""
        return len(respaced_timesteps(steps))

    def loop(self, objective: DDPM, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str) -> Tensor:
        """See `Sampler.sample`."""
        process = objective.respaced(steps)
        for step, i in enumerate(reversed(range(process.num_inference_steps))):
            prediction, _ = process.predict(denoiser, x, i)
            alpha, alpha_prev = process.alphas_cumprod[i], process.alphas_cumprod_prev[i]
            sigma = self.eta * math.sqrt((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev))
            x0 = process.to_x0(prediction, x, i)
            epsilon = process.to_epsilon(prediction, x, i)
            if objective.prediction_type == "epsilon":  # the same again, rounded as in ADM's program
                epsilon = (process.sqrt_recip_alphas_cumprod[i] * x - x0) / (
                    process.sqrt_recipm1_alphas_cumprod[i]
                )
            x = math.sqrt(alpha_prev) * x0 + math.sqrt(1 - alpha_prev - sigma**2) * epsilon
            if i > 0 and sigma > 0:
                x = x + sigma * noise(step)
        return x
