"""Arithmetic of training and sampling: TF32 products, and reduced precision under autocast."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from registry.errors import UsageError

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Layers whose weights and biases autocast casts at every call.
_CAST = (nn.Linear, nn.modules.conv._ConvNd)


def check_precision(precision: Precision, device: torch.device | str) -> None:
    """Nothing, if a device can train and sample in a precision.

    Raises:
        UsageError: fp16 on anything but CUDA.
    """
    if precision == "fp16" and torch.device(device).type != "cuda":
        raise UsageError(f"fp16 needs a CUDA device, not the {torch.device(device).type}: use bf16 or fp32")


def autocast(precision: Precision, device: torch.device | str) -> contextlib.AbstractContextManager[Any]:
    """Reduced precision for what runs inside, weights as they are; nothing for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, _DTYPES[precision])


def cast_weights(network: nn.Module, precision: Literal["bf16", "fp16"]) -> None:
    """Cast the weights of linear layers and convolutions once, in place, as `autocast` does at every call.

    Weights that another kind of layer shares stay as they are. For networks that are not trained any more:
    autocast keeps what it has cast for weights alone that learn. A network that asks for the dtype of its
    weights, to cast something else to it, or a layer that derives from these and computes with its weights,
    may compute something else afterwards.
    """
    others = {
        id(parameter)
        for module in network.modules()
        if not isinstance(module, _CAST)
        for parameter in module.parameters(recurse=False)
    }
    for module in network.modules():
        for parameter in module.parameters(recurse=False) if isinstance(module, _CAST) else ():
            if parameter.dtype == torch.float32 and id(parameter) not in others:
                parameter.data = parameter.data.to(_DTYPES[precision])


@contextlib.contextmanager
def tf32(enabled: bool, device: torch.device | str) -> Iterator[None]:
    """TF32 in matrix products and cuDNN, both on or off (PyTorch's default is off and on); then restored.

    Whatever was set before, by `allow_tf32` or by `fp32_precision` of an operator, a backend or all of them,
    has no effect within. A device that is not CUDA has no TF32, and nothing is changed.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    every: Any = torch.backends
    switches: tuple[Any, ...] = (every.cuda.matmul, every.cudnn)
    operators: tuple[Any, ...] = (every.cuda.matmul, every.cudnn.conv, every.cudnn.rnn)
    inherited: tuple[Any, ...] = (every, every.cudnn)  # by operators, and by those whose switch is turned off
    above = []
    for each in inherited:
        above.append(each.fp32_precision)
        each.fp32_precision = "none"
    before = [operator.fp32_precision for operator in operators]
    try:
        were = [switch.allow_tf32 for switch in switches]
    except RuntimeError:  # no answer where the settings of the operators differ
        were = []
    try:
        for switch in switches:
            switch.allow_tf32 = enabled
        for operator in operators:
            operator.fp32_precision = "tf32" if enabled else "ieee"
        yield
    finally:
        for switch, value in zip(switches, were, strict=False):
            switch.allow_tf32 = value
        for each, precision in zip((*operators, *inherited[::-1]), (*before, *above[::-1]), strict=True):
            each.fp32_precision = precision


@contextlib.contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Kernels that add up in one order, where PyTorch has such; then as before.

    An operator that has none raises a RuntimeError that names it. On the CPU all that is used here is so.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
