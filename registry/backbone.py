"""The contract of all backbones, and functions for any network that fulfils it.

A backbone is an `nn.Module` with

    forward(x (N, C, H, W), t (N,), y (N,)) -> (N, C_out, H, W)

y is the class label; a network without classes ignores it. The meaning of x, t and the output depends on the
network's natural `objective`:

    ddpm    x = √ᾱ·x0 + √(1−ᾱ)·noise    t is the step 0 … 999, fractions allowed    returns the noise
    flow    x = t·x0 + (1−t)·noise      t is from 0 (noise) to 1 (data)             returns x0 − noise
    edm     x = x0 + σ·noise            t = σ                                       returns x0

A backbone has the attributes `input_size`, `in_channels`, `out_channels`, `num_classes` and `learn_sigma`. It
declares how it is trained and sampled: `objective`, `beta_schedule`, `guided_channels`, `null_class`. A
network with another signature overrides `example_inputs`; its cost and speed can be measured. Every long skip
connection passes through a `LongSkip`, so that a check can cut it.

Nothing here is specific to one network or family.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from registry.checkpoints import Rule
from registry.errors import CodeError, UsageError, reason
from registry.layers.embeddings import LabelDropout
from registry.training_output import TrainingOutput, parts_of

Size = int | tuple[int, int]  # a square grid's side, or (height, width)


def require_positive(**values: float) -> None:
    """Raise a `UsageError` that names the first value that is not positive or not finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise UsageError(f"{name} must be positive, not {value}")


def height_width(size: Size) -> tuple[int, int]:
    """(H, W) of a size given as one side or as a pair."""
    return (size, size) if isinstance(size, int) else size


class LongSkip(nn.Identity):
    """Marks a long skip connection: `x` passes unchanged, unless `Backbone.cut` zeroes it."""


class Backbone(nn.Module):
    """Base class of the networks; subclasses define `forward(x, t, y)`.

    Attributes:
        objective: natural objective, which defines inputs and output: "ddpm", "flow" or "edm".
        beta_schedule: β schedule of "ddpm": "linear", β from 0.0001 to 0.02; "scaled_linear", √β from
            √0.00085 to √0.012 as in Stable Diffusion; or "cosine", as in Improved DDPM.
        guided_channels: number of leading channels to which published sampling applies guidance; None: all.
        checkpoint_names: rules that translate parameter names of the authors' checkpoints to ours, in order.
        fixed_parameters: parameters that are computed, not learned; a checkpoint may omit them. Names of the
            authors' layout that this network does not have are ignored.
        name: registered name, set by `registry.create`.
        overrides: the options given to `registry.create`.
        input_size: side of the square input grid, or (H, W).
        in_channels, out_channels: C and C_out.
        num_classes: number of classes without the null class; 0 for an unconditional network.
        learn_sigma: whether the output is noise and variance range (C_out = 2·C) or noise only (C_out = C).
        size_multiple: H and W must be multiples of this many cells.
    """

    objective: ClassVar[str] = "ddpm"
    beta_schedule: ClassVar[str] = "linear"
    guided_channels: ClassVar[int | None] = None
    checkpoint_names: ClassVar[list[Rule]] = []
    fixed_parameters: ClassVar[Collection[str]] = ()

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
            input_size: side of the input grid in cells, or (H, W).
            in_channels: channels of the input.
            num_classes: number of classes without the null class; 0: unconditional.
            learn_sigma: output the variance range beside the noise (2·C channels), or the noise alone (C).
            size_multiple: H and W must be multiples of this many cells.

        Raises:
            UsageError: a size is not positive or not a multiple of size_multiple, or in_channels or
                num_classes is out of range.
        """
        super().__init__()
        self.overrides = {}
        height, width = height_width(input_size)
        if in_channels < 1 or num_classes < 0:
            raise UsageError(f"needs in_channels >= 1 and num_classes >= 0, not {in_channels}, {num_classes}")
        require_positive(size_multiple=size_multiple)
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
        """Raise `UsageError` if x (N, C, H, W) has the wrong number of channels or an unsuitable size.

        Args:
            fixed_size: whether the network takes only the size that it was built for, as with a position
                table.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise UsageError(
                f"{self.name or type(self).__name__} takes (N, {self.in_channels}, H, W), "
                f"not {tuple(x.shape)}."
            )
        height, width = x.shape[2:]
        if fixed_size and (height, width) != height_width(self.input_size):
            built = "×".join(map(str, height_width(self.input_size)))
            needed = height if height == width else (height, width)
            raise UsageError(
                f"{self.name or type(self).__name__} was built for {built} inputs and cannot take "
                f"{height}×{width}: create it with input_size={needed}."
            )
        self._check_grid(height, width)

    @property
    def null_class(self) -> int | None:
        """Index of the null class ("no label"); None for a network without classes or without label dropout.

        It is read from the network's `LabelDropout`. A network that drops labels in another way overrides it.
        """
        return _null_class(self)

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Random arguments of `forward`, on the network's device and in its dtype.

        Returns:
            x (N, C, H, W) standard normal; t (N,) by objective: "ddpm", steps 0 … 999; "flow", 0 to 1; "edm",
            σ, log-normal; y (N,) in 0 … num_classes − 1.
        """
        return _example_inputs(self, batch_size)

    def stages(self) -> dict[str, nn.Module]:
        """Parts whose cost is reported separately, in order of execution: name -> module."""
        return dict(self.named_children())

    def long_skips(self) -> dict[str, Callable[[], contextlib.AbstractContextManager[None]]]:
        """Long skip connections: name -> a context manager in which that skip is zero."""
        return {
            name: lambda module=module: zeroed(module)  # type: ignore[misc]
            for name, module in self.named_modules()
            if isinstance(module, LongSkip)
        }

    def deploy(self) -> Backbone:
        """A copy for inference: frozen, in eval mode, with re-parameterised modules merged.

        The copy computes the same function. The network itself does not change. A submodule that can be
        merged has a method `merged()`, which returns its inference form.
        """
        return deploy(self)


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
    # deepcopy uses what its memo already holds, so the trained form of a merged part is not copied.
    mergeable: list[Any] = [part for part in model.modules() if hasattr(part, "merged")]
    memo = {id(part): part.merged() for part in mergeable}
    return copy.deepcopy(model, memo).eval().requires_grad_(False)


def _example_inputs(model: Any, batch_size: int) -> tuple[Tensor, ...]:
    """`Backbone.example_inputs` for any module with the contract's attributes."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    shape = (batch_size, model.in_channels, *height_width(model.input_size))
    x = torch.randn(shape, device=parameter.device, dtype=parameter.dtype)
    like: dict[str, Any] = {"device": parameter.device, "dtype": parameter.dtype}
    if model.objective == "flow":
        t = torch.rand(batch_size, **like)
    elif model.objective == "edm":
        t = torch.randn(batch_size, **like).exp()
    else:
        t = torch.randint(1000, (batch_size,), device=parameter.device)
    y = torch.randint(max(model.num_classes, 1), (batch_size,), device=parameter.device)
    return x, t, y


