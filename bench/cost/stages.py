"""Stages of a network and hooks around them, for `bench.cost` and for profiles."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from registry.backbone import Backbone

BETWEEN = "(between)"  # name of operations outside of all stages


def stages(network: nn.Module) -> dict[str, nn.Module]:
    """The parts by which cost and time are reported, in order of execution: `Backbone.stages`, or those of
    any module."""
    own: Any = getattr(network, "stages", None)
    return own() if inspect.ismethod(own) else Backbone.stages(network)  # type: ignore[arg-type]


@contextlib.contextmanager
def around(
    modules: Mapping[str, nn.Module], enter: Callable[[str], object], leave: Callable[[str], object]
) -> Iterator[None]:
    """Within this context `enter` and `leave` are called with a module's name around each of its forwards."""
    with contextlib.ExitStack() as hooks:
        for name, module in modules.items():
            for part in _called(module):
                before = part.register_forward_pre_hook(_hook(enter, name))
                after = part.register_forward_hook(_hook(leave, name), always_call=True)
                hooks.callback(before.remove)
                hooks.callback(after.remove)
        yield


def _hook(call: Callable[[str], object], name: str) -> Callable[..., None]:
    """A hook that changes neither inputs nor outputs, as one that returns something would."""

    def hook(*_: object) -> None:
        call(name)

    return hook


def _called(module: nn.Module) -> Iterator[nn.Module]:
    """The module itself; of a bare container, which is never called, its items."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        for item in module.children():
            yield from _called(item)
    else:
        yield module
