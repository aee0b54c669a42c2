"""A network with its labels, as the denoiser that a sampler calls, with guidance or without.

The gradient of a classifier is no part of a denoiser: it is set as `gradient` of the samplers `ancestral` and
`ddim`, which weigh it each in their own way.

    ddim = bench.diffusion.sampler("ddim clip=true")
    ddim.gradient = classifier_gradient(log_probability, scale=4.0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.diffusion.base import Denoiser
from registry.backbone import check_output
from registry.errors import UsageError

Gradient = Callable[[Tensor, Tensor], Tensor]  # x (N, C, H, W), t (N,) -> (N, C, H, W)


def classifier_gradient(log_probability: Gradient, scale: float = 1.0) -> Gradient:
    """scale · ∇ₓ log p(y | x, t), for classifier guidance (ADM, arXiv 2105.05233, section 4).

    Args:
        log_probability: x (N, C, H, W) and t (N,), as the network sees it -> (N,) log probabilities of the
            labels that are wanted, differentiable in x.
        scale: weight of the gradient.

    Returns:
        x (N, C, H, W), t (N,) -> (N, C, H, W), in inference mode too.
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
) -> Denoiser:
    """Classifier-free guidance (arXiv 2207.12598): uncond + s·(cond − uncond).

    The channels that are not guided come from the conditional half.

    Args:
        network: a backbone.
        labels: (N,) classes; ignored by a network without classes.
        cfg_scale: s; at 1 the network is called once, without the null class.
        guided_channels: how many leading channels are guided, 0 for all of the prediction (half of the
            output where the variance is learned); None for the backbone's own `guided_channels`: 3 is the
            quirk of DiT's sampling program, and what its published figures have.
        interval: guide where lowest ≤ t ≤ highest alone, t as the network sees it: a step 0 … 999 of `ddpm`,
            in `flow` 0 (noise) … 1 (data). Elsewhere the network is called once, on the labels (Kynkäänniemi
            et al. 2024, arXiv 2404.07724). None guides everywhere.

    Raises:
        UsageError: guidance for a network without a null class, more channels than it predicts, or an empty
            interval. The denoiser raises CodeError where the network returns what cannot be its output.
    """

    checked = False

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal checked
        output: Tensor = network(x, t, y)
        if not checked:  # once, for to look at the values stops a GPU
            check_output(network, (x, t, y), output)
            checked = True
        return output

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
    lowest, highest = interval or (-torch.inf, torch.inf)
    if not lowest <= highest:
        raise UsageError(f"the guidance interval must rise, not go from {lowest:g} to {highest:g}")
    both = torch.cat([labels, torch.full_like(labels, null)])

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        inside = (lowest <= t) & (t <= highest)
        if interval is not None and not inside.any():
            return predict(x, t, labels)
        output = predict(torch.cat([x, x]), torch.cat([t, t]), both)
        cond, uncond = output[:, :channels].chunk(2)
        eps = uncond + cfg_scale * (cond - uncond)
        if interval is not None:
            eps = torch.where(inside.view(-1, 1, 1, 1), eps, cond)
        return torch.cat([eps, output[: len(x), channels:]], dim=1)

    return denoiser
