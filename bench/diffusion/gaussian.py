"""The DDPM process of the DiT and U-DiT papers: linear β, learned variance range, respaced steps.

Facts: DDPM (arXiv 2006.11239), Improved DDPM (2102.09672), DDIM (2010.02502), ADM's released program.
Tables are computed in float64, steps in float32.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.diffusion.interface import Denoiser, Draw, Objective
from registry.errors import UsageError

TIMESTEPS = 1000


class _Table:
    """A number for each step of a process: float64, and float32 tensors of it on each device."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self._tensors: dict[torch.device, Tensor] = {}

    def __getitem__(self, i: int | Tensor) -> Any:
        """The value at one position as a number, or at (N,) of them as (N, 1, 1, 1)."""
        if isinstance(i, int):
            return float(self._values[i])
        if i.device not in self._tensors:
            with torch.inference_mode(False):  # training may use what sampling made
                self._tensors[i.device] = torch.from_numpy(self._values.astype(np.float32)).to(i.device)
        return self._tensors[i.device][i].view(-1, 1, 1, 1)


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
    """A respaced process: its noising, its losses, and its loops.

    Args:
        respacing: as for `respaced`; `"1000"` is the process that networks are trained on.

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
        self._kept, self._previous = _Table(kept), _Table(previous)
        self._x0_share, self._noise_share = _Table(np.sqrt(kept)), _Table(np.sqrt(1 - kept))
        self._noise_to_x0, self._x_to_x0 = _Table(np.sqrt(1 / kept - 1)), _Table(np.sqrt(1 / kept))
        self._x0_to_mean = _Table(beta * np.sqrt(previous) / (1 - kept))
        self._x_to_mean = _Table((1 - previous) * np.sqrt(1 - beta) / (1 - kept))
        self._log_least, self._log_most = _Table(np.log(clipped)), _Table(np.log(beta))

    @property
    def num_steps(self) -> int:
        """Network evaluations of one sampling loop."""
        return len(self.timesteps)

    # ---- training ----

    def noised(self, x0: Tensor, noise: Tensor, i: Tensor) -> Tensor:
        """x_t = √ᾱ·x0 + √(1−ᾱ)·noise (Eq. 4 of DDPM).

        Args:
            x0, noise: (N, C, H, W).
            i: (N,) positions in `timesteps`; in the whole process these are the steps themselves.
        """
        return self._x0_share[i] * x0 + self._noise_share[i] * noise

    def losses(self, output: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, i: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the noise and, with a learned variance, the bound term.

        Args:
            output: (N, C, H, W) predicted noise, or (N, 2C, H, W) with the variance range v after it.
            x0, noise, x_t, i: as for `noised`, and its result.

        Returns:
            `loss` = `mse` + `vb`, (N,) each. `vb` is in bits per dimension with the predicted noise held
            fixed, so that it trains the variance alone (Improved DDPM, Eq. 16, at weight 1); absent for a
            network without a learned variance.
        """
        predicted, v = _split(output, x0.shape[1])
        mse = (predicted - noise).square().flatten(1).mean(1)
        if v is None:
            return {"loss": mse, "mse": mse}
        vb = self._bound(predicted.detach(), v, x0, x_t, i)
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def _bound(self, noise: Tensor, v: Tensor, x0: Tensor, x_t: Tensor, i: Tensor) -> Tensor:
        mean = self._mean(self._x0(noise, x_t, i), x_t, i)
        log_variance = self._log_variance(v, i)
        true_mean, true_log_variance = self._mean(x0, x_t, i), self._log_least[i]
        divergence = 0.5 * (
            log_variance
            - true_log_variance
            - 1
            + torch.exp(true_log_variance - log_variance)
            + (true_mean - mean).square() * torch.exp(-log_variance)
        )
        likelihood = _discretised_log_likelihood(x0, mean, 0.5 * log_variance)
        nats = torch.where(i.view(-1, 1, 1, 1) == 0, -likelihood, divergence)
        return nats.flatten(1).mean(1) / math.log(2)

    # ---- sampling ----

    @torch.inference_mode()
    def sample(self, denoiser: Denoiser, x: Tensor, draw: Draw) -> Tensor:
        """The ancestral loop (Algorithm 2 of DDPM), without clipping.

        Args:
            denoiser: is given the original step; predicts noise and variance range v, or noise alone, which
                leaves the variance of the posterior, β̃.
            x: (N, C, H, W) standard normal noise to begin with.
            draw: the noise of each step.

        Returns:
            (N, C, H, W).
        """
        for number, i in enumerate(reversed(range(self.num_steps))):
            noise, v = self._predict(denoiser, x, i)
            x = self._mean(self._x0(noise, x, i), x, i)
            if i > 0:
                log_variance = self._log_least[i] if v is None else self._log_variance(v, i)
                deviation = math.exp(0.5 * log_variance) if v is None else torch.exp(0.5 * log_variance)
                x = x + deviation * draw(number)
        return x

    @torch.inference_mode()
    def sample_ddim(self, denoiser: Denoiser, x: Tensor, draw: Draw, eta: float = 0.0) -> Tensor:
        """The loop of DDIM (Eq. 12), deterministic at η = 0; arguments and result as for `sample`."""
        for number, i in enumerate(reversed(range(self.num_steps))):
            noise, _ = self._predict(denoiser, x, i)
            before, after = self._kept[i], self._previous[i]
            sigma = eta * math.sqrt((1 - after) / (1 - before) * (1 - before / after))
            x0 = self._x0(noise, x, i)
            # The same noise again, rounded as in the original program.
            noise = (self._x_to_x0[i] * x - x0) / self._noise_to_x0[i]
            x = math.sqrt(after) * x0 + math.sqrt(1 - after - sigma**2) * noise
            if i > 0 and sigma > 0:
                x = x + sigma * draw(number)
        return x

    def _predict(self, denoiser: Denoiser, x: Tensor, i: int) -> tuple[Tensor, Tensor | None]:
        return _split(denoiser(x, torch.full((len(x),), self.timesteps[i], device=x.device)), x.shape[1])

    # ---- one step; i is one position or (N,) of them ----

    def _x0(self, noise: Tensor, x: Tensor, i: Any) -> Tensor:
        return self._x_to_x0[i] * x - self._noise_to_x0[i] * noise

    def _mean(self, x0: Tensor, x: Tensor, i: Any) -> Tensor:
        return self._x0_to_mean[i] * x0 + self._x_to_mean[i] * x

    def _log_variance(self, v: Tensor, i: Any) -> Tensor:
        share = (v + 1) / 2  # interpolates the log variance between β̃ and β
        return share * self._log_most[i] + (1 - share) * self._log_least[i]


