"""Whether a network predicts what it declares, and which declaration fits its behaviour.

The network is called with noised smooth random images at several noise levels. Each declaration determines
its input and its correct output. The network's error is compared with that of the best linear denoiser, which
returns a multiple of its input: the best multiple for each level, and the best for all levels. A trained
network, or one with preconditioning such as EDM's, is about as good as that or better under the right
declaration, and worse under every other. Any other untrained network is poor under all declarations; then
nothing can be concluded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from registry.variables import Predicts, Space, Time, Variables, natural
from registry.wrapping import Wrapped

NUMBERS = 2048  # minimum number of values at each noise level, over all images
RATIOS = (0.12, 0.3, 0.7, 1.5, 3.5, 8.0)  # σ/α of each noise level
# Images: the exponent e of their amplitude 1/frequency^e (1 for natural images), and their standard deviation
# (EDM's σ_data is 0.5, latents have about 1).
IMAGES = ((1.0, 0.5), (1.0, 1.0), (2.0, 0.7))
FLOOR = 0.05  # added to relative errors: smaller differences between barely trained networks mean nothing
SKIP = 0.1  # an output closer than this to one multiple of the input, in squared error, is no prediction yet
# Thresholds in ln of the squared error, averaged over the levels:
WORSE = 0.5  # a fit: the network's error exceeds that of the best multiple for each level by at most this,
BETTER = 0.1  # and is below that of one multiple for all levels (a skip of the image) by at least this
LINEAR = 0.1  # the network's own declaration is accepted up to this excess over the best linear denoiser
APART = 0.5  # another declaration is reported only if its evidence exceeds that of the declared one by this
ALIKE = 0.05  # declarations this close are ties: the one with fewer changes wins, then the more common
OTHERS: tuple[tuple[Time, Space], ...] = (
    ("step", "vp"),
    ("unit", "vp"),
    ("-unit", "vp"),
    ("sigma", "ve"),
    ("sigma", "vp"),
    ("log_sigma", "ve"),
    ("log_sigma", "vp"),
    ("log_sigma", "edm"),
    ("alphas_cumprod", "vp"),
)


@dataclass(frozen=True)
class Fit:
    """How well one declaration describes a network.

    Attributes:
        form: the declaration.
        excess: ln(network's error / error of the best multiple of its input for each level), mean over the
            levels: 0 for the best denoiser of independent normal numbers, negative for a trained network.
        gain: ln(error of one multiple of the input for all levels / network's error), mean over the levels;
            −∞ if the output is nearly such a multiple.
    """

    form: Variables
    excess: float
    gain: float

    @property
    def evidence(self) -> float:
        """Evidence for the declaration: the more it depends on the noise level, the less likely by chance."""
        return self.gain - self.excess

    @property
    def fits(self) -> bool:
        """Whether the network behaves as declared at every level."""
        return self.excess <= WORSE and self.gain >= BETTER


def meaning(net: Any) -> tuple[Fit, Fit | None] | None:
    """How well a network's declaration fits, and another declaration if that one does not fit.

    Args:
        net: network in eval mode that takes x (N, C, H, W), t (N,) and y (N,).

    Returns:
        The fit of its own declaration, and that of a better one or None. None for a network with a user's own
        objective or without a valid prediction.
    """
    own = net.own if isinstance(net, Wrapped) else natural(net.objective, net.beta_schedule)
    if own is None:
        return None
    ask: Callable[..., Tensor] = net.predict if isinstance(net, Wrapped) else net
    found = _fits(net, ask, own, [own.predicts])
    if found is None:
        return None
    (declared,) = found
    if declared.fits or declared.excess <= LINEAR:
        return declared, None
    others: list[Fit] = []
    for time, space in OTHERS:
        form = replace(own, time=time, space=space)
        predicts = [p for p in get_args(Predicts) if p != "edm" or space == "edm"]
        try:
            others += _fits(net, ask, form, predicts) or []
        except Exception:  # a table of steps has no entries for fractions
            continue
    fitting = [each for each in others if each.fits and each.evidence >= declared.evidence + APART]
    if not fitting:
        return declared, None
    most = max(each.evidence for each in fitting)
    alike = [each for each in fitting if each.evidence >= most - ALIKE]
    return declared, min(alike, key=lambda each: _changes(own, each.form))


def _changes(one: Variables, other: Variables) -> int:
    return sum(getattr(one, key) != getattr(other, key) for key in ("predicts", "time", "space"))


@torch.no_grad()
def _fits(
    net: Any, ask: Callable[..., Tensor], form: Variables, predicts: list[Predicts]
) -> list[Fit] | None:
    """Fits of declarations that differ in the prediction; None if the output is not valid."""
    fits: dict[Predicts, Fit] = {}
    each = math.ceil(NUMBERS / math.prod(net.example_inputs(1)[0].shape))
    log_snr = -2 * torch.tensor(RATIOS).log().repeat(each)
    for exponent, deviation in IMAGES:
        x, _, y = net.example_inputs(len(log_snr))
        levels = log_snr.to(x.device)
        x0, noise = deviation * _images(x, exponent), torch.randn_like(x)
        t = form.time_at(form.within(levels))
        if form.time == "step":
            t = t.round().long()
            levels = form.log_snr(t)
        alpha, sigma = map(_column, form.mix(levels))
        x = alpha * x0 + sigma * noise
        output = ask(x, t, y)
        if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[1] < x.shape[1]:
            return None
        output = output[:, : x.shape[1]]
        for predicted in predicts:
            named = replace(form, predicts=predicted)
            a, b = map(_column, named.target(levels))
            fit = _fit(named, x, a * x0 + b * noise, output)
            if predicted not in fits or fit.excess < fits[predicted].excess:
                fits[predicted] = fit
    return list(fits.values())


def _fit(form: Variables, x: Tensor, target: Tensor, output: Tensor) -> Fit:
    size = _dot(target, target)
    likeness, length = _dot(x, target) / size, _dot(x, x) / size
    multiple = likeness.sum() / length.sum()
    errors = (
        1 - 2 * multiple * likeness + multiple**2 * length,
        _dot(output - target, output - target) / size,
        1 - likeness**2 / length,
    )
    single, own, best = ((error + FLOOR).log().mean() for error in errors)
    excess, gain = (own - best).nan_to_num(math.inf), (single - own).nan_to_num(-math.inf)
    return Fit(form, float(excess), -math.inf if _is_skip(x, output) else float(gain))


def _is_skip(x: Tensor, output: Tensor) -> bool:
    """Whether the output is nearly one multiple of x at all levels, as EDM's VP preconditioning begins."""
    rest = output - _dot(x, output).sum() / _dot(x, x).sum() * x
    return bool((_dot(rest, rest) <= SKIP * _dot(output, output)).all())


def _images(like: Tensor, exponent: float) -> Tensor:
    """Smooth random images of standard deviation 1 in the shape of `like`: amplitude 1/frequency^exponent."""
    height, width = like.shape[2:]
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = torch.hypot(rows, columns).clamp(min=1 / max(height, width)).to(like.device)
    images = torch.fft.irfft2(
        torch.fft.rfft2(torch.randn_like(like)) / frequency**exponent, s=(height, width)
    )
    return images / images.square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner products over all images of each level: (levels,) float64."""
    return (one.double() * other.double()).flatten(1).sum(1).view(-1, len(RATIOS)).sum(0)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
