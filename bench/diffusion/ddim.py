"""Sampling of DDPM-trained networks by DDIM (arXiv 2010.02502)."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from bench.diffusion import samplers
from bench.diffusion.base import Denoiser, Noise, Sampler
from bench.diffusion.ddpm import DDPM
from bench.diffusion.guidance import Gradient
from bench.diffusion.respacing import respaced_timesteps
from registry.errors import UsageError


@samplers.register("ddim")
class DDIM(Sampler[DDPM]):
    """DDIM (Eq. 12), deterministic; `steps` is a number up to 1000, or ddimN for even strides.

    Args:
        eta: share of the ancestral noise; 0 is deterministic, 1 as noisy as DDPM.
        clip: clamp each predicted x0 to [−1, 1], as is usual in pixel space.

    Attributes:
        gradient: gradient of a classifier, which changes the predicted noise of each step (ADM, arXiv
            2105.05233, Algorithm 2); see `bench.diffusion.guidance.classifier_gradient`.

    Raises:
        UsageError: eta is not between 0 and 1.
    """

    objectives: ClassVar[tuple[str, ...]] = ("ddpm",)
    gradient: Gradient | None = None

    def __init__(self, eta: float = 0.0, clip: bool = False) -> None:
        if not 0 <= eta <= 1:
            raise UsageError(f"sampler ddim takes eta from 0 to 1, not {eta}")
        self.eta, self.clip = eta, clip

    def evaluations(self, steps: str) -> int:
        """Number of steps of the respacing."""
        return len(respaced_timesteps(steps))

    def loop(self, objective: DDPM, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str) -> Tensor:
        """See `Sampler.sample`."""
        process = objective.respaced(steps)
        for step, i in enumerate(reversed(range(len(process.timesteps)))):
            prediction, _ = process.predict(denoiser, x, i)
            alpha, alpha_prev = process.alphas_cumprod[i], process.alphas_cumprod_prev[i]
            sigma = self.eta * math.sqrt((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev))
            x0 = process.to_x0(prediction, x, i)
            if self.clip:
                x0 = x0.clamp(-1, 1)
            epsilon = process.to_epsilon(prediction, x, i)
            if objective.prediction_type == "epsilon":  # the same again, rounded as in ADM's program
                epsilon = (process.sqrt_recip_alphas_cumprod[i] * x - x0) / (
                    process.sqrt_recipm1_alphas_cumprod[i]
                )
            elif self.clip:
                epsilon = (x - math.sqrt(alpha) * x0) / math.sqrt(1 - alpha)
            if self.gradient is not None:
                epsilon = epsilon - math.sqrt(1 - alpha) * self.gradient(x, process.times(x, i))
                x0 = (x - math.sqrt(1 - alpha) * epsilon) / math.sqrt(alpha)
            x = math.sqrt(alpha_prev) * x0 + math.sqrt(1 - alpha_prev - sigma**2) * epsilon
            if i > 0 and sigma > 0:
                x = x + sigma * noise(step)
        return x