def _null_class(model: Any) -> int | None:
    """`Backbone.null_class` for any module with the contract's attributes."""
    dropped = any(isinstance(part, LabelDropout) and part.dropout > 0 for part in model.modules())
    return model.num_classes if dropped and model.num_classes else None


def is_denoiser(network: Any, inputs: Sequence[Any]) -> bool:
    """Whether the inputs of a network are x (N, C, H, W), t (N,) and integers y (N,)."""
    if len(inputs) != 3 or not all(isinstance(value, Tensor) for value in inputs):
        return False
    x, t, y = inputs
    grids = x.is_floating_point() and x.dim() == 4 and x.shape[1] == network.in_channels
    return grids and t.dim() == 1 and y.dim() == 1 and not y.is_floating_point()


def check_output(network: Any, inputs: Sequence[Any], output: Any) -> None:
    """Check that the output of a network is valid.

    Args:
        network: any module with the contract's attributes.
        inputs: the arguments of its `forward`.
        output: what `forward` returned. Values are checked unless it is a meta or fake tensor.

    Raises:
        CodeError: the output is not a tensor, is not finite, or for a denoiser is not (N, out_channels, H,
            W); or it is a `TrainingOutput` outside of training mode or with parts that are not (N,) and
            finite.
    """
    name = getattr(network, "name", "") or type(network).__name__
    if isinstance(output, TrainingOutput) and network.training:
        prediction, *others = parts_of(output)
        check_output(network, inputs, prediction)
        for other in others:
            if other.shape != prediction.shape[:1] or not (other.is_meta or other.isfinite().all()):
                raise CodeError(
                    f"{name}: log_variance and losses of a TrainingOutput are finite and "
                    f"(N,) = {tuple(prediction.shape[:1])}, not {tuple(other.shape)}",
                    network,
                )
        return
    if not isinstance(output, Tensor):
        raise CodeError(f"{name}: forward returns {type(output).__name__}, not a tensor", network)
    if is_denoiser(network, inputs):
        n, _, height, width = inputs[0].shape
        expected = (n, network.out_channels, height, width)
        if tuple(output.shape) != expected:
            raise CodeError(
                f"{name}: the output is {tuple(output.shape)}, not (N, out_channels, H, W) = {expected}",
                network,
            )
    if type(output) is Tensor and not output.is_meta:
        wild = int((~output.isfinite()).sum())
        if wild:
            raise CodeError(f"{name}: {wild} of {output.numel()} output values are not finite", network)


