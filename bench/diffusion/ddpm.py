"""The DDPM process of the DiT and U-DiT papers: 1000 noised steps, learned variance range, respacing.

Sources: DDPM (arXiv 2006.11239), Improved DDPM (2102.09672), ADM's released program; v-prediction
(2202.00512), min-SNR-γ weights (2303.09556), zero terminal SNR (2305.08891). Tables are computed in float64,
steps in float32.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bench.diffusion import objectives
from bench.diffusion.base import Denoiser, Objective
from bench.diffusion.respacing import respaced_timesteps
from registry.errors import UsageError
from registry.schedules import NUM_TRAIN_TIMESTEPS, BetaSchedule, betas
from registry.variables import Variables

PredictionType = Literal["epsilon", "v_prediction"]


class _StepTable:
    """A number for each step of a process: float64, and float32 tensors of it on each device."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self._tensors: dict[torch.device, Tensor] = {}

    def __getitem__(self, i: int | Tensor) -> Any:
        """The value at one position as a number, or at (N,) of them as (N, 1, 1, 1)."""
        if isinstance(i, int):
            return float(self._values[i])
        if i.device not in self._tensors:
            with torch.inference_mode(False):  # so that training can use tensors made while sampling
                self._tensors[i.device] = torch.from_numpy(self._values.astype(np.float32)).to(i.device)
        return self._tensors[i.device][i].view(-1, 1, 1, 1)


class GaussianDiffusion:
    """The tables of a process, respaced or whole, and the arithmetic of one step.

    Methods take positions i in `timesteps`: one number, or (N,) of them. In the whole process these are the
    training steps themselves.

    Args:
        train_betas: (1000,) float64, β of the process that the network was trained on.
        prediction_type: what the network predicts; see `DDPM`.
        respacing: see `bench.diffusion.respacing`; None takes every step.

    Attributes:
        timesteps: the training steps visited, ascending; the network always sees these.
        betas, alphas_cumprod, alphas_cumprod_prev, sqrt_alphas_cumprod, sqrt_one_minus_alphas_cumprod,
        sqrt_recip_alphas_cumprod, sqrt_recipm1_alphas_cumprod, posterior_mean_coef1, posterior_mean_coef2,
        posterior_log_variance_clipped, log_betas, snr (ᾱ / (1−ᾱ)): of the visited steps, by position.
    """

    def __init__(
        self, train_betas: np.ndarray, prediction_type: PredictionType, respacing: str | None = None
    ) -> None:
        self.prediction_type = prediction_type
        self.timesteps = respaced_timesteps(respacing or str(NUM_TRAIN_TIMESTEPS))
        alphas_cumprod = np.cumprod(1 - train_betas)[self.timesteps]
        alphas_cumprod_prev = np.append(1.0, alphas_cumprod[:-1])
        betas = 1 - alphas_cumprod / alphas_cumprod_prev
        posterior_variance = betas * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod)  # DDPM, Eq. 7
        # It is 0 at the first step, where the logarithm of the second step's is used.
        clipped = (
            np.append(posterior_variance[1], posterior_variance[1:]) if len(self.timesteps) > 1 else betas
        )
        self.betas, self.log_betas = _StepTable(betas), _StepTable(np.log(betas))
        self.alphas_cumprod, self.snr = (
            _StepTable(alphas_cumprod),
            _StepTable(alphas_cumprod / (1 - alphas_cumprod)),
        )
        self.alphas_cumprod_prev = _StepTable(alphas_cumprod_prev)
        self.sqrt_alphas_cumprod = _StepTable(np.sqrt(alphas_cumprod))
        self.sqrt_one_minus_alphas_cumprod = _StepTable(np.sqrt(1 - alphas_cumprod))
        with np.errstate(divide="ignore"):  # infinite at zero terminal SNR, where they are not used
            self.sqrt_recip_alphas_cumprod = _StepTable(np.sqrt(1 / alphas_cumprod))
            self.sqrt_recipm1_alphas_cumprod = _StepTable(np.sqrt(1 / alphas_cumprod - 1))
        self.posterior_mean_coef1 = _StepTable(betas * np.sqrt(alphas_cumprod_prev) / (1 - alphas_cumprod))
        self.posterior_mean_coef2 = _StepTable(
            (1 - alphas_cumprod_prev) * np.sqrt(1 - betas) / (1 - alphas_cumprod)
        )
        self.posterior_log_variance_clipped = _StepTable(np.log(clipped))

    def to_x0(self, prediction: Tensor, x_t: Tensor, i: int | Tensor) -> Tensor:
        """The prediction converted to x0."""
        if self.prediction_type == "v_prediction":
            return self.sqrt_alphas_cumprod[i] * x_t - self.sqrt_one_minus_alphas_cumprod[i] * prediction
        return self.sqrt_recip_alphas_cumprod[i] * x_t - self.sqrt_recipm1_alphas_cumprod[i] * prediction

    def to_epsilon(self, prediction: Tensor, x_t: Tensor, i: int | Tensor) -> Tensor:
        """The prediction converted to noise."""
        if self.prediction_type == "v_prediction":
            return self.sqrt_one_minus_alphas_cumprod[i] * x_t + self.sqrt_alphas_cumprod[i] * prediction
        return prediction

    def posterior_mean(self, x0: Tensor, x_t: Tensor, i: int | Tensor) -> Tensor:
        """Mean of q(x_{t−1} | x_t, x0) (DDPM, Eq. 7)."""
        return self.posterior_mean_coef1[i] * x0 + self.posterior_mean_coef2[i] * x_t

    def log_variance(self, v: Tensor, i: int | Tensor) -> Tensor:
        """The learned range v in [−1, 1] between the log variances β̃ and β (Improved DDPM, Eq. 15)."""
        share = (v + 1) / 2
        return share * self.log_betas[i] + (1 - share) * self.posterior_log_variance_clipped[i]

    def predict(self, denoiser: Denoiser, x: Tensor, i: int) -> tuple[Tensor, Tensor | None]:
        """The network's prediction at one position, and its variance range or None."""
        return split(denoiser(x, self.times(x, i)), x.shape[1])

    def times(self, x: Tensor, i: int) -> Tensor:
        """The training step at one position for each sample, as the network sees it: (N,) int64."""
        return torch.full((len(x),), self.timesteps[i], device=x.device)


