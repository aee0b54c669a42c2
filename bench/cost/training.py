"""Memory of a training step: forward and backward pass on the meta device, whose tensors are shapes alone."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from bench.cost.memory import Follower, LiveTensors
from registry.training_output import prediction_of


def training_bytes(network: nn.Module, batch_size: int, *, averages: int = 1) -> int | None:
    """Bytes that a training step has in use at most: weights, gradients, AdamW's two moments, averages of the
    weights, and the activations of forward and backward pass, in float32.

    Fused attention counts as the products that it stands for, and so as more than it keeps; under autocast
    activations take less.

    Args:
        network: honours the contract of `registry.Backbone`; left as it is.
        batch_size: images of a step in one process.
        averages: of the weights.

    Returns:
        None of a network that looks at values, for there are none.
    """
    try:
        return _observed(network, batch_size, averages)
    except Exception:  # whatever the network does with values: training shows a mistake as itself
        return None


def _observed(network: nn.Module, batch_size: int, averages: int) -> int:
    model: Any = copy.deepcopy(network).to("meta").train()
    kept = [*model.parameters(), *model.buffers()]
    learned = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    whole = sum(tensor.nbytes for tensor in kept)
    inputs = model.example_inputs(batch_size)
    memory = LiveTensors(besides=kept, live=whole * (1 + averages) + 2 * learned)
    for tensor in inputs:
        memory.add(tensor)
    with Follower(memory):
        prediction_of(model(*inputs)).square().mean().backward()
    return memory.peaks[""]