def adopt(name: str, factory: Callable[..., Any], overrides: dict[str, Any]) -> nn.Module:
    """Call a factory and check that the network that it returns can be measured.

    A plain `nn.Module` gets the attributes of the contract that it does not set. Their values come from
    `overrides`, else from the factory's defaults, else they are 32×32 inputs of 4 channels, 1000 classes and
    no learned variance. The module also gets the declarations of `Backbone`.

    Raises:
        UsageError: one of our networks refuses the overrides.
        CodeError: the factory does not return a module, or returns one that is compiled or scripted, has
            uninitialised lazy parameters, cannot be copied, or has an attribute that conflicts with the
            contract.
    """
    try:
        model = factory(**overrides)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    if not isinstance(model, nn.Module):
        raise CodeError(f"backbone {name!r} must make an nn.Module, not {type(model).__name__}", factory)
    if isinstance(model, torch.jit.ScriptModule) or "_orig_mod" in model._modules:
        compiler = "TorchScript" if isinstance(model, torch.jit.ScriptModule) else "torch.compile"
        raise CodeError(
            f"backbone {name!r} is what {compiler} made of a network: return it as it was, and --compile "
            "compiles it",
            factory,
        )
    lazy = [name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)]
    if lazy:
        raise CodeError(f"backbone {name!r}: {lazy[0]} has no shape yet, as a lazy layer has none", factory)
    if not isinstance(model, Backbone):
        _complete(model, factory, overrides)
    if not type(model).__module__.startswith("registry.networks."):
        _check_attributes(name, model, factory)
        _check_copies(name, model, factory)
    named: Any = model
    named.name, named.overrides = name, overrides
    return model


def _check_attributes(name: str, model: Any, factory: Callable[..., Any]) -> None:
    """Raise `CodeError` unless the sizes that a network states are whole numbers."""
    least = {"num_classes": 0, "in_channels": 1, "out_channels": 1, "input_size": 1}
    for attribute, smallest in least.items():
        value = getattr(model, attribute)
        sides = value if attribute == "input_size" and isinstance(value, tuple | list) else (value,)
        if len(sides) in (1, 2) and all(type(side) is int and side >= smallest for side in sides):
            continue
        needed = {"num_classes": "the number of classes, 0 for none", "input_size": "a side or (H, W)"}
        raise CodeError(
            f"backbone {name!r}: {attribute} must be {needed.get(attribute, 'a number of channels')}, "
            f"not {value!r}",
            factory,
        )


def _check_copies(name: str, model: nn.Module, factory: Callable[..., Any]) -> None:
    """Raise `CodeError` unless the network can be copied, as its deployed form requires."""
    for part, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            package, _, norm = type(hook).__module__.rpartition(".")
            if package == "torch.nn.utils" and norm in ("weight_norm", "spectral_norm"):
                raise CodeError(
                    f"backbone {name!r} cannot be copied, for {part or 'it'} has {package}.{norm}: use "
                    f"{package}.parametrizations.{norm}",
                    factory,
                )
    kept = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        copy.deepcopy(model, kept)
    except Exception as error:
        raise CodeError(
            f"backbone {name!r} cannot be copied by copy.deepcopy: {reason(error)}", factory
        ) from error


def _complete(model: Any, factory: Callable[..., Any], overrides: dict[str, Any]) -> None:
    """Add the attributes and methods of the contract that a plain module lacks."""
    attributes = {"input_size": 32, "in_channels": 4, "num_classes": 1000, "learn_sigma": False}
    own = {p.name: p.default for p in inspect.signature(factory).parameters.values()}
    for attribute, value in attributes.items():
        if own.get(attribute, inspect.Parameter.empty) is not inspect.Parameter.empty:
            value = own[attribute]
        if not hasattr(model, attribute):
            setattr(model, attribute, overrides.get(attribute, value))
    if not hasattr(model, "out_channels"):
        model.out_channels = model.in_channels * (2 if model.learn_sigma else 1)
    if not hasattr(model, "null_class"):
        model.null_class = _null_class(model)
    for attribute in ("objective", "beta_schedule", "guided_channels"):
        if not hasattr(model, attribute):
            setattr(model, attribute, getattr(Backbone, attribute))
    for method in ("example_inputs", "stages", "long_skips", "deploy"):
        if not hasattr(model, method):
            setattr(model, method, getattr(Backbone, method).__get__(model))
        elif not inspect.ismethod(getattr(model, method)):
            raise CodeError(
                f"{type(model).__name__}.{method} is no method, as a backbone's is: rename that attribute",
                model,
            )
