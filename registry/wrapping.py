"""Third-party networks as backbones, without a change to their code.

@registry.register("my-edm")
def make(input_size=32, num_classes=1000):
    return registry.wrap(
        TheirNet(...), predicts="x0", time="sigma", input_size=input_size, in_channels=4,
        num_classes=num_classes, call=lambda net, x, t, y: net(x, t, class_labels=one_hot(y)),
    )
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from registry.backbone import Backbone, Size
from registry.checkpoints import Rule
from registry.errors import CodeError, UsageError
from registry.layers.embeddings import LabelDropout
from registry.schedules import BetaSchedule
from registry.training_output import TrainingOutput
from registry.variables import OwnTime, Predicts, Space, Time, Variables, natural, through

Call = Callable[[Any, Tensor, Tensor, Any], Any]  # (network, x, its time, labels) -> what it returns
Output = Callable[[Any], Tensor] | str | int
Losses = Literal["refuse", "add", "drop"] | Callable[[Any], Mapping[str, Tensor]]

_OBJECTIVES = {"step": "ddpm", "alphas_cumprod": "ddpm", "unit": "flow", "-unit": "flow"}
_PREDICTION = ("sample", "prediction", "pred")  # names of attributes and keys that may hold the prediction


def wrap(
    net: nn.Module,
    *,
    predicts: Predicts,
    time: Time | OwnTime,
    space: Space | None = None,
    input_size: Size,
    in_channels: int,
    num_classes: int | None = None,
    size_multiple: int = 1,
    fixed_size: bool = False,
    call: Call | None = None,
    output: Output | None = None,
    learn_sigma: bool = False,
    losses: Losses = "refuse",
    null_class: int | None = None,
    label_dropout: float = 0.0,
    beta_schedule: BetaSchedule = "linear",
    sigma_data: float = 0.5,
    sigma_range: tuple[float, float] | None = None,
    guided_channels: int | None = None,
    prefix: str | tuple[str, ...] = "",
) -> Wrapped:
    """Wrap a network of any parametrisation, so that it fulfils the contract of `registry.Backbone`.

    The natural objective depends on the time: `ddpm` for `step` and `alphas_cumprod`, `flow` for `unit` and
    `-unit`, `edm` for `sigma` and `log_sigma`. For a custom time it is `ddpm` in the space `vp`, else `edm`.

    Args:
        net: any module; it is called, never changed.
        predicts, time, beta_schedule, sigma_data, sigma_range: see `registry.variables.Variables`.
        space: see `registry.variables.Variables`; by default `ve` for the times `sigma` and `log_sigma`, else
            `vp`.
        input_size: side of the square input grid in cells, or (H, W).
        in_channels: channels of the input.
        num_classes: number of classes without the null class; None or 0: a network without labels.
        size_multiple: H and W must be multiples of this many cells.
        fixed_size: whether the network takes inputs of `input_size` alone, as with a position table.
        call: (net, x, t, y) -> the network's output. Needed unless the call is `net(x, t, y)`, or `net(x, t)`
            without labels. t is the network's own time, (N,); y is the labels, (N,) integers.
        output: where the output holds the prediction: an attribute or key, a position, or a function of the
            output. By default the tensor itself, `.sample`, or the first element of a tuple.
        learn_sigma: whether the output has 2·C channels. The second half is the variance range of DDPM; it is
            ignored if the natural objective is not `ddpm`.
        losses: what to do with scalars and (N,) tensors with a gradient that the network returns in training
            mode beside the prediction: `refuse`, `add` to the loss, or `drop`; or a function of the output
            that returns the losses to add, by name.
        null_class: index of the null class, if the network drops labels in training itself.
        label_dropout: probability that training replaces a label by the null class `num_classes`, for which
            the network must have an embedding.
        guided_channels: see `registry.Backbone`.
        prefix: prefix of the parameter names in published weights, such as `model.diffusion_model.`; several
            for a network of several parts of the file. Other entries of the file are ignored.

    Raises:
        UsageError: a value that is none of these, or a size out of range.
    """
    if space is None:
        space = "ve" if time in ("sigma", "log_sigma") else "vp"
    own = Variables(
        predicts,
        time,
        space,
        beta_schedule=beta_schedule,
        sigma_data=sigma_data,
        sigma_range=sigma_range,
    )
    if not isinstance(net, nn.Module):
        raise UsageError(f"registry.wrap takes an nn.Module, not {type(net).__name__}")
    if label_dropout and (null_class is not None or not num_classes):
        raise UsageError("label_dropout is for a network with classes that drops no labels itself")
    classes = num_classes or 0
    wrapped = Wrapped(
        net,
        own,
        call or (_with_labels if classes else _without_labels),
        output,
        losses,
        learn_sigma,
        fixed_size,
        input_size=input_size,
        in_channels=in_channels,
        num_classes=classes,
        size_multiple=size_multiple,
    )
    wrapped.null_class = null_class
    if label_dropout:
        wrapped.labels = LabelDropout(classes, label_dropout)
        wrapped.null_class = classes
    wrapped.beta_schedule, wrapped.guided_channels = beta_schedule, guided_channels
    wrapped.checkpoint_prefixes = (prefix,) if isinstance(prefix, str) else tuple(prefix)
    return wrapped


def _with_labels(net: Any, x: Tensor, t: Tensor, y: Tensor) -> Any:
    return net(x, t, y)


def _without_labels(net: Any, x: Tensor, t: Tensor, y: Tensor) -> Any:
    return net(x, t)


class Wrapped(Backbone):
    """What `wrap` returns: a backbone that converts the network's output to that of its natural objective.

    Args:
        net, output, losses, fixed_size: see `wrap`.
        own: the network's parametrisation.
        call: how the network is called.
        two_halves: whether the network's output has 2·C channels.
        **sizes: arguments of `Backbone`.

    Attributes:
        objective, natural: the natural objective's name and parametrisation.
        found: where the output held the prediction, in words; empty before the first call.
        bare: whether `forward` omits the conversion around the network; see `counted`.
    """

    checkpoint_names: ClassVar[list[Rule]] = [("^", "net.")]
    checkpoint_prefixes: tuple[str, ...] = ("",)
    objective: str  # type: ignore[misc]
    beta_schedule: str  # type: ignore[misc]
    guided_channels: int | None  # type: ignore[misc]
    null_class: int | None = None

    def __init__(
        self,
        net: nn.Module,
        own: Variables,
        call: Call,
        output: Output | None,
        losses: Losses,
        two_halves: bool,
        fixed_size: bool,
        **sizes: Any,
    ) -> None:
        by_space = "ddpm" if own.space == "vp" else "edm"
        objective = by_space if callable(own.time) else _OBJECTIVES.get(own.time, "edm")
        super().__init__(learn_sigma=two_halves and objective == "ddpm", **sizes)
        self.net, self.own, self.call, self.output, self.losses = net, own, call, output, losses
        self.two_halves, self.objective, self.found, self.bare = two_halves, objective, "", False
        self.fixed_size = fixed_size
        self.labels: nn.Module = nn.Identity()
        form = natural(objective, own.beta_schedule)
        assert form is not None
        self.natural = form

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor | TrainingOutput:
        self.check_input(x, fixed_size=self.fixed_size)
        if self.num_classes:
            y = self.labels(y)
        whole, losses = x, {}

        def predict(x: Tensor, t: Tensor) -> Tensor:
            nonlocal whole, losses
            returned = self.call(self.net, x, t, y)
            whole = self._prediction(returned)
            losses = self._losses(returned, whole) if self.training else {}
            return whole[:, : self.in_channels]

        if self.bare or self.own == self.natural:
            predict(x, t)
            output = whole[:, : self.out_channels]
        else:
            output = through(predict, x, t, given=self.natural, own=self.own)
            if self.learn_sigma:
                output = torch.cat([output, whole[:, self.in_channels :]], dim=1)
        return TrainingOutput(output, losses=losses) if losses else output

    def predict(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The network's own prediction: x (N, C, H, W), its time t (N,), y (N,) -> (N, C, H, W)."""
        return self._prediction(self.call(self.net, x, t, y))[:, : self.in_channels]

    def described(self) -> str:
        """The declaration and where the prediction was found, in one line.

        Raises:
            Exception: any error that the network raises with its example inputs.
        """
        with torch.no_grad():
            self.eval()(*self.example_inputs(1))
        return f"wrapped: {self.own}; its prediction is {self.found}"

    @property
    def code_of(self) -> nn.Module:
        """The wrapped network, whose code an error message names; see `registry.errors.CodeError`."""
        return self.net

    def counted(self) -> Wrapped:
        """A copy without the conversion around the network, so that only the network is counted."""
        bare = copy.copy(self)
        bare.bare = True
        return bare

    def stages(self) -> dict[str, nn.Module]:
        own: Any = getattr(self.net, "stages", None)
        return own() if inspect.ismethod(own) else dict(self.net.named_children())

    def _prediction(self, returned: Any) -> Tensor:
        """The prediction in the network's output.

        Raises:
            CodeError: there is none, or its channels differ from the declaration.
        """
        kind = type(returned).__name__
        where = self.output
        if where is None and not isinstance(returned, Tensor):
            named = [name for name in _PREDICTION if hasattr(returned, name) or _has(returned, name)]
            where = named[0] if named else 0 if isinstance(returned, tuple | list) and returned else None
            if where is None:
                raise CodeError(
                    f"the network returns {kind}: say by output= where its prediction is, an attribute, a "
                    "key, a position or a function",
                    self.net,
                )
        try:
            if where is None:
                found, self.found = returned, "the tensor itself"
            elif callable(where):
                found, self.found = where(returned), f"by a function of {kind}"
            elif isinstance(where, int):
                found, self.found = returned[where], f"element {where} of {kind}"
            elif hasattr(returned, where):
                found, self.found = getattr(returned, where), f".{where} of {kind}"
            else:
                found, self.found = returned[where], f"key {where!r} of {kind}"
        except (LookupError, TypeError) as error:
            raise CodeError(
                f"output = {where!r} is not in the {kind} that the network returns", self.net
            ) from error
        if not isinstance(found, Tensor):
            raise CodeError(f"output gives {type(found).__name__}, not a tensor", self.net)
        channels = self.in_channels * (1 + self.two_halves)
        if found.dim() == 4 and found.shape[1] != channels:
            twice = found.shape[1] == 2 * self.in_channels and not self.two_halves
            raise CodeError(
                f"the prediction has {found.shape[1]} channels, not {channels}"
                + (": say learn_sigma=True, where the second half is a variance" if twice else ""),
                self.net,
            )
        return found

    def _losses(self, returned: Any, prediction: Tensor) -> dict[str, Tensor]:
        """The network's own losses by name, (N,) each.

        Raises:
            CodeError: the network returns losses, and `losses` is `refuse`.
        """
        n = len(prediction)
        if callable(self.losses):
            return {name: _each(value, n) for name, value in self.losses(returned).items()}
        found = {
            name: value
            for name, value in _parts(returned)
            if isinstance(value, Tensor) and value.requires_grad and value.shape in ((), (n,))
        }
        if found and self.losses == "refuse":
            raise CodeError(
                f"in training mode the network returns what looks like a loss ({', '.join(found)}): say "
                'losses="add" or losses="drop"',
                self.net,
            )
        return {name: _each(value, n) for name, value in found.items()} if self.losses == "add" else {}


def _has(returned: Any, key: str) -> bool:
    return isinstance(returned, Mapping) and key in returned


def _parts(returned: Any) -> Iterable[tuple[str, Any]]:
    """The parts of an output, by name."""
    if isinstance(returned, Mapping):
        return returned.items()
    if isinstance(returned, tuple | list):
        return ((f"loss_{i}", value) for i, value in enumerate(returned))
    return (
        vars(returned).items() if hasattr(returned, "__dict__") and not isinstance(returned, Tensor) else ()
    )


def _each(loss: Tensor, n: int) -> Tensor:
    """A loss, scalar or (n,), as (n,)."""
    return loss.expand(n)
