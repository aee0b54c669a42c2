"""Ancestral sampling of DDPM (arXiv 2006.11239, Algorithm 2), respaced as in Improved DDPM."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from bench.diffusion import samplers
from bench.diffusion.base import Denoiser, Noise, Sampler
from bench.diffusion.ddpm import DDPM
from bench.diffusion.respacing import respaced_timesteps


@samplers.register("ancestral")
class Ancestral(Sampler[DDPM]):
    """DDPM's own loop; `steps` is a number up to 1000, or ddimN.

    A network without a learned variance is sampled with that of the posterior, β̃.
    """

    objectives: ClassVar[tuple[str, ...]] = ("ddpm",)

    def evaluations(self, steps: str) -> int:
        """Number of steps of the respacing."""
        return len(respaced_timesteps(steps))

    def loop(self, objective: DDPM, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str) -> Tensor:
        """See `Sampler.sample`."""
        process = objective.respaced(steps)
        for step, i in enumerate(reversed(range(process.num_inference_steps))):
            prediction, v = process.predict(denoiser, x, i)
            x = process.posterior_mean(process.to_x0(prediction, x, i), x, i)
            if i > 0:
                fixed = process.posterior_log_variance_clipped[i]
                deviation = (
                    math.exp(0.5 * fixed) if v is None else torch.exp(0.5 * process.log_variance(v, i))
                )
                x = x + deviation * noise(step)
        return x
