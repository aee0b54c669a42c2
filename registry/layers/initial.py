"""Initial weights that families share."""

from __future__ import annotations

from typing import Any

from torch import nn


def init_convolutions(network: Any) -> None:
    """Xavier-uniform convolutions with zero biases, the stem as if it were linear, and an output of zero.

    As the released U-DiT, DiC and DiCo begin.

    Args:
        network: with a convolution `stem`, and a `head` whose last layer is `project`.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(network.stem.weight.flatten(1))  # a view: fills the convolution
    nn.init.zeros_(network.head.project.weight)
