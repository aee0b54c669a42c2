"""Whether a network predicts what it declares, and which declaration fits its behaviour.

The network is called with noised smooth random images at several noise levels. Each declaration determines
what it is given and what it should return. Its error is compared with that of the best multiple of the image,
for each level and for all levels at once. A trained network, or one with preconditioning such as EDM's, is at
least about as good under the right declaration, and worse under every other. Any other untrained network is
good under none, and nothing can be concluded.
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

NUMBERS = 2048  # of images at each level, at least
RATIOS = (0.12, 0.3, 0.7, 1.5, 3.5, 8.0)  # σ/α
# Exponent of the fall of amplitudes with frequency, 1 of natural images, and deviation: σ_data of EDM is 0.5,
# and latents have about 1.
IMAGES = ((1.0, 0.5), (1.0, 1.0), (2.0, 0.7))
FLOOR = (
    0.05  # of an error, as a share of the target: below it hardly trained networks differ for other reasons
)
# In logarithms of the squared error, means over the levels.
WORSE = 0.5  # by which a network's error may be above that of the best multiple of its input at each level
BETTER = 0.1  # by which it must be below that of one multiple for all levels, as a skip of the image is
LINEAR = 0.1  # up to which the declaration that a network has stands, were it no more than a linear denoiser
APART = 0.5  # by which another declaration must have more evidence than the one that it has
ALIKE = 0.05  # between declarations of which the one with fewer changes, then the more common, is named
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
        excess: ln of the network's error over that of the best multiple of its input at each level, mean over
            the levels: 0 for the best denoiser of independent normal numbers, below it for a trained network.
        gain: ln of the error of one multiple of the input for all levels over the network's, mean over the
            levels.
    """

    form: Variables
    excess: float
    gain: float

    @property
    def evidence(self) -> float:
        """The more a form depends on the noise level, the less likely is a network of it by chance."""
        return self.gain - self.excess

    @property
    def fits(self) -> bool:
        """Whether the network behaves as of this declaration at every level."""
        return self.excess <= WORSE and self.gain >= BETTER


def meaning(net: Any) -> tuple[Fit, Fit | None] | None:
    """How well a network's declaration fits, and another declaration if that one does not fit.

    Args:
        net: in eval mode; takes x, t and y.

    Returns:
        None of a network that declares an objective of a user's own, or whose output is no prediction.
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
        except Exception:  # a table of steps takes no fractions
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
    """How well declarations that differ in what they predict describe a network; None of another output."""
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
    return Fit(form, float((own - best).nan_to_num(math.inf)), float((single - own).nan_to_num(-math.inf)))


def _images(like: Tensor, exponent: float) -> Tensor:
    """Smooth random images of deviation 1, as large as `like`: amplitude 1/frequency^exponent."""
    height, width = like.shape[2:]
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = torch.hypot(rows, columns).clamp(min=1 / max(height, width)).to(like.device)
    images = torch.fft.irfft2(
        torch.fft.rfft2(torch.randn_like(like)) / frequency**exponent, s=(height, width)
    )
    return images / images.square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Of all images of a level: (levels,) float64."""
    return (one.double() * other.double()).flatten(1).sum(1).view(-1, len(RATIOS)).sum(0)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