@objectives.register("ddpm")
class DDPM(Objective):
    """Noise or v-prediction over 1000 steps (DDPM, arXiv 2006.11239), with a learned variance or without.

    Args:
        beta_schedule: see `registry.schedules`.
        prediction_type: `epsilon`, the noise, or `v_prediction`, √ᾱ·noise − √(1−ᾱ)·x0.
        min_snr_gamma: γ of min-SNR weights (Hang et al. 2023, arXiv 2303.09556), 5 in the paper; None: all
            steps have equal weight. With zero terminal SNR the last step has weight 0.
        zero_terminal_snr: rescale β so that the last step is noise alone; for v-prediction only. Sample with
            a number of steps: `ddimN` does not visit the last.

    Raises:
        UsageError: a value that it cannot take, or zero terminal SNR with noise prediction.
    """

    preview: ClassVar[tuple[str, str] | None] = ("ddim", "ddim25")
    variables = Variables("epsilon", "step")  # with the default options

    def __init__(
        self,
        beta_schedule: BetaSchedule = "linear",
        prediction_type: PredictionType = "epsilon",
        min_snr_gamma: float | None = None,
        zero_terminal_snr: bool = False,
    ) -> None:
        if zero_terminal_snr and prediction_type == "epsilon":
            raise UsageError(
                "zero_terminal_snr needs prediction_type v_prediction: at the last step the noise is the "
                "input itself"
            )
        if min_snr_gamma is not None and min_snr_gamma <= 0:
            raise UsageError(f"min_snr_gamma must be positive, not {min_snr_gamma}")
        self.betas = betas(beta_schedule, zero_terminal_snr)
        self.prediction_type, self.min_snr_gamma = prediction_type, min_snr_gamma
        self.zero_terminal_snr = zero_terminal_snr
        self.variables = Variables(
            prediction_type, "step", beta_schedule=beta_schedule, zero_terminal_snr=zero_terminal_snr
        )
        self.diffusion = self.respaced()

    def respaced(self, respacing: str | None = None) -> GaussianDiffusion:
        """The process over fewer steps; see `bench.diffusion.respacing`."""
        return GaussianDiffusion(self.betas, self.prediction_type, respacing)

    def sample_timesteps(self, u: Tensor) -> Tensor:
        """(N,) uniform in [0, 1) -> steps 0 … 999, (N,) int64."""
        return (u * NUM_TRAIN_TIMESTEPS).long()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = √ᾱ·x0 + √(1−ᾱ)·noise (DDPM, Eq. 4)."""
        process = self.diffusion
        return process.sqrt_alphas_cumprod[t] * x0 + process.sqrt_one_minus_alphas_cumprod[t] * noise

    def losses(self, output: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the prediction and, with a learned variance, the bound term.

        Args:
            output: (N, C, H, W) prediction, or (N, 2C, H, W) with the variance range v after it.
            x0, noise, x_t, t: as for `add_noise`, and its result.

        Returns:
            `loss` = weight · `mse` + `vb`, (N,) each. The weight is 1 without min-SNR. `vb` is in bits per
            dimension with the prediction held fixed, so that it trains the variance alone (Improved DDPM,
            Eq. 16, at weight 1); absent for a network without a learned variance.
        """
        prediction, v = split(output, x0.shape[1])
        process, epsilon = self.diffusion, self.prediction_type == "epsilon"
        target = noise
        if not epsilon:  # Salimans and Ho 2022, arXiv 2202.00512
            target = process.sqrt_alphas_cumprod[t] * noise - process.sqrt_one_minus_alphas_cumprod[t] * x0
        mse = (prediction - target).square().flatten(1).mean(1)
        loss = mse
        if self.min_snr_gamma is not None:
            snr = self.snr(t)
            # The weight of x0's error is min(SNR, γ); the errors of ε and v are SNR and SNR + 1 times that.
            loss = mse * snr.clamp(max=self.min_snr_gamma) / (snr if epsilon else snr + 1)
        if v is None:
            return {"loss": loss, "mse": mse}
        vb = self._bound(prediction.detach(), v, x0, x_t, t)
        return {"loss": loss + vb, "mse": mse, "vb": vb}

    def _bound(self, prediction: Tensor, v: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Divergence of the model's step from the posterior, or the likelihood at t = 0: (N,) bits."""
        process = self.diffusion
        mean = process.posterior_mean(process.to_x0(prediction, x_t, t), x_t, t)
        log_variance = process.log_variance(v, t)
        true_mean = process.posterior_mean(x0, x_t, t)
        true_log_variance = process.posterior_log_variance_clipped[t]
        divergence = 0.5 * (
            log_variance
            - true_log_variance
            - 1
            + torch.exp(true_log_variance - log_variance)
            + (true_mean - mean).square() * torch.exp(-log_variance)
        )
        likelihood = _discretised_log_likelihood(x0, mean, 0.5 * log_variance)
        nats = torch.where(t.view(-1, 1, 1, 1) == 0, -likelihood, divergence)
        return nats.flatten(1).mean(1) / math.log(2)

    def to_epsilon(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The prediction itself, or √(1−ᾱ)·x_t + √ᾱ·v."""
        return self.diffusion.to_epsilon(prediction[:, : x_t.shape[1]], x_t, t)

    def snr(self, t: Tensor) -> Tensor:
        """ᾱ / (1 − ᾱ)."""
        return self.diffusion.snr[t].flatten()

    def timesteps_at_snr(self, snr: Tensor) -> Tensor:
        """The step whose ln SNR is nearest, (N,) int64."""
        log_snr = self.snr(torch.arange(NUM_TRAIN_TIMESTEPS, device=snr.device)).log()
        return (snr.log().view(-1, 1) - log_snr).abs().argmin(1)

    def snr_range(self) -> tuple[float, float]:
        """The ratios of the last and of the first step."""
        last, first = self.snr(torch.tensor([NUM_TRAIN_TIMESTEPS - 1, 0])).tolist()
        return last, first


def split(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Split an output into prediction and variance range; the latter is None if there is none."""
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
