"""Ancestral sampling of DDPM (arXiv 2006.11239, Algorithm 2), respaced as in Improved DDPM."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from bench.diffusion import samplers
from bench.diffusion.base import Denoiser, Noise, Sampler
from bench.diffusion.ddpm import DDPM
from bench.diffusion.guidance import Gradient
from bench.diffusion.respacing import respaced_timesteps


@samplers.register("ancestral")
class Ancestral(Sampler[DDPM]):
    """DDPM's own loop (arXiv 2006.11239, Algorithm 2); `steps` is a number up to 1000, or ddimN.

    If the network has no learned variance, the posterior's variance β̃ is used.

    Args:
        clip: clamp each predicted x0 to [−1, 1], as is usual in pixel space.

    Attributes:
        gradient: gradient of a classifier. The mean of each step is shifted by variance · gradient (ADM,
            arXiv 2105.05233, Algorithm 1); see `bench.diffusion.guidance.classifier_gradient`.
    """

    objectives: ClassVar[tuple[str, ...]] = ("ddpm",)
    gradient: Gradient | None = None

    def __init__(self, clip: bool = False) -> None:
        self.clip = clip

    def evaluations(self, steps: str) -> int:
        """Number of steps of the respacing."""
        return len(respaced_timesteps(steps))

    def loop(self, objective: DDPM, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str) -> Tensor:
        """See `Sampler.sample`."""
        process = objective.respaced(steps)
        for step, i in enumerate(reversed(range(len(process.timesteps)))):
            prediction, v = process.predict(denoiser, x, i)
            x0 = process.to_x0(prediction, x, i)
            if self.clip:
                x0 = x0.clamp(-1, 1)
            mean = process.posterior_mean(x0, x, i)
            fixed = process.posterior_log_variance_clipped[i]
            deviation = math.exp(0.5 * fixed) if v is None else torch.exp(0.5 * process.log_variance(v, i))
            if self.gradient is not None:
                mean = mean + deviation**2 * self.gradient(x, process.times(x, i))
            x = mean + deviation * noise(step) if i > 0 else mean
        return x
