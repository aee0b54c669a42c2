"""A network with its labels, as the denoiser that a sampling loop calls, with guidance or without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.diffusion.interface import Denoiser
from registry.errors import UsageError
from registry.layers.embeddings import LabelDropout


def guided(network: Any, labels: Tensor, cfg_scale: float = 1.0, guided_channels: int | None = 3) -> Denoiser:
    """Classifier-free guidance (arXiv 2207.12598) as DiT's sampling program has it.

    Args:
        network: a backbone.
        labels: (N,) classes; ignored by a network without classes.
        cfg_scale: s in uncond + s·(cond − uncond); at 1 the network is called once, without the null class.
        guided_channels: how many leading channels are guided: 3 as in the published numbers, None for
            all channels of the prediction.

    Raises:
        UsageError: guidance for a network without classes or without a null class.
    """
    if cfg_scale == 1:
        return lambda x, t: network(x, t, labels)
    if null_class(network) is None:
        raise UsageError(
            f"{network.name} has no null class, so it cannot be guided: use cfg scale 1, or train with label "
            "dropout"
        )
    both = torch.cat([labels, torch.full_like(labels, network.num_classes)])

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        doubled = (torch.cat([x, x]), torch.cat([t, t]), both)
        return network.forward_with_cfg(*doubled, cfg_scale, guided_channels)[: len(x)]

    return denoiser


def null_class(network: Any) -> int | None:
    """The label that stands for no label, or None where the network has none."""
    dropouts = [part.dropout for part in network.modules() if isinstance(part, LabelDropout)]
    if network.num_classes == 0 or (dropouts and max(dropouts) == 0):
        return None
    return network.num_classes
