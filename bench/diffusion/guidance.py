"""A network with its labels, as the denoiser that a sampler calls, with guidance or without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.diffusion.base import Denoiser
from registry.errors import CodeError, UsageError


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
            interval.
    """

    def conditional(x: Tensor, t: Tensor) -> Tensor:
        return _checked(network, network(x, t, labels), x)

    if cfg_scale == 1:
        return conditional
    null = _null_class(network)
    if null is None:
        raise UsageError(
            f"{network.name} has no null class, so it cannot be guided: use cfg scale 1, or train with label "
            "dropout"
        )
    if guided_channels is None:
        own = getattr(network, "guided_channels", None) or network.in_channels
        channels = min(own, network.in_channels)
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
            return conditional(x, t)
        doubled = torch.cat([x, x])
        output = _checked(network, network(doubled, torch.cat([t, t]), both), doubled)
        cond, uncond = output[:, :channels].chunk(2)
        eps = uncond + cfg_scale * (cond - uncond)
        if interval is not None:
            eps = torch.where(inside.view(-1, 1, 1, 1), eps, cond)
        return torch.cat([eps, output[: len(x), channels:]], dim=1)

    return denoiser


def _checked(network: Any, output: Any, x: Tensor) -> Tensor:
    """The network's output, if it is a tensor of x's shape, or with twice its channels.

    Raises:
        CodeError: it is not.
    """
    n, c, *grid = x.shape
    if not isinstance(output, Tensor):
        raise CodeError(f"{network.name}: forward returned {type(output).__name__}, not a tensor", network)
    if tuple(output.shape) not in ((n, c, *grid), (n, 2 * c, *grid)):
        raise CodeError(
            f"{network.name}: forward returned {tuple(output.shape)} for x {tuple(x.shape)}: it must be that "
            f"shape, or twice the channels with a learned variance",
            network,
        )
    return output


def _null_class(network: Any) -> int | None:
    """The label that stands for no label, or None where the network has none."""
    from registry.layers.embeddings import LabelDropout

    dropouts = [part.dropout for part in network.modules() if isinstance(part, LabelDropout)]
    default = None if network.num_classes == 0 or (dropouts and max(dropouts) == 0) else network.num_classes
    return getattr(network, "null_class", default)
