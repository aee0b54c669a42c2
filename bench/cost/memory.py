"""Bytes of tensors in use and their peak, for `bench.cost` and `bench.speed`."""

from __future__ import annotations

import contextlib
import importlib
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveTensors:
    """Tracks storages from when they are first seen until they are freed; sparse tensors have none.

    Args:
        besides: tensors that are not tracked, such as weights.
        live: bytes that are in use all the time, in addition to tracked ones.

    Attributes:
        live: bytes in use now.
        peaks: largest number of bytes in use, by stage.
    """

    def __init__(self, besides: Iterable[Tensor] = (), live: int = 0) -> None:
        self.live = live
        self.peaks: Counter[str] = Counter()
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        for tensor in besides:
            self.leave_out(tensor)

    def leave_out(self, tensor: Tensor) -> None:
        """Do not follow a tensor, unless it is followed already."""
        if tensor.layout is torch.strided:
            self._seen.add(tensor.untyped_storage())

    def add(self, tensor: Tensor, stage: str = "") -> None:
        """Follow the storage of a tensor that was made, or seen, while a stage runs."""
        if tensor.layout is torch.strided and (storage := tensor.untyped_storage()) not in self._seen:
            self._seen.add(storage)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._freed, storage.nbytes())
        self.mark(stage)

    def mark(self, stage: str = "") -> None:
        """Include the bytes in use now in the peak of a stage."""
        self.peaks[stage] = max(self.peaks[stage], self.live)

    def _freed(self, size: int) -> None:
        self.live -= size


_made: dict[Any, list[Any] | None] = {}  # sizes, strides and dtypes that an operator makes of such inputs


def call(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator. On the meta device, results are reused for equal kinds of inputs.

    An operator takes a millisecond there, and networks repeat their blocks.
    """
    try:
        key = func, _key(args), _key(kwargs)
        known = _made.get(key)
    except TypeError:  # a real or sparse tensor among the inputs, or what is no key of a dictionary
        return func(*args, **kwargs)
    if known:
        made = [
            torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in known
        ]
        return tuple(made) if len(made) > 1 else made[0]
    out = func(*args, **kwargs)
    _made[key] = _new(out if isinstance(out, tuple) else (out,), args)
    return out


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not _is_shape(value):
            raise TypeError
        return value.shape, value.stride(), value.dtype, value.is_conj()
    if isinstance(value, tuple | list):
        return tuple(map(_key, value))
    if isinstance(value, dict):
        return tuple((name, _key(item)) for name, item in value.items())
    return type(value), value


def _new(outputs: tuple[Any, ...], inputs: Any) -> list[Any] | None:
    """Size, stride and dtype of each output; None where one is no new tensor, as of a view."""
    given = {value.untyped_storage() for value in inputs if isinstance(value, Tensor)}
    if all(_is_shape(out) and out.untyped_storage() not in given for out in outputs):
        return [(out.shape, out.stride(), out.dtype) for out in outputs]
    return None


def _is_shape(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta and value.layout is torch.strided


class Mode(TorchDispatchMode):
    """A mode that imports no Dynamo, as PyTorch's own does, which takes as long as the import of PyTorch."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


@contextlib.contextmanager
def without_dynamo() -> Iterator[None]:
    """Within this context operators on the meta device import no Dynamo, which takes as long as PyTorch does.

    At its first call, each of PyTorch's functions for that device asks Dynamo not to compile it. Nothing is
    compiled in this context, so the functions run without asking, and ask again afterwards. Any other use of
    Dynamo imports it. If it is there, as for a network with `@torch.compile`, it compiles nothing.
    """
    name = "torch._dynamo"
    if name in sys.modules:
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    asked: list[Any] = []

    def disable(function: Any, *_: Any, **__: Any) -> Any:
        asked.append(function)
        return function

    def real(attribute: str) -> Any:
        if sys.modules[name] is stub:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stub: Any = ModuleType(name)
    stub.disable, stub.__getattr__ = disable, real
    sys.modules[name] = stub
    try:
        yield
    finally:
        if sys.modules[name] is stub:
            del sys.modules[name]
        for function in asked:
            vars(function).pop("__dynamo_disable", None)


class Shapes(Mode):
    """Operators on the meta device run once for each kind of inputs, and weights are not drawn."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ("aten::normal_", "aten::uniform_") and args[0].is_meta:
            return args[0]
        return call(func, args, kwargs or {})
