"""β schedules of the DDPM process, (1000,) float64 each.

- `linear`: DDPM (arXiv 2006.11239), DiT.
- `scaled_linear`, linear in √β: Stable Diffusion and U-ViT on latents. Latent diffusion's class-conditional
  ImageNet model (2112.10752) has another range, 0.0015 to 0.0195.
- `cosine`: Improved DDPM (2102.09672, Eq. 17).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from registry.errors import UsageError, suggest

NUM_TRAIN_TIMESTEPS = 1000

BetaSchedule = Literal["linear", "scaled_linear", "cosine"]


def betas(beta_schedule: BetaSchedule, zero_terminal_snr: bool = False) -> np.ndarray:
    """β of each training step, (1000,) float64.

    Args:
        beta_schedule: `linear`, from 0.0001 to 0.02; `scaled_linear`, from 0.00085 to 0.012; `cosine`, at
            most 0.999.
        zero_terminal_snr: rescale β so that the last step is pure noise (`rescale_zero_terminal_snr`).

    Raises:
        UsageError: there is no such schedule.
    """
    n = NUM_TRAIN_TIMESTEPS
    if beta_schedule == "linear":
        values = np.linspace(1e-4, 0.02, n, dtype=np.float64)
    elif beta_schedule == "scaled_linear":
        values = np.linspace(0.00085**0.5, 0.012**0.5, n, dtype=np.float64) ** 2
    elif beta_schedule == "cosine":
        alphas_cumprod = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
        values = np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0.999)
    else:
        known = list(get_args(BetaSchedule))
        raise UsageError(
            f"unknown beta_schedule {beta_schedule!r}.{suggest(beta_schedule, known)} "
            f"It is one of {', '.join(known)}."
        )
    return rescale_zero_terminal_snr(values) if zero_terminal_snr else values


def rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """β rescaled to zero terminal SNR, (T,) -> (T,): Lin et al. 2023 (arXiv 2305.08891), Algorithm 1.

    √ᾱ is shifted to 0 at the last step, and scaled to keep its value at the first. The last β is 1.
    """
    sqrt_alphas_cumprod = np.sqrt(np.cumprod(1 - betas))
    first, last = sqrt_alphas_cumprod[0], sqrt_alphas_cumprod[-1]
    alphas_cumprod = ((sqrt_alphas_cumprod - last) * first / (first - last)) ** 2
    return 1 - np.append(alphas_cumprod[0], alphas_cumprod[1:] / alphas_cumprod[:-1])
