"""Denoisers: a network with its labels as a sampler calls it, with or without guidance.

The gradient of a classifier is not part of a denoiser. It is set as `gradient` of the samplers `ancestral`
and `ddim`, which each apply it in their own way.

    ddim = bench.diffusion.sampler("ddim clip=true")
    ddim.gradient = classifier_gradient(log_probability, scale=4.0)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.diffusion.base import Denoiser
from bench.diffusion.translation import Translated
from registry.backbone import check_output
from registry.errors import UsageError

Gradient = Callable[[Tensor, Tensor], Tensor]  # x (N, C, H, W), t (N,) -> (N, C, H, W)


def classifier_gradient(log_probability: Gradient, scale: float = 1.0) -> Gradient:
    """scale · ∇ₓ log p(y | x, t), for classifier guidance (ADM, arXiv 2105.05233, section 4).

    Args:
        log_probability: x (N, C, H, W) and t (N,), as the network sees it -> (N,) log probabilities of the
            wanted labels, differentiable in x.
        scale: weight of the gradient.

    Returns:
        x (N, C, H, W), t (N,) -> (N, C, H, W); also works in inference mode.
    """

    def gradient(x: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().requires_grad_()
            return scale * torch.autograd.grad(log_probability(x, t.clone()).sum(), x)[0]

    return gradient


def guided(
    network: Any,
    labels: Tensor,
    cfg_scale: float = 1.0,
    guided_channels: int | None = None,
    interval: tuple[float, float] | None = None,
    encoder_every: int = 1,
) -> Denoiser:
    """Classifier-free guidance (arXiv 2207.12598): uncond + s·(cond − uncond).

    The channels that are not guided come from the conditional half.

    Args:
        network: a backbone.
        labels: (N,) classes; ignored by a network without classes.
        cfg_scale: s; at 1 the network is called once, without the null class.
        guided_channels: number of leading channels to guide; 0: all channels of the prediction (half of the
            output if the variance is learned); None: the backbone's own `guided_channels`. DiT's sampling
            program guides 3 of 4, and so do its published figures.
        interval: guide only if lowest ≤ t ≤ highest, with t of the objective: a step 0 … 999 for `ddpm`, 0
            (noise) … 1 (data) for `flow`, σ for `edm`. Elsewhere the network is called once, with the labels
            (Kynkäänniemi et al. 2024, arXiv 2404.07724, with intervals of σ; LightningDiT's begin at
            t = 0.125 or 0.1, DDT's at 0.3). None: guide everywhere.
        encoder_every: for a network with `encode` and `decode`, such as DDT: run the encoder in every n-th
            evaluation only, starting with the first, on both halves of the batch whether guided or not.

    Raises:
        UsageError: guidance for a network without a null class, more channels than it predicts, an empty
            interval, or encoder_every for a network without an encoder. The denoiser raises CodeError if the
            network returns an invalid output.
    """

    call = network if encoder_every == 1 else _with_encoder_every(network, encoder_every)
    checked = False

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal checked
        output: Tensor = call(x, t, y)
        if not checked:  # once, because reading the values makes the CPU wait for the GPU
            check_output(network, (x, t, y), output)
            checked = True
        return output

    lowest, highest = interval or (-torch.inf, torch.inf)
    if not lowest <= highest:
        raise UsageError(f"the guidance interval must rise, not go from {lowest:g} to {highest:g}")
    if cfg_scale == 1:
        return lambda x, t: predict(x, t, labels)
    null = network.null_class
    if null is None:
        raise UsageError(
            f"{network.name} has no null class, so it cannot be guided: use cfg scale 1, or train with label "
            "dropout"
        )
    if guided_channels is None:
        channels = min(network.guided_channels or network.in_channels, network.in_channels)
    elif 0 <= guided_channels <= network.in_channels:
        channels = guided_channels or network.in_channels
    else:
        raise UsageError(
            f"guided_channels must be 0 (all) to {network.in_channels}, which {network.name} predicts, "
            f"not {guided_channels}"
        )
    both = torch.cat([labels, torch.full_like(labels, null)])

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        inside = (lowest <= t) & (t <= highest)
        if interval is not None and encoder_every == 1 and not inside.any():
            return predict(x, t, labels)
        output = predict(torch.cat([x, x]), torch.cat([t, t]), both)
        cond, uncond = output[:, :channels].chunk(2)
        eps = uncond + cfg_scale * (cond - uncond)
        if interval is not None:
            eps = torch.where(inside.view(-1, 1, 1, 1), eps, cond)
        return torch.cat([eps, output[: len(x), channels:]], dim=1)

    return denoiser


def guided_by(
    denoiser: Denoiser, guide: Denoiser, scale: float, interval: tuple[float, float] | None = None
) -> Denoiser:
    """Guidance by another network: guide + s·(denoiser − guide).

    With a worse guide, smaller or trained for less time, this is autoguidance (Karras et al. 2024, arXiv
    2406.02507, Eq. 3). With an unconditional guide it is classifier-free guidance as in EDM2. At given x and
    t all predictions are linear in x0, so guiding x0, noise or velocity gives the same result.

    Args:
        denoiser, guide: of the same objective. Channels beyond those of x come from the denoiser.
        scale: s; at 1 the guide has no effect.
        interval: guide only at these times, as in `guided`.
    """
    lowest, highest = interval or (-torch.inf, torch.inf)

    def both(x: Tensor, t: Tensor) -> Tensor:
        output, channels = denoiser(x, t), x.shape[1]
        inside = (lowest <= t) & (t <= highest)
        if interval is not None and not inside.any():
            return output
        plain = output[:, :channels]
        other = guide(x, t)[:, :channels]
        made = torch.where(inside.view(-1, 1, 1, 1), other + scale * (plain - other), plain)
        return torch.cat([made, output[:, channels:]], dim=1)

    return both


def _with_encoder_every(network: Any, count: int) -> Callable[[Tensor, Tensor, Tensor], Any]:
    """A network whose encoder runs in every `count`-th call; calls between reuse its last output."""
    if not hasattr(network, "encode"):
        raise UsageError(f"{network.name} has no encoder of its own, as DDT has: leave encoder_every at 1")
    if isinstance(network, Translated):  # encoder and decoder take the network's own variables
        called = _with_encoder_every(network.network, count)
        return Translated(network.network, called, network.given, network.own)
    calls = itertools.count()
    state: Any = None

    def call(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal state
        if next(calls) % count == 0:
            state = network.encode(x, t, y)
        output: Tensor = network.decode(x, state)
        return output

    return call
