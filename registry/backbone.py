"""The contract every backbone honours, and what can be asked of any network that does.

A backbone is an `nn.Module` with

    forward(x (N, C, H, W), t (N,), y (N,)) -> (N, C_out, H, W)

where t is the original diffusion step (0 … 999, fractions allowed) and y the class label; a network
without classes ignores y. It tells its `input_size`, `in_channels`, `out_channels`, `num_classes`
and `learn_sigma`. A network with another signature overrides `example_inputs` and can then still be
costed and timed. Every long skip connection passes through a `LongSkip`, so that it can be cut.

No network lives here, and nothing that belongs to a single family.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from registry.errors import UsageError

Size = int | tuple[int, int]  # a square grid's side, or (height, width)


def require_positive(**values: float) -> None:
    """Raise `UsageError` that names the first value that is not above zero."""
    for name, value in values.items():
        if value <= 0:
            raise UsageError(f"{name} must be positive, not {value}")


def height_width(size: Size) -> tuple[int, int]:
    """(H, W) of a size given as one side or as a pair."""
    return (size, size) if isinstance(size, int) else size


class LongSkip(nn.Identity):
    """Marks a long skip connection: `x` passes unchanged, unless `Backbone.cut` zeroes it."""


class Backbone(nn.Module):
    """Base class of the networks; subclasses define `forward(x, t, y)`.

    Attributes:
        name: registered name, set by `registry.create`.
        overrides: what was asked for beyond the name, set by `registry.create`.
        input_size: side of the square input grid, or (H, W).
        in_channels, out_channels: C and C_out.
        num_classes: number of classes without the null class; 0 for an unconditional network.
        learn_sigma: whether the output is noise and variance range (C_out = 2 C) or noise only.
    """

    name: str = ""
    overrides: dict[str, Any]

    def __init__(
        self,
        *,
        input_size: Size = 32,
        in_channels: int = 4,
        num_classes: int = 1000,
        learn_sigma: bool = False,
        size_multiple: int = 1,
    ) -> None:
        """
        Args:
            size_multiple: H and W must be multiples of this many cells.

        Raises:
            UsageError: a size that is not positive or not such a multiple, or channels or classes
                that make no sense.
        """
        super().__init__()
        self.overrides = {}
        height, width = height_width(input_size)
        if in_channels < 1 or num_classes < 0:
            raise UsageError(f"needs in_channels >= 1 and num_classes >= 0, not {in_channels}, {num_classes}")
        self.input_size = height if height == width else (height, width)
        self.in_channels = in_channels
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.num_classes = num_classes
        self.learn_sigma = learn_sigma
        self.size_multiple = size_multiple
        self._check_grid(height, width)

    def _check_grid(self, height: int, width: int) -> None:
        m = self.size_multiple
        if min(height, width) < m or height % m or width % m:
            raise UsageError(
                f"{self.name or type(self).__name__} cannot take a {height}×{width} input: "
                f"height and width must be multiples of {m}."
            )

    def check_input(self, x: Tensor, *, fixed_size: bool = False) -> None:
        """Raise `UsageError` where x (N, C, H, W) has another channel count or a size it cannot take.

        Args:
            fixed_size: the network takes only the size it was built for (a position table).
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise UsageError(
                f"{self.name or type(self).__name__} takes (N, {self.in_channels}, H, W), "
                f"not {tuple(x.shape)}."
            )
        height, width = x.shape[2:]
        if fixed_size and (height, width) != height_width(self.input_size):
            built = "×".join(map(str, height_width(self.input_size)))
            asked = height if height == width else (height, width)
            raise UsageError(
                f"{self.name or type(self).__name__} was built for {built} inputs and cannot take "
                f"{height}×{width}: create it with input_size={asked}."
            )
        self._check_grid(height, width)

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Random arguments of `forward`, on the network's device and in its dtype.

        Returns:
            x (N, C, H, W) standard normal, t (N,) in 0 … 999, y (N,) in 0 … num_classes − 1.
        """
        return _example_inputs(self, batch_size)

    def stages(self) -> dict[str, nn.Module]:
        """Parts in which cost is told, in order of execution: name -> module."""
        return dict(self.named_children())

    def long_skips(self) -> dict[str, Callable[[], contextlib.AbstractContextManager[None]]]:
        """Long skip connections: name -> a context manager in which that skip carries zeros."""
        return {
            name: lambda module=module: zeroed(module)  # type: ignore[misc]
            for name, module in self.named_modules()
            if isinstance(module, LongSkip)
        }

    def deploy(self) -> Backbone:
        """A copy for inference: frozen, in eval mode, re-parameterised modules merged.

        The copy computes the same function; this network, its parameters and its mode stay as they
        are. A submodule takes part by a method `merged()` that returns its inference form.
        """
        return deploy(self)

    def forward_with_cfg(
        self, x: Tensor, t: Tensor, y: Tensor, cfg_scale: float, guided_channels: int | None = 3
    ) -> Tensor:
        """Classifier-free guidance as in DiT's sampling program.

        Args:
            x: (2N, C, H, W), of which the first half is used for both halves.
            t: (2N,).
            y: (2N,), the classes and then the null class, N each.
            cfg_scale: s in eps = uncond + s·(cond − uncond).
            guided_channels: how many leading channels are guided; 3 as in the published numbers,
                None for all noise channels.

        Returns:
            (2N, C_out, H, W), both halves guided alike; the other channels pass as they are.
        """
        half = x[: len(x) // 2]
        out = self(torch.cat([half, half]), t, y)
        guided = self.in_channels if guided_channels is None else guided_channels
        cond, uncond = out[:, :guided].chunk(2)
        eps = uncond + cfg_scale * (cond - uncond)
        return torch.cat([torch.cat([eps, eps]), out[:, guided:]], dim=1)


@contextlib.contextmanager
def zeroed(module: nn.Module) -> Iterator[None]:
    """Within this context `module` returns zeros."""
    handle = module.register_forward_hook(lambda _module, _args, out: torch.zeros_like(out))
    try:
        yield
    finally:
        handle.remove()


def deploy(model: nn.Module) -> Any:
    """`Backbone.deploy` for any module."""
    # deepcopy takes what its memo already holds, so the trained form of a merged part is not copied.
    mergeable: list[Any] = [part for part in model.modules() if hasattr(part, "merged")]
    memo = {id(part): part.merged() for part in mergeable}
    return copy.deepcopy(model, memo).eval().requires_grad_(False)


def _example_inputs(model: Any, batch_size: int) -> tuple[Tensor, ...]:
    """`Backbone.example_inputs` for any module with the contract's attributes."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    shape = (batch_size, model.in_channels, *height_width(model.input_size))
    x = torch.randn(shape, device=parameter.device, dtype=parameter.dtype)
    t = torch.randint(1000, (batch_size,), device=parameter.device)
    y = torch.randint(max(model.num_classes, 1), (batch_size,), device=parameter.device)
    return x, t, y


