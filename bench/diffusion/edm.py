"""EDM: denoising at any σ (Karras et al. 2022, arXiv 2206.00364), with EDM2's settings (2312.02696).

Noise is added without scaling the data: x = x0 + σ·noise. The network is given σ and returns the denoised x0.
Further distributions and weights of σ are those of HDiT (Crowson et al. 2024, arXiv 2401.11605).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.diffusion import objectives, samplers
from bench.diffusion.base import Denoiser, Noise, Objective, Sampler
from registry.errors import UsageError
from registry.variables import Variables


@objectives.register("edm")
class EDM(Objective):
    """Denoising of x = x0 + σ·noise (EDM, EDM2, HDiT).

    Args:
        p_mean, p_std: mean and standard deviation of ln σ. Defaults: EDM2, latents of 512×512 images. EDM2
            for 64×64 pixels has −0.8 and 1.6, EDM −1.2 and 1.2.
        sigma_data: standard deviation of the data, from which the weight of each σ follows.
        density: how σ is distributed in training: "log-normal"; "v", as by the cosine schedule, whose angle
            atan(σ / sigma_data) is uniform; or "cosine-interpolated", between the cosine schedules that suit
            images of side `low_side` and of side `image_side` (HDiT).
        sigma_min, sigma_max: limits of σ for "v" and "cosine-interpolated".
        image_side, low_side: sides in pixels for "cosine-interpolated".
        stratified: spread the σ of a batch evenly over their distribution.
        weighting: weight of the squared error of the raw output F inside the preconditioning: "karras", 1, as
            EDM; "snr", σ_data² / (σ² + σ_data²); or "soft-min-snr", σ² / (σ² + σ_data²) times that (HDiT).

    Raises:
        UsageError: a deviation is not positive, or limits or sides are not in ascending order.
    """

    preview: ClassVar[tuple[str, str] | None] = ("edm-heun", "12")
    variables = Variables("x0", "sigma", "ve")

    def __init__(
        self,
        p_mean: float = -0.4,
        p_std: float = 1.0,
        sigma_data: float = 0.5,
        density: Literal["log-normal", "v", "cosine-interpolated"] = "log-normal",
        sigma_min: float = 1e-3,
        sigma_max: float = 1e3,
        image_side: int = 256,
        low_side: int = 32,
        stratified: bool = False,
        weighting: Literal["karras", "snr", "soft-min-snr"] = "karras",
    ) -> None:
        if not (p_std > 0 and sigma_data > 0):
            raise UsageError(f"objective edm takes p_std and sigma_data above 0, not {p_std}, {sigma_data}")
        if not 0 < sigma_min < sigma_max < math.inf:
            raise UsageError(
                f"objective edm takes 0 < sigma_min < sigma_max, not sigma_min {sigma_min}, "
                f"sigma_max {sigma_max}"
            )
        if not 0 < low_side <= image_side:
            raise UsageError(
                f"objective edm takes 0 < low_side <= image_side, not low_side {low_side}, "
                f"image_side {image_side}"
            )
        self.p_mean, self.p_std, self.sigma_data = p_mean, p_std, sigma_data
        self.density, self.sigma_min, self.sigma_max = density, sigma_min, sigma_max
        self.image_side, self.low_side = image_side, low_side
        self.stratified, self.weighting = stratified, weighting

    def sample_timesteps(self, u: Tensor) -> Tensor:
        """σ of the density, (N,) -> (N,).

        For "log-normal" σ = exp(p_mean + p_std·n), where n is the u-quantile of the standard normal
        distribution. u = 0 gives the smallest σ for "v", the largest for "cosine-interpolated".
        """
        u = u.double()
        if self.density == "v":
            return self._cosine(1 - u, 1.0).float()
        if self.density == "cosine-interpolated":
            low, high = self._cosine(u, self.low_side / self.image_side), self._cosine(u, 1.0)
            return (low ** (1 - u) * high**u).float()
        inside = u + 2.0**-25  # u is a multiple of 2⁻²⁴, and the quantile of 0 is not finite
        return (self.p_mean + self.p_std * torch.special.ndtri(inside)).exp().float()

    def _cosine(self, u: Tensor, ratio: float) -> Tensor:
        """σ at even angles atan(ratio·σ / σ_data) from sigma_max (u = 0) to sigma_min (u = 1)."""
        first, last = (math.atan(ratio * s / self.sigma_data) for s in (self.sigma_max, self.sigma_min))
        return self.sigma_data / ratio * torch.tan(first + u * (last - first))

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x0 + σ·noise."""
        return x0 + _column(t) * noise

    def losses(self, output: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        """λ(σ)·`mse`, `mse` the squared error of the denoised data, (N,) each.

        λ(σ) = (σ² + σ_data²) / (σ·σ_data)² (EDM, Table 1), times the weighting. Means over a sample's
        elements; EDM2 has sums.
        """
        mse = (output[:, : x0.shape[1]] - x0).square().flatten(1).mean(1)
        variance = t.square() + self.sigma_data**2
        weight = variance / (t * self.sigma_data).square()
        if self.weighting == "snr":
            weight = weight * self.sigma_data**2 / variance
        elif self.weighting == "soft-min-snr":
            weight = weight * (t * self.sigma_data / variance).square()
        return {"loss": weight * mse, "mse": mse}

    def to_epsilon(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """(x_t − denoised) / σ."""
        return (x_t - prediction[:, : x_t.shape[1]]) / _column(t)

    def snr(self, t: Tensor) -> Tensor:
        """1 / σ²."""
        return t.float().pow(-2)

    def timesteps_at_snr(self, snr: Tensor) -> Tensor:
        """The exact σ, 1 / √snr."""
        return snr.rsqrt()

    def snr_range(self) -> tuple[float, float]:
        """1 / σ² at the limits of σ, if the density has limits."""
        if self.density == "log-normal":
            return super().snr_range()
        return self.sigma_max**-2, self.sigma_min**-2


@samplers.register("edm-heun")
class EDMHeun(Sampler[EDM]):
    """EDM's sampler (Algorithm 2): Heun's method from σ_max to 0; the last of `steps` steps is an Euler step.

    Args:
        sigma_min, sigma_max: lowest σ above 0, and the highest, where sampling starts.
        rho: ρ of the step spacing: even in σ^(1/ρ).
        churn: S_churn: amount of noise that is added before each step, at most √2 − 1 times its σ; 0:
            deterministic.
        s_min, s_max: σ between which noise is added.
        s_noise: factor of the added noise's standard deviation.

    Raises:
        UsageError: sigma_max, sigma_min and 0 are not in descending order, rho is not positive, or churn is
            negative.
    """

    objectives: ClassVar[tuple[str, ...]] = ("edm",)

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        churn: float = 0.0,
        s_min: float = 0.0,
        s_max: float = math.inf,
        s_noise: float = 1.0,
    ) -> None:
        if not (0 < sigma_min < sigma_max < math.inf and rho > 0):
            raise UsageError(
                "sampler edm-heun takes 0 < sigma_min < sigma_max and rho above 0, "
                f"not sigma_min {sigma_min}, sigma_max {sigma_max}, rho {rho}"
            )
        if not churn >= 0:
            raise UsageError(f"sampler edm-heun takes a churn of at least 0, not {churn}")
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self.churn, self.s_min, self.s_max, self.s_noise = churn, s_min, s_max, s_noise

    def evaluations(self, steps: str) -> int:
        """Two evaluations per step, but one in the last."""
        return 2 * self.number(steps, least=2) - 1

    def sigmas(self, steps: int) -> list[float]:
        """The σ at the beginning of each step, and 0 (EDM, Eq. 5)."""
        first, last = (sigma ** (1 / self.rho) for sigma in (self.sigma_max, self.sigma_min))
        return [(first + i / (steps - 1) * (last - first)) ** self.rho for i in range(steps)] + [0.0]

    def loop(self, objective: EDM, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str) -> Tensor:
        """See `Sampler.sample`."""

        def slope(x: Tensor, sigma: float) -> Tensor:
            denoised = denoiser(x, torch.full((len(x),), sigma, device=x.device))[:, : x.shape[1]]
            return (x - denoised) / sigma

        sigmas = self.sigmas(int(steps))
        x = sigmas[0] * x
        for i, after in enumerate(sigmas[1:]):
            sigma = sigmas[i]
            if self.churn > 0 and self.s_min <= sigma <= self.s_max:
                sigma += min(self.churn / int(steps), math.sqrt(2) - 1) * sigma
                x = x + math.sqrt(sigma**2 - sigmas[i] ** 2) * self.s_noise * noise(i)
            before = slope(x, sigma)
            ahead = x + (after - sigma) * before
            if after > 0:
                ahead = x + (after - sigma) * (before + slope(ahead, after)) / 2
            x = ahead
        return x


def _column(t: Tensor) -> Tensor:
    return t.view(-1, 1, 1, 1)
