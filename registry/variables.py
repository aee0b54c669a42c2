"""Parametrisations of a denoiser, and conversion between them at equal SNR.

In every parametrisation a denoiser is given x = α·x0 + σ·noise and a time, and predicts a·x0 + b·noise. At
the same SNR α²/σ², the inputs of two parametrisations are equal up to scale. x0 and noise follow from the
input and the prediction, so one prediction is a linear function of the other and of the input (Karras et al.
2022, arXiv 2206.00364, Table 1; Kingma and Gao 2023, arXiv 2303.00848, appendix A).

    flow, noise = Variables("velocity", "unit"), Variables("epsilon", "step")
    velocity = through(network, x, t, given=flow, own=noise)  # of a network that predicts noise at steps
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from registry.errors import UsageError, suggest
from registry.layers.embeddings import made_once
from registry.schedules import NUM_TRAIN_TIMESTEPS, BetaSchedule, betas

Predicts = Literal["epsilon", "x0", "v_prediction", "velocity", "-velocity", "score", "edm"]
Time = Literal["step", "unit", "-unit", "sigma", "log_sigma", "alphas_cumprod"]
Space = Literal["vp", "ve", "edm"]
OwnTime = Callable[[Tensor, Tensor], Tensor]  # α (N,), σ (N,) of the network's input -> its time (N,)

# Range of σ for networks that are given x0 + σ·noise: EDM's sampler uses 0.002 to 80, and σ/α at the last
# step of DDPM's linear schedule is 157.
SIGMA = (0.002, 160.0)
STEEP = 1100.0  # limit of σ/α and of α/σ, where a conversion divides by α or σ
SCHEDULES = get_args(BetaSchedule)


@dataclass(frozen=True)
class Variables:
    """One parametrisation of a denoiser: its input, its time and its prediction.

    Attributes:
        predicts: `epsilon`, the noise; `x0`; `v_prediction`, α·noise − σ·x0; `velocity`, x0 − noise;
            `-velocity`, noise − x0; `score`, −noise/σ; `edm`, the F of EDM's preconditioning,
            (x0 − c_skip·x) / c_out (arXiv 2206.00364, Eq. 7).
        time: `step`, 0 … 999 of the β schedule; `unit`, from 0 (noise) to 1 (data); `-unit`, from 0 (data) to
            1 (noise); `sigma`, σ/α; `log_sigma`, ln(σ/α) / 4; `alphas_cumprod`, α² / (α² + σ²); or a function
            of α (N,) and σ (N,) that returns the time (N,).
        space: the input. `vp`: for the times `unit` and `-unit`, t·x0 + (1 − t)·noise with t from 0 (noise)
            to 1 (data); for others α·x0 + σ·noise with α² + σ² = 1. `ve`: x0 + σ·noise. `edm`: the same times
            c_in = 1/√(σ² + σ_data²).
        beta_schedule, zero_terminal_snr: the schedule of `step`; see `registry.schedules`.
        sigma_data: σ_data of EDM's preconditioning.
        sigma_range: lowest and highest σ/α at which the network may be called; None: see `within`.

    Raises:
        UsageError: a value that is none of these, or a range that does not rise from above 0.
    """

    predicts: Predicts
    time: Time | OwnTime
    space: Space = "vp"
    beta_schedule: BetaSchedule = "linear"
    zero_terminal_snr: bool = False
    sigma_data: float = 0.5
    sigma_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.sigma_range and not 0 < self.sigma_range[0] < self.sigma_range[1]:
            raise UsageError(f"sigma_range = {self.sigma_range}: it rises from above 0, such as {SIGMA}")
        choices = {"predicts": Predicts, "time": Time, "space": Space, "beta_schedule": BetaSchedule}
        for name, known in choices.items():
            value = getattr(self, name)
            if not (value in get_args(known) or (name == "time" and callable(value))):
                raise UsageError(
                    f"{name} = {value!r}: it is one of {', '.join(get_args(known))}"
                    f"{' or a function of (α, σ)' if name == 'time' else ''}."
                    f"{suggest(str(value), list(get_args(known)))}"
                )

    def __str__(self) -> str:
        time = self.time if isinstance(self.time, str) else "a function of (α, σ)"
        return f'predicts="{self.predicts}", time="{time}", space="{self.space}"'

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(α²/σ²) at times (N,) of `step`, `unit` or `sigma`; steps may be fractions: (N,)."""
        if self.time == "step":
            table = self._table(t.device)
            if not t.is_floating_point():
                return table[t]
            below = t.floor().clamp(0, NUM_TRAIN_TIMESTEPS - 2).long()
            return torch.lerp(table[below], table[below + 1], t.to(table.dtype) - below)
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        return 2 * (t.log() - (1 - t).log()) if self.time == "unit" else -2 * t.log()

    def within(self, log_snr: Tensor) -> Tensor:
        """The nearest log SNR at which the network can be called: (N,) -> (N,).

        The range of steps is that of their schedule, and that of x0 + σ·noise is `SIGMA` unless `sigma_range`
        is given. A prediction from which x0 or the noise follows by dividing by α or σ is limited by `STEEP`.
        """
        if self.time == "step":
            ends = log_snrs(self.beta_schedule, self.zero_terminal_snr)
            log_snr = log_snr.clamp(float(ends[-1]), float(ends[0]))
        if limits := self.sigma_range or (SIGMA if self.time != "step" and self.space != "vp" else None):
            log_snr = log_snr.clamp(-2 * math.log(limits[1]), -2 * math.log(limits[0]))
        if self.predicts in ("epsilon", "score", "x0"):
            log_snr = log_snr.clamp(-2 * math.log(STEEP), 2 * math.log(STEEP))
        return log_snr

    def time_at(self, log_snr: Tensor) -> Tensor:
        """The network's time at a log SNR, (N,) -> (N,)."""
        if self.time == "step":
            table = self._table(log_snr.device).to(log_snr.dtype)
            above = torch.searchsorted(-table, -log_snr).clamp(1, NUM_TRAIN_TIMESTEPS - 1)
            low, high = table[above - 1], table[above]
            # At zero terminal SNR the last entry is −∞.
            return above - 1 + torch.where(log_snr == high, 1, (low - log_snr) / (low - high))
        if callable(self.time):
            return self.time(*self.mix(log_snr))
        return {
            "unit": lambda: (log_snr / 2).sigmoid(),
            "-unit": lambda: (-log_snr / 2).sigmoid(),
            "sigma": lambda: (-log_snr / 2).exp(),
            "log_sigma": lambda: -log_snr / 8,
            "alphas_cumprod": lambda: log_snr.sigmoid(),
        }[self.time]()

    def mix(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ of the network's input at a log SNR, (N,) each."""
        if self.space != "vp":
            sigma = (-log_snr / 2).exp()
            scale = (sigma.square() + self.sigma_data**2).rsqrt() if self.space == "edm" else 1.0
            return torch.ones_like(sigma) * scale, sigma * scale
        if self.time in ("unit", "-unit"):
            return (log_snr / 2).sigmoid(), (-log_snr / 2).sigmoid()
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()

    def target(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """a and b of the prediction a·x0 + b·noise at a log SNR, (N,) each."""
        alpha, sigma = self.mix(log_snr)
        one = torch.ones_like(alpha)
        if self.predicts == "edm":
            ratio = (-log_snr / 2).exp()
            scale = (ratio.square() + self.sigma_data**2).rsqrt()
            return ratio * scale / self.sigma_data, -self.sigma_data * scale
        return {
            "epsilon": (0 * one, one),
            "x0": (one, 0 * one),
            "v_prediction": (-sigma, alpha),
            "velocity": (one, -one),
            "-velocity": (-one, one),
            "score": (0 * one, -1 / sigma),
        }[self.predicts]

    def _table(self, device: torch.device) -> Tensor:
        schedule = SCHEDULES.index(self.beta_schedule)
        return _on_device(schedule, int(self.zero_terminal_snr), device=device)


def natural(objective: str, beta_schedule: BetaSchedule = "linear") -> Variables | None:
    """The parametrisation of networks that declare an objective; None for a user's own objective."""
    return {
        "ddpm": Variables("epsilon", "step", beta_schedule=beta_schedule),
        "flow": Variables("velocity", "unit"),
        "edm": Variables("x0", "sigma", "ve"),
    }.get(objective)


@functools.cache
def log_snrs(beta_schedule: BetaSchedule, zero_terminal_snr: bool) -> np.ndarray:
    """ln(ᾱ / (1 − ᾱ)) of each training step, (1000,) float64."""
    alphas_cumprod = np.cumprod(1 - betas(beta_schedule, zero_terminal_snr))
    with np.errstate(divide="ignore"):  # −∞ at zero terminal SNR
        return np.log(alphas_cumprod) - np.log1p(-alphas_cumprod)


@made_once
def _on_device(schedule: int, zero_terminal_snr: int) -> np.ndarray:
    """`log_snrs` of the schedule with this number, float32."""
    return log_snrs(SCHEDULES[schedule], bool(zero_terminal_snr)).astype(np.float32)


def through(
    network: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, *, given: Variables, own: Variables
) -> Tensor:
    """The prediction of a network in another parametrisation, at equal SNR.

    Args:
        network: in the parametrisation `own`: x (N, C, H, W), t (N,) -> (N, C, H, W).
        x: input in the parametrisation `given`, (N, C, H, W).
        t: time in the parametrisation `given`, (N,).
        given: the wanted parametrisation; its time is `step`, `unit` or `sigma`.
        own: the network's parametrisation. If input and prediction are those of `given`, only the time is
            converted.

    Returns:
        The prediction in the parametrisation `given`, (N, C, H, W).
    """
    wanted = given.log_snr(t)
    same_time = own.time == given.time and _same_steps(given, own)
    level = wanted if same_time and own.time == "step" and not own.sigma_range else own.within(wanted)
    exact = level is wanted and same_space(given, own)
    times = t if same_time and level is wanted else own.time_at(level).to(_float(t, x))
    if not exact:
        # Norms, because α alone may be 0; at equal SNR the ratio of norms is the ratio of α.
        norms = [torch.hypot(*own.mix(level)), torch.hypot(*given.mix(wanted))]
        x = _column(norms[0] / norms[1], x) * x
    output = network(x, times)
    if exact and given.predicts == own.predicts:
        return output
    alpha, sigma = own.mix(level)
    (a, b), (a_given, b_given) = own.target(level), given.target(wanted)
    determinant = alpha * b - sigma * a
    of_x = (a_given * b - b_given * a) / determinant
    of_output = (alpha * b_given - sigma * a_given) / determinant
    return _column(of_x, x) * x + _column(of_output, x) * output


def same_space(one: Variables, other: Variables) -> bool:
    """Whether two parametrisations have the same input at every SNR."""
    if one.space != "vp" or other.space != "vp":
        return one.space == other.space and (one.space != "edm" or one.sigma_data == other.sigma_data)
    straight = ("unit", "-unit")
    return (one.time in straight) == (other.time in straight)


def _same_steps(one: Variables, other: Variables) -> bool:
    return one.time != "step" or (one.beta_schedule, one.zero_terminal_snr) == (
        other.beta_schedule,
        other.zero_terminal_snr,
    )


def _float(t: Tensor, x: Tensor) -> torch.dtype:
    return t.dtype if t.is_floating_point() else x.dtype


def _column(values: Tensor, x: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1) in the dtype of x."""
    return values.to(x.dtype).view(-1, 1, 1, 1)
