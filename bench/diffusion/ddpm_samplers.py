"""Sampling of DDPM-trained networks: DDPM's own loop (arXiv 2006.11239), respaced, and DDIM (2010.02502)."""

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
from registry.errors import UsageError


class Respaced(Sampler[DDPM]):
    """A sampler that visits some of the training steps; see `bench.diffusion.respacing`.

    Attributes:
        gradient: gradient of a classifier; see `bench.diffusion.guidance.classifier_gradient`.
    """

    objectives: ClassVar[tuple[str, ...]] = ("ddpm",)
    gradient: Gradient | None = None

    def evaluations(self, steps: str) -> int:
        """Number of steps of the respacing."""
        return len(respaced_timesteps(steps))


@samplers.register("ancestral")
class Ancestral(Respaced):
    """DDPM's own loop (arXiv 2006.11239, Algorithm 2); `steps` is a number up to 1000, or ddimN.

    If the network has no learned variance, the posterior's variance β̃ is used. The gradient of a classifier
    shifts the mean of each step by variance · gradient (ADM, arXiv 2105.05233, Algorithm 1).

    Args:
        clip: clamp each predicted x0 to [−1, 1], as is usual in pixel space.
    """

    def __init__(self, clip: bool = False) -> None:
        self.clip = clip

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


@samplers.register("ddim")
class DDIM(Respaced):
    """DDIM (arXiv 2010.02502, Eq. 12), deterministic; `steps` is a number up to 1000, or ddimN: even strides.

    The gradient of a classifier changes the predicted noise of each step (ADM, arXiv 2105.05233, Alg. 2).

    Args:
        eta: share of the ancestral noise; 0 is deterministic, 1 as noisy as DDPM.
        clip: clamp each predicted x0 to [−1, 1], as is usual in pixel space.

    Raises:
        UsageError: eta is not between 0 and 1.
    """

    def __init__(self, eta: float = 0.0, clip: bool = False) -> None:
        if not 0 <= eta <= 1:
            raise UsageError(f"sampler ddim takes eta from 0 to 1, not {eta}")
        self.eta, self.clip = eta, clip

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
            if self.gradient is not None and alpha > 0:  # noise alone says nothing of a class
                epsilon = epsilon - math.sqrt(1 - alpha) * self.gradient(x, process.times(x, i))
                x0 = (x - math.sqrt(1 - alpha) * epsilon) / math.sqrt(alpha)
            # It is 0 at zero terminal SNR and η = 1, but for rounding.
            rest = max(1 - alpha_prev - sigma**2, 0)
            x = math.sqrt(alpha_prev) * x0 + math.sqrt(rest) * epsilon
            if i > 0 and sigma > 0:
                x = x + sigma * noise(step)
        return x
