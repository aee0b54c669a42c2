"""The DDPM process of the DiT and U-DiT papers: linear β, learned variance range, respaced steps.

Facts: DDPM (arXiv 2006.11239), Improved DDPM (arXiv 2102.09672), ADM's released program. Tables are
computed in float64, steps in float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from registry.errors import UsageError

TIMESTEPS = 1000
Denoiser = Callable[[Tensor, Tensor], Tensor]  # x (N, C, H, W), original step (N,) -> (N, 2C, H, W)


def linear_betas() -> np.ndarray:
    """β of the training process: 1000 values evenly from 0.0001 to 0.02, (1000,) float64."""
    return np.linspace(1e-4, 0.02, TIMESTEPS, dtype=np.float64)


def respaced(respacing: str) -> list[int]:
    """The original steps that a shorter process keeps, ascending.

    Args:
        respacing: `"250"` keeps round(i·999/249), i = 0 … 249; `"ddim50"` keeps every 20th step from 0.

    Raises:
        UsageError: no such respacing.
    """
    match = re.fullmatch(r"(ddim)?(\d+)", respacing)
    count = int(match[2]) if match else 0
    if not match or not 1 <= count <= TIMESTEPS:
        raise UsageError(f"respacing {respacing!r} is neither a number of steps, 1 … 1000, nor ddimN")
    if match[1]:
        for stride in range(1, TIMESTEPS + 1):
            kept = range(0, TIMESTEPS, stride)
            if len(kept) == count:
                return list(kept)
        raise UsageError(f"no integer stride over {TIMESTEPS} steps gives exactly {count}")
    return [round(i * (TIMESTEPS - 1) / max(count - 1, 1)) for i in range(count)]


class Diffusion:
    """A respaced process and its ancestral sampler.

    Args:
        respacing: as for `respaced`; 250 steps as in the papers' tables.

    Attributes:
        timesteps: the original steps kept, ascending; the network always sees these.
    """

    def __init__(self, respacing: str = "250") -> None:
        self.timesteps = respaced(respacing)
        kept = np.cumprod(1 - linear_betas())[self.timesteps]  # ᾱ of the kept steps
        previous = np.append(1.0, kept[:-1])
        beta = 1 - kept / previous
        posterior = beta * (1 - previous) / (1 - kept)  # β̃, Eq. 7 of DDPM
        # β̃ is 0 at the first step, where its logarithm takes the value of the second.
        clipped = np.append(posterior[1], posterior[1:]) if len(posterior) > 1 else beta
        self._noise_to_x0 = np.sqrt(1 / kept - 1)
        self._x_to_x0 = np.sqrt(1 / kept)
        self._x0_to_mean = beta * np.sqrt(previous) / (1 - kept)
        self._x_to_mean = (1 - previous) * np.sqrt(1 - beta) / (1 - kept)
        self._log_least, self._log_most = np.log(clipped), np.log(beta)

    @property
    def num_steps(self) -> int:
        """Network evaluations of one sampling loop."""
        return len(self.timesteps)

    @torch.inference_mode()
    def sample(
        self,
        denoiser: Denoiser,
        x: Tensor,
        draw: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """The whole denoising loop, from noise to samples, without clipping.

        Args:
            denoiser: predicts noise and variance range v, concatenated on channels.
            x: (N, C, H, W) standard normal noise to begin with.
            draw: makes the noise of each step, (N, C, H, W); by default `torch.randn_like(x)`.

        Returns:
            (N, C, H, W).
        """
        channels = x.shape[1]
        for i in reversed(range(self.num_steps)):
            t = torch.full((len(x),), self.timesteps[i], device=x.device)
            noise, v = denoiser(x, t).split(channels, dim=1)
            x0 = self._x_to_x0[i] * x - self._noise_to_x0[i] * noise
            mean = self._x0_to_mean[i] * x0 + self._x_to_mean[i] * x
            share = (v + 1) / 2  # interpolates the log variance between β̃ and β
            log_variance = share * self._log_most[i] + (1 - share) * self._log_least[i]
            drawn = torch.randn_like(x) if draw is None else draw()
            x = mean if i == 0 else mean + torch.exp(0.5 * log_variance) * drawn
        return x
