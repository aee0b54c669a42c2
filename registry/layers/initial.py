"""Initial weights that families share."""

from __future__ import annotations

from typing import Any

from torch import nn


def init_convolutions(network: Any) -> None:
    """Initialise in place as the released U-DiT, DiC and DiCo do.

    Convolutions are Xavier-uniform with zero biases, the stem with the fan of a linear map. The output layer
    is zero.

    Args:
        network: has a convolution `stem`, and a `head` whose last layer is `project`.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(network.stem.weight.flatten(1))  # a view, so it fills the convolution's weight
    nn.init.zeros_(network.head.project.weight)
