"""Memory of a training step: forward and backward pass observed on fake tensors, which have shapes alone."""

from __future__ import annotations

import contextlib
import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cost.memory import LiveTensors


def training_bytes(
    network: nn.Module, batch_size: int, *, averages: int = 1, dtype: torch.dtype | None = None
) -> int | None:
    """Bytes that a training step has in use at most: weights, gradients, AdamW's two moments, averages of the
    weights, and the activations of forward and backward pass.

    Args:
        network: honours the contract of `registry.Backbone`; it may be without memory, on the meta device.
        batch_size: images of a step in one process.
        averages: of the weights.
        dtype: of autocast; None: everything is float32.

    Returns:
        None of a network that looks at values, which fake tensors do not have.
    """
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, log.disabled = log.disabled, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _observed(network, batch_size, averages, dtype)
    except Exception:  # whatever the network does with values: training shows a mistake as itself
        return None
    finally:
        log.disabled = disabled


def _observed(network: nn.Module, batch_size: int, averages: int, dtype: torch.dtype | None) -> int:
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        made = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
        memo[id(parameter)] = nn.Parameter(made, requires_grad=parameter.requires_grad)
    for buffer in network.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    model: Any = copy.deepcopy(network, memo).train()
    kept = [*model.parameters(), *model.buffers()]
    learned = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    whole = sum(tensor.nbytes for tensor in kept)
    inputs = model.example_inputs(batch_size)
    memory = LiveTensors(besides=kept, live=whole * (1 + averages) + 2 * learned)
    for tensor in inputs:
        memory.add(tensor)
    casting = torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext()
    with _Observer(memory):
        with casting:
            output = model(*inputs)
        output.float().square().mean().backward()
    return memory.peaks[""]


class _Observer(TorchDispatchMode):
    """Follows what operators make."""

    def __init__(self, memory: LiveTensors) -> None:
        super().__init__()
        self.memory = memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.memory.add(tensor)
        return out
