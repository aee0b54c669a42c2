"""Faster gradients of depthwise convolutions on x86 processors.

oneDNN has a kernel for the gradient of a depthwise weight that is at most three columns wide. For a wider
one, such as U-DiT's of 5×5, it takes that of dense convolutions, with AVX-512 on sixteen channels at a time,
and keeps one product in sixteen. Here the columns are taken three at a time, which gives the same sums.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

COLUMNS = 3  # of the widest kernel that oneDNN has a gradient for
X86 = platform.machine().lower() in ("x86_64", "amd64")
Pair = tuple[int, int]


class DepthwiseGradients(TorchFunctionMode):
    """While it is entered, convolutions that gain by it get the gradient of this module.

    These are depthwise, of stride and dilation 1, in float32 on an x86 processor, outside autocast, with
    kernels wider than three columns.

    Args:
        device: of the network.
        compiled: whether the network is; what a compiler makes of it is left alone.

    Attributes:
        used: whether a convolution gains; None until the network was called once.
    """

    def __init__(self, device: torch.device, *, compiled: bool) -> None:
        super().__init__()
        self.used: bool | None = None if X86 and device.type == "cpu" and not compiled else False

    def where_used(self) -> contextlib.AbstractContextManager[object]:
        """The mode; nothing where no convolution gains, for each function costs a microsecond more within."""
        return contextlib.nullcontext() if self.used is False else self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.used = bool(self.used)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d and (found := _gaining(*args, **kwargs)):
            self.used = True
            return _Depthwise.apply(*found)
        return func(*args, **kwargs)


def _gaining(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, Pair] | None:
    """What `_Depthwise` takes, of a call of `conv2d` that gains by it."""
    if (
        input.dim() != 4
        or not groups == len(weight) == input.shape[1]
        or weight.shape[3] <= COLUMNS
        or {input.dtype, weight.dtype} != {torch.float32}
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()  # which a function of ours would have to know
        or isinstance(padding, str)
        or {_pair(stride), _pair(dilation)} != {(1, 1)}
    ):
        return None
    return input, weight, bias, _pair(padding)


def _pair(value: Any) -> Pair:
    both = (value, value) if isinstance(value, int) else tuple(value)
    return both * 2 if len(both) == 1 else both


class _Depthwise(torch.autograd.Function):
    """conv2d(input, weight, bias, padding=padding) with as many groups as channels."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.padding = padding
        return F.conv2d(input, weight, bias, padding=padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad[:3]
        found: list[Tensor | None] = [None, None, None]
        if of_input:
            found[0] = _backward(gradient, input, weight, ctx.padding, (True, False, False))[0]
        if of_weight:
            rows, columns = ctx.padding
            beyond = gradient.shape[3] - input.shape[3] - columns
            outer = gradient.contiguous(memory_format=torch.channels_last)
            # oneDNN pads rows in passing, but has no such kernel where they are fewer than the weight's.
            padded = rows if weight.shape[2] > input.shape[2] else 0
            parts = []
            for first in range(0, weight.shape[3], COLUMNS):
                part = weight[..., first : first + COLUMNS]
                edges = (columns - first, beyond + first + part.shape[3] - 1, padded, padded)
                window = F.pad(input, edges).contiguous(memory_format=torch.channels_last)
                parts.append(_backward(outer, window, part, (rows - padded, 0), (False, True, False))[1])
            found[1] = torch.cat(parts, dim=3)
        if of_bias:
            found[2] = gradient.sum((0, 2, 3))
        return *found, None


def _backward(
    gradient: Tensor, input: Tensor, weight: Tensor, padding: Pair, wanted: tuple[bool, bool, bool]
) -> list[Tensor]:
    """PyTorch's own gradients of input, weight and bias, those that are wanted."""
    groups = len(weight)
    found: list[Tensor] = torch.ops.aten.convolution_backward(
        gradient, input, weight, None, (1, 1), padding, (1, 1), False, (0, 0), groups, wanted
    )
    return found
