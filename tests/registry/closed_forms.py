"""The best denoiser of independent normal numbers of deviation 0.5, in the forms in which networks come.

Each is written out from its own definition, without `registry.variables`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import registry

S = 0.5  # deviation of the data
LOG_SNR = torch.from_numpy(
    np.log((a := np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))) / (1 - a))
)  # of DDPM's linear schedule


def column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def epsilon_of_steps(x: Tensor, t: Tensor) -> Tensor:
    t = t.double()
    below = t.floor().clamp(max=998).long()
    log_snr = LOG_SNR[below] + (t - below) * (LOG_SNR[below + 1] - LOG_SNR[below])
    return epsilon_of_alphas(x, log_snr.sigmoid())


def epsilon_of_alphas(x: Tensor, a: Tensor) -> Tensor:
    a = column(a)
    return (1 - a).sqrt() * x / (a * S**2 + 1 - a)


def x0_of_sigma(x: Tensor, sigma: Tensor) -> Tensor:
    return x * S**2 / (S**2 + column(sigma) ** 2)


def v_of_alphas(x: Tensor, a: Tensor) -> Tensor:
    a = column(a)
    noise, x0 = (1 - a).sqrt() * x / (a * S**2 + 1 - a), a.sqrt() * S**2 * x / (a * S**2 + 1 - a)
    return a.sqrt() * noise - (1 - a).sqrt() * x0


def velocity_of_unit(x: Tensor, t: Tensor) -> Tensor:
    t = column(t)
    return (t * S**2 - (1 - t)) * x / (t**2 * S**2 + (1 - t) ** 2)


def reversed_velocity(x: Tensor, t: Tensor) -> Tensor:
    return -velocity_of_unit(x, 1 - t)


def score_of_log_sigma(x: Tensor, c_noise: Tensor) -> Tensor:
    return -x / (S**2 + column(torch.exp(4 * c_noise)) ** 2)


def f_of_edm(x: Tensor, c_noise: Tensor) -> Tensor:
    """EDM's F with σ_data = 1, which the data do not have, of c_in·x."""
    sigma, data = column(torch.exp(4 * c_noise)), 1.0
    whole = torch.sqrt(sigma**2 + data**2)
    skip, out = data**2 / whole**2, sigma * data / whole
    return (x0_of_sigma(whole * x, torch.exp(4 * c_noise)) - skip * whole * x) / out


def noise_of_angle(x: Tensor, angle: Tensor) -> Tensor:
    """Of cos(angle)·x0 + sin(angle)·noise: a time of one's own."""
    sin = column(angle).sin()
    return sin * x / ((1 - sin**2) * S**2 + sin**2)


@dataclass(frozen=True)
class Form:
    function: Callable[[Tensor, Tensor], Tensor]
    declared: dict[str, Any] = field(default_factory=dict)
    objective: str = "ddpm"


FORMS = {
    "epsilon, step": Form(epsilon_of_steps, {"predicts": "epsilon", "time": "step"}),
    "epsilon, alphas_cumprod": Form(epsilon_of_alphas, {"predicts": "epsilon", "time": "alphas_cumprod"}),
    "x0, sigma": Form(x0_of_sigma, {"predicts": "x0", "time": "sigma"}, "edm"),
    "v_prediction, alphas_cumprod": Form(v_of_alphas, {"predicts": "v_prediction", "time": "alphas_cumprod"}),
    "velocity, unit": Form(velocity_of_unit, {"predicts": "velocity", "time": "unit"}, "flow"),
    "-velocity, -unit": Form(reversed_velocity, {"predicts": "-velocity", "time": "-unit"}, "flow"),
    "score, log_sigma": Form(score_of_log_sigma, {"predicts": "score", "time": "log_sigma"}, "edm"),
    "F of EDM": Form(
        f_of_edm, {"predicts": "edm", "time": "log_sigma", "space": "edm", "sigma_data": 1.0}, "edm"
    ),
    "epsilon, own time": Form(
        noise_of_angle, {"predicts": "epsilon", "time": lambda alpha, sigma: torch.atan2(sigma, alpha)}
    ),
}


class ClosedForm(nn.Module):
    """A network of one form; `scale` is 1 and can be trained."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form, self.scale = form, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * self.form.function(x.double(), t.double()).to(x.dtype)


def wrapped(name: str, size: int = 8, **options: Any) -> Any:
    """A form of the closed form behind the contract."""
    form = FORMS[name]
    net = registry.wrap(ClosedForm(form), **form.declared, input_size=size, **({"in_channels": 4} | options))
    net.name = name
    return net.eval()


def best_loss(snr: Tensor) -> float:
    """Least mean squared error of the noise over levels of α²/σ²."""
    return float((snr * S**2 / (snr * S**2 + 1)).mean())


assert math.isclose(float(LOG_SNR[999].exp()), 4.0358e-5, rel_tol=1e-3)