def adopt(name: str, factory: Callable[..., Any], overrides: dict[str, Any]) -> nn.Module:
    """Call a factory and make sure that what it returns can be measured.

    A plain `nn.Module` gets the contract's attributes that it does not set itself: those asked for,
    else its factory's defaults, else 32×32 inputs of 4 channels, 1000 classes, no learned variance.

    Raises:
        UsageError: the factory refuses the overrides, or returns no module.
    """
    try:
        model = factory(**overrides)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    if not isinstance(model, nn.Module):
        raise UsageError(f"backbone {name!r} must make an nn.Module, not {type(model).__name__}")
    if not isinstance(model, Backbone):
        _complete(model, factory, overrides)
    named: Any = model
    named.name, named.overrides = name, overrides
    return model


def _complete(model: Any, factory: Callable[..., Any], overrides: dict[str, Any]) -> None:
    """Give a plain module what it does not say of itself: as asked, as its factory has it, or usual."""
    usual = {"input_size": 32, "in_channels": 4, "num_classes": 1000, "learn_sigma": False}
    own = {p.name: p.default for p in inspect.signature(factory).parameters.values()}
    for attribute, value in usual.items():
        if own.get(attribute, inspect.Parameter.empty) is not inspect.Parameter.empty:
            value = own[attribute]
        if not hasattr(model, attribute):
            setattr(model, attribute, overrides.get(attribute, value))
    if not hasattr(model, "out_channels"):
        model.out_channels = model.in_channels * (2 if model.learn_sigma else 1)
    # The contract's questions work on any module.
    for question in ("example_inputs", "stages", "long_skips", "deploy", "forward_with_cfg"):
        if not hasattr(model, question):
            setattr(model, question, getattr(Backbone, question).__get__(model))
        elif not inspect.ismethod(getattr(model, question)):
            raise UsageError(
                f"{type(model).__name__}.{question} is no method, as a backbone's is: rename that attribute"
            )