class DDPM(Objective):
    """Noise prediction over 1000 steps, sampled in any respacing of them."""

    name: ClassVar[str] = "ddpm"
    samplers: ClassVar[tuple[str, ...]] = ("ancestral", "ddim", "dpm++")

    def __init__(self) -> None:
        self._process = Diffusion(str(TIMESTEPS))

    def times(self, u: Tensor) -> Tensor:
        """(N,) uniform in [0, 1) -> steps 0 … 999, (N,) int64."""
        return (u * TIMESTEPS).long()

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """See `Diffusion.noised`."""
        return self._process.noised(x0, noise, t)

    def losses(self, output: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        """See `Diffusion.losses`."""
        return self._process.losses(output, x0, noise, x_t, t)

    def sample(self, denoiser: Denoiser, x: Tensor, draw: Draw, *, sampler: str, steps: str) -> Tensor:
        """Ancestral, DDIM (η = 0) or DPM-Solver++; `steps` is a respacing, for dpm++ a number."""
        self.check_sampler(sampler, steps)
        if sampler == "ancestral":
            return Diffusion(steps).sample(denoiser, x, draw)
        if sampler == "ddim":
            return Diffusion(steps).sample_ddim(denoiser, x, draw)
        return dpm_solver(denoiser, x, int(steps))

    def check_sampler(self, sampler: str, steps: str) -> int:
        """Number of steps of a respacing."""
        self._check_name(sampler)
        if sampler == "dpm++" and not steps.isdecimal():
            raise UsageError(f"sampler dpm++ takes a number of steps, not {steps!r}")
        return len(respaced(steps))


@torch.inference_mode()
def dpm_solver(denoiser: Denoiser, x: Tensor, steps: int) -> Tensor:
    """DPM-Solver++ of second order (arXiv 2211.01095), as diffusers has it: (N, C, H, W) -> (N, C, H, W)."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=TIMESTEPS, trained_betas=linear_betas(), algorithm_type="dpmsolver++"
    )
    scheduler.set_timesteps(steps, device=x.device)
    for t in scheduler.timesteps:
        noise, _ = _split(denoiser(x, t.expand(len(x))), x.shape[1])
        x = scheduler.step(noise, t, x).prev_sample
    return x


def _split(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Prediction and variance range, None where there is none."""
    return output[:, :channels], output[:, channels:] if output.shape[1] > channels else None


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log probability of the bin of 8-bit x in a Gaussian, elementwise; the outermost bins are open.

    The CDF is the tanh approximation; probabilities are floored at 1e-12 (ADM's released program).
    """
    centred, scale = x - mean, torch.exp(-log_deviation)
    above, below = (_normal_cdf(scale * (centred + side / 255)) for side in (1, -1))
    probability = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return torch.log(probability.clamp(min=1e-12))


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
