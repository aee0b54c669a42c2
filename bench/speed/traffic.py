"""Bytes that operators move, and the peak of memory, in calls on real tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cost.memory import LiveTensors


class Traffic(TorchDispatchMode):
    """Follows what runs within its context.

    An operator moves its inputs (weights among them) and its outputs, each once; what it changes in place is
    both. Views move nothing.

    Args:
        own: bytes in use before and all the time, such as those of weights.

    Attributes:
        moved: bytes that operators read and wrote.
        memory: live bytes, `own` included.
        largest: numbers of the largest tensor that was made.
    """

    def __init__(self, own: int) -> None:
        super().__init__()
        self.moved, self.largest, self.memory = 0, 0, LiveTensors(live=own)
        self.memory.mark()

    @property
    def peak(self) -> int:
        """The most bytes in use."""
        return max(self.memory.peaks.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = _tensors((args, kwargs or {}))
        # What changes lists of tensors in place, as fused optimizers do, returns nothing.
        written = _tensors(out) or _tensors(_changed(func._schema, args))
        storages = {tensor.untyped_storage()._cdata for tensor in read}
        made = [tensor for tensor in written if tensor.untyped_storage()._cdata not in storages]
        if made or not written or func._schema.is_mutable:  # else a view
            self.moved += sum(map(_bytes, read)) + sum(map(_bytes, written))
        for tensor in made:
            self.memory.add(tensor)
            self.largest = max(self.largest, tensor.numel())
        return out


def _changed(schema: Any, args: tuple[Any, ...]) -> list[Any]:
    """The arguments that an operator changes in place."""
    declared = zip(schema.arguments, args, strict=False)
    return [value for argument, value in declared if argument.alias_info and argument.alias_info.is_write]


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in nested arguments or results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, (tuple, list)) else []


def _bytes(tensor: Tensor) -> int:
    """What an operator touches of a tensor: of an expanded one, only what is stored."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
