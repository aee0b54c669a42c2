"""Checks of a network before it is measured: shapes, conditions, skips, gradients, dtypes.

    for result in check(registry.create("udit-t")):
        print(result.status, result.check, result.reason)

`CHECKS`, at the end, lists all checks. Each runs on its own copy of the network, in float32, without dropout
or torch.compile. Noise is added to the parameters, because zero gates (adaLN-Zero) and a zero output layer
would hide whether anything behind them works.

If a check fails, no number of this network can be trusted. A warning is a limit of the network that makes no
number wrong.
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from registry.backbone import check_output, height_width, is_denoiser
from registry.errors import CodeError, reason, user_frame
from registry.layers.embeddings import LabelDropout
from registry.meaning import meaning
from registry.schedules import NUM_TRAIN_TIMESTEPS
from registry.training_output import parts_of, prediction_of
from registry.wrapping import Wrapped

Status = Literal["pass", "warn", "fail", "n/a"]
Verdict = tuple[Status, str]  # status, reason

SEED = 0

# Largest difference of two outputs that count as equal, relative to the largest output.
ROUNDING = 1e-5  # of one computation done twice; an input that changes the output by more has an effect
NEAR = 1e-2  # of one computation in float32 by other kernels, such as TF32
BF16 = 0.1
DEPLOYED = 1e-9  # in float64
MERGED = 1e-4  # of the deployed form of a network that computes only in float32

EDM_RANGE = 0.002, 80.0  # σ of EDM's sampler
DRAWS = 64  # pairs of labels to draw; at a dropout of 10%, one of them is almost certainly dropped


@dataclass(frozen=True)
class Result:
    """Outcome of one check. `reason` is one line: what was found, or what to correct."""

    check: str
    status: Status
    reason: str


def check(model: nn.Module, *, progress: Callable[[str, int, int], None] | None = None) -> list[Result]:
    """Run every check of `CHECKS` on a network. The network does not change.

    Args:
        model: a network that fulfils the contract of `registry.Backbone`, on any device.
        progress: called before each check with its name, the number of checks done, and the number of checks.

    Returns:
        One result for each check, in order; repeated calls return the same results. If the network raises an
        error, the check fails, and the reason is the error's first line and its place in the user's file.
    """
    results: list[Result] = []
    for name, run in CHECKS.items():
        if progress:
            progress(name, len(results), len(CHECKS))
        with _repeatable():
            try:
                copied = (
                    _as_it_is(model) if run is _meaning else _opened(model, label_dropout=run is _null_class)
                )
                status, found = run(copied)
            except CodeError as error:
                status, found = "fail", str(error)
            except Exception as error:
                frame = user_frame(error)
                place = f" ({frame.filename}, line {frame.lineno})" if frame else ""
                status, found = "fail", reason(error) + place
        if status == "fail" and name in WARNINGS:
            status = "warn"
        results.append(Result(name, status, found))
    return results


def check_before_training(model: nn.Module) -> None:
    """Run the checks that training needs; errors of the network propagate.

    Args:
        model: see `check`.

    Raises:
        CodeError: the network cannot be restored from its state dict, or its null class is not trained.
    """
    for run in (_rebuilt_from_weights, _null_class):
        with _repeatable():
            status, found = run(_opened(model, label_dropout=run is _null_class))
        if status == "fail":
            raise CodeError(found, model)


def has_unused_parameters(model: nn.Module) -> bool:
    """Whether a parameter that is trained takes no part in the output.

    Args:
        model: see `check`.
    """
    with _repeatable():
        net = _opened(model)
        _backward(net.train()(*net.example_inputs(2)))
        return any(p.requires_grad and p.grad is None for p in net.parameters())


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
    """Within this context PyTorch's random numbers start from `SEED`, and nothing is compiled.

    Afterwards the state of the random number generators is restored.
    """
    cuda = torch.cuda.is_initialized()  # a network on the CPU must not initialise CUDA
    with (
        torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else ()),
        torch.compiler.set_stance("force_eager"),
    ):
        torch.default_generator.manual_seed(SEED)
        if cuda:
            torch.cuda.manual_seed_all(SEED)
        yield


def _as_it_is(model: nn.Module) -> Any:
    """A copy in float32 and eval mode."""
    return copy.deepcopy(model).float().eval()


@torch.no_grad()
def _opened(model: nn.Module, *, label_dropout: bool = False) -> Any:
    """A copy in float32 and eval mode, without dropout, with noise added so that no gate is zero.

    Args:
        label_dropout: keep the dropout of labels.
    """
    net = _as_it_is(model)
    net.zero_grad()
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(
            module, nn.MultiheadAttention if label_dropout else (LabelDropout, nn.MultiheadAttention)
        ):
            module.dropout = 0.0
    for name, parameter in net.named_parameters():
        if not parameter.numel():
            raise CodeError(f"the parameter {name} of shape {tuple(parameter.shape)} has no elements", model)
        if parameter.is_floating_point():
            # Half the standard deviation that preserves variance, so that deep networks stay finite.
            std = 0.5 / math.sqrt(math.prod(parameter.shape[1:])) if parameter.dim() > 1 else 0.1
            parameter.add_(torch.randn_like(parameter), alpha=std)
    return net


# ---- helpers of the checks ----


@torch.no_grad()
def _forward(net: Any, inputs: Sequence[Tensor]) -> Tensor:
    out = net(*inputs)
    if net.training:
        out = prediction_of(out)
    if not isinstance(out, Tensor):
        raise CodeError(f"forward returns {type(out).__name__}, not a tensor", net)
    wild = int((~out.isfinite()).sum())
    if wild:  # comparisons with it would mean nothing
        raise CodeError(f"{wild} of {out.numel()} output values are not finite", net)
    return out


def _backward(output: Any) -> None:
    """Compute gradients of a random sum of everything that a network has returned."""
    torch.stack([(part * torch.randn_like(part)).sum() for part in parts_of(output)]).sum().backward()


def _difference(a: Tensor, b: Tensor) -> float:
    """max|a − b| / max|b|; infinite if the shapes differ."""
    if a.shape != b.shape:
        return math.inf
    a, b = a.double(), b.double()
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item()


def _least_change(a: Tensor, b: Tensor) -> float:
    """`_difference` of the sample with the smallest difference."""
    return min(map(_difference, a, b))


def _others(net: Any, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Other inputs of the same shape; for a denoiser, step and label of every sample differ."""
    others = net.example_inputs(len(inputs[0]))
    if not is_denoiser(net, inputs):
        return others
    _, t, y = inputs
    other = {"flow": (t + 0.5) % 1, "edm": 10 * t}.get(net.objective, (t + 500) % 1000)
    return others[0], other, (y + 1) % net.num_classes if net.num_classes else y + 1


def _of_denoisers(run: Callable[[Any], Verdict]) -> Callable[[Any], Verdict]:
    """Decorator: a check that applies only to networks that take x, t and y."""

    def checked(net: Any) -> Verdict:
        if not is_denoiser(net, net.example_inputs(2)):
            return "n/a", "the network takes other inputs than x (N, C, H, W), t, y"
        return run(net)

    return checked


def _some(names: list[str]) -> str:
    """The first few names of a list."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _of_output(difference: float) -> str:
    return f"{difference:.1e} of the largest output"


# ---- the checks: network -> verdict. The network comes from `_opened`; a check may change it ----


def _output_shape(net: Any) -> Verdict:
    inputs = net.example_inputs(2)
    out = _forward(net, inputs)
    check_output(net, inputs, out)
    expected = (2, net.out_channels, *height_width(net.input_size))
    if tuple(out.shape) != expected:
        return "fail", f"the output is {tuple(out.shape)}, not (N, out_channels, H, W) = {expected}"
    if not out.is_floating_point():
        return "fail", f"the output is {out.dtype}, not floating-point"
    return "pass", f"{expected}, finite"


@_of_denoisers
def _depends_on_t(net: Any) -> Verdict:
    x, _, y = inputs = net.example_inputs(2)
    _, other, _ = _others(net, inputs)
    change = _least_change(_forward(net, (x, other, y)), _forward(net, inputs))
    if change > ROUNDING:
        return "pass", f"another step changes the output by {_of_output(change)}"
    return "fail", f"t has no effect: another step changes the output by only {_of_output(change)}"


@_of_denoisers
def _ends_of_time(net: Any) -> Verdict:
    """Samplers call a network there; a table of steps may be too short, a logarithm infinite."""
    x, _, y = net.example_inputs(2)
    first, last = {"flow": (0.0, 1.0), "edm": EDM_RANGE}.get(net.objective, (0, NUM_TRAIN_TIMESTEPS - 1))
    _forward(net, (x, torch.tensor([first, last], device=x.device), y))
    return "pass", f"finite at t = {first} and {last}"


@_of_denoisers
def _depends_on_y(net: Any) -> Verdict:
    x, t, _ = inputs = net.example_inputs(2)
    if net.num_classes == 1:
        return "n/a", "there is one class only"
    *_, other = _others(net, inputs)
    change = _least_change(_forward(net, (x, t, other)), _forward(net, inputs))
    if not net.num_classes:
        if change <= ROUNDING:
            return "n/a", "unconditional, and y has no effect"
        return "fail", f"num_classes is 0, yet another label changes the output by {_of_output(change)}"
    if change > ROUNDING:
        return "pass", f"another label changes the output by {_of_output(change)}"
    return "fail", f"y has no effect: another label changes the output by only {_of_output(change)}"


def _long_skips(net: Any) -> Verdict:
    skips = net.long_skips()
    if not skips:
        return "n/a", "the network names no long skips"
    inputs = net.example_inputs(2)
    whole = _forward(net, inputs)
    idle = []
    for name, cut in skips.items():
        with cut():
            if _difference(_forward(net, inputs), whole) <= ROUNDING:
                idle.append(name)
    if idle:
        return "fail", f"the output stays the same without {_some(idle)}"
    return "pass", f"each of {len(skips)} changes the output when it is cut"


def _no_leak(net: Any) -> Verdict:
    inputs = net.example_inputs(2)
    whole = _forward(net, inputs)
    mixed = [torch.cat([a[:1], b[1:]]) for a, b in zip(inputs, _others(net, inputs), strict=True)]
    leak = _difference(_forward(net, mixed)[:1], whole[:1])
    if leak > ROUNDING:
        return "fail", f"sample 0 changes by {_of_output(leak)} when only sample 1 is replaced"
    alone = torch.cat([_forward(net, [a[i : i + 1] for a in inputs]) for i in range(2)])
    gap = _difference(alone, whole)
    if gap > NEAR:
        return "fail", f"a batch of 2 and its samples one by one differ by {_of_output(gap)}"
    return "pass", f"a batch of 2 and its samples one by one agree to {_of_output(gap)}"


def _gradients(net: Any) -> Verdict:
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    if not trained:
        return "n/a", "no parameter is trainable"
    with torch.enable_grad():
        _backward(net.train()(*net.example_inputs(2)))
    # Rows of a table that were not drawn have no gradient, but the whole table must have one.
    dead = [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
    if dead:
        net.eval()
        inputs = net.example_inputs(2)
        whole = _forward(net, inputs)
        with torch.no_grad():
            for name in dead:
                trained[name].mul_(2).add_(1)
        if _difference(_forward(net, inputs), whole) > ROUNDING:
            return "fail", f"no gradient reaches {_some(dead)}, on which the output depends"
        return "warn", f"no gradient reaches {_some(dead)}: the output does not depend on it"
    wild = [name for name, p in trained.items() if not p.grad.isfinite().all()]
    if wild:
        return "fail", f"the gradient is not finite at {_some(wild)}"
    return "pass", f"finite and not zero at all {len(trained)} parameters"


def _train_equals_eval(net: Any) -> Verdict:
    inputs = net.example_inputs(2)
    evaluated = _forward(net, inputs)
    gap = _difference(_forward(net.train(), inputs), evaluated)
    if gap <= NEAR:
        return "pass", f"without dropout they agree to {_of_output(gap)}"
    return "fail", (
        f"train and eval mode differ by {_of_output(gap)} with dropout off: "
        "statistics over the batch, or a dropout that is no nn.Dropout"
    )


def _float32_alone(net: Any) -> str:
    """Why a network cannot compute in float64; empty if it can."""
    inputs = net.example_inputs(2)
    _forward(net, inputs)  # an error that has nothing to do with float64 propagates
    try:
        out = _forward(
            copy.deepcopy(net).double(), [a.double() if a.is_floating_point() else a for a in inputs]
        )
    except Exception as error:
        return f"the network computes in float32 alone ({reason(error)})"
    if out.dtype == torch.float64:
        return ""
    return f"the network computes in {_dtype(out)} alone, which it returns for float64"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _deployed_equals_trained(net: Any) -> Verdict:
    before = {name: v.clone() for name, v in net.state_dict().items() if isinstance(v, Tensor)}
    alone = _float32_alone(net)
    precision, bound = ("float32", MERGED) if alone else ("float64", DEPLOYED)
    inputs = (net if alone else net.double()).example_inputs(2)
    trained = _forward(net, inputs)
    once = _forward(net.deploy(), inputs)
    after = net.state_dict()
    changed = [
        name
        for name, value in before.items()
        if name not in after or not torch.equal(after[name], value.to(after[name].dtype))
    ]
    if changed:
        return "fail", f"deploy() changes the network it copies, at {_some(changed)}: merge into new tensors"
    gap = _difference(once, trained)
    if gap > bound:
        return (
            "fail",
            f"the deployed network differs by {_of_output(gap)} in {precision} (at most {bound:.0e})",
        )
    again = _difference(_forward(net.deploy(), inputs), once)
    if again:
        return "fail", f"deploying a second time changes the output by {_of_output(again)}"
    agree = f"in {precision} they agree to {_of_output(gap)}"
    return ("n/a", f"{alone}; {agree}") if alone else ("pass", agree)


def _rebuilt_from_weights(net: Any) -> Verdict:
    from registry import create, names

    name = getattr(net, "name", "")
    if name not in names():
        return "n/a", "the network was not made by registry.create"
    if not any(parameter.requires_grad for parameter in net.parameters()):
        return "n/a", "no parameter is trainable"
    state = net.state_dict()
    strange = [entry for entry, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        return "fail", f"{_some(strange)} of its state dict is not a tensor; a checkpoint holds only tensors"
    inputs = net.example_inputs(2)
    torch.manual_seed(SEED + 1)
    other: Any = create(name, **net.overrides).to(inputs[0].device).float().eval()
    try:
        other.load_state_dict(state)
    except RuntimeError as error:
        return "fail", f"its weights cannot be loaded: {' '.join(str(error).split())}"
    gap = _difference(_forward(other, inputs), _forward(net, inputs))
    # A GPU may sum in a different order in each call, and in TF32.
    if gap <= (ROUNDING if inputs[0].device.type == "cpu" else NEAR):
        return "pass", f"a second network with its weights agrees to {_of_output(gap)}"
    return "fail", (
        f"a second network with its weights differs by {_of_output(gap)}: layers in a plain list, or drawn "
        "numbers that are no buffer, are not in its state dict"
    )


def _bf16_autocast(net: Any) -> Verdict:
    inputs = net.example_inputs(2)
    with torch.autocast(inputs[0].device.type, dtype=torch.bfloat16):
        out = _forward(net, inputs)
    gap = _difference(out, _forward(net, inputs))
    if gap <= BF16:
        return "pass", f"differs from float32 by {_of_output(gap)}"
    return (
        "fail",
        f"differs from float32 by {_of_output(gap)} (at most {BF16}): keep what needs it in float32",
    )


def _float64(net: Any) -> Verdict:
    if alone := _float32_alone(net):
        return "n/a", alone
    inputs = net.example_inputs(2)
    single = _forward(net, inputs)
    out = _forward(net.double(), [a.double() if a.is_floating_point() else a for a in inputs])
    gap = _difference(single, out)
    if gap <= NEAR:
        return "pass", f"float32 differs from it by {_of_output(gap)}"
    return "fail", f"float32 differs from float64 by {_of_output(gap)} (at most {NEAR:.0e})"


@_of_denoisers
def _null_class(net: Any) -> Verdict:
    """Takes the network with its label dropout."""
    null, classes = net.null_class, net.num_classes
    dropping = [part for part in net.modules() if isinstance(part, LabelDropout) and part.dropout > 0]
    if not classes:
        return "n/a", "unconditional"
    if dropping:
        if null == dropping[0].num_classes:
            return "pass", f"a LabelDropout trains {null}"
        return (
            "fail",
            f"null_class is {null}, but the LabelDropout puts {dropping[0].num_classes} in its place",
        )
    others: dict[str, Tensor] = {}
    for _ in range(8):  # several inputs, because a unit that is zero for one gets no gradient from it
        others = _reached(net, others)
    if null is None:
        tables = {f"{n}.weight": m for n, m in net.named_modules() if isinstance(m, nn.Embedding)}
        rows = {
            name: (torch.arange(classes + 1) == classes) & ~others[name]
            for name, table in tables.items()
            if table.num_embeddings == classes + 1
        }
        trained = [name for name in rows if name not in _untrained(net, rows)]
        if not trained:
            return "n/a", "the network declares no null class, and drops no labels"
        return "warn", (
            f"labels are dropped in training, for the last row of {_some(trained)}: declare null_class = "
            f"{classes}, and the network can be guided"
        )
    try:
        nulls = _reached(net, {}, null)
    except Exception as error:
        return "fail", f"null_class is {null}, which forward does not take ({reason(error)})"
    rows = {name: reached & ~others[name] for name, reached in nulls.items()}
    rows = {name: own for name, own in rows.items() if own.any()}
    if not rows:
        return "n/a", f"the null class {null} has no weights of its own"
    if untrained := _untrained(net, rows):
        return "fail", (
            f"null_class is {null}, yet in training no gradient reaches its weights in "
            f"{_some(list(untrained))}: drop labels in forward, or give the network a "
            "registry.layers.embeddings.LabelDropout, and bench train drops them"
        )
    return "pass", f"labels are dropped in training: a gradient reaches {_some(list(rows))}"


def _untrained(net: Any, rows: dict[str, Tensor]) -> Collection[str]:
    """Names of parameters whose given rows get no gradient in up to `DRAWS` training batches."""
    net.train()
    reached: dict[str, Tensor] = {}
    left: Collection[str] = rows
    for _ in range(DRAWS):
        if left:
            reached = _reached(net, reached)
            left = [name for name in left if not (reached[name] & rows[name]).any()]
    return left


@torch.enable_grad()
def _reached(net: Any, before: dict[str, Tensor], label: int | None = None) -> dict[str, Tensor]:
    """Which rows of each parameter get a gradient from a new batch, or got one before.

    Args:
        before: what this function returned for the previous batches.
        label: label of all samples; None: the labels of the example inputs.

    Returns:
        name -> (rows,) bool; a vector is one row.
    """
    net.zero_grad()
    x, t, y = net.example_inputs(2)
    _backward(net(x, t, y if label is None else torch.full_like(y, label)))
    reached = {}
    for name, parameter in net.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        rows = grad.flatten(1) if grad.dim() > 1 else grad.reshape(1, -1)
        reached[name] = rows.any(dim=1).cpu() | before.get(name, torch.tensor(False))
    return reached


@_of_denoisers
def _sizes(net: Any) -> Verdict:
    x, t, y = net.example_inputs(2)
    n, channels, height, width = x.shape
    taken: list[str] = []
    refused: list[str] = []
    half = max(height // 2, 1), max(width // 2, 1)
    for h, w in ((height + 1, width + 1), (height, width + 1), (height, 2 * width), half):
        out, problem = _try(net, (torch.randn(n, channels, h, w).to(x), t, y), {h, w})
        if problem:
            return "fail", f"a {h}×{w} input {problem}"
        if out is not None and tuple(out.shape[2:]) != (h, w):
            return "fail", f"a {h}×{w} input gives a {'×'.join(map(str, out.shape[2:]))} output"
        (refused if out is None else taken).append(f"{h}×{w}")
    wrong = f"{channels + 1} channels"
    out, problem = _try(net, (torch.randn(n, channels + 1, height, width).to(x), t, y), {channels + 1})
    if problem:
        return "fail", f"an input of {wrong} {problem}"
    if out is not None:
        return "fail", f"an input of {wrong} is taken, where in_channels is {channels}"
    return "pass", f"takes {', '.join(taken) or 'none'}; refuses {', '.join((*refused, wrong))}"


def _try(net: Any, inputs: Sequence[Tensor], numbers: set[int]) -> tuple[Tensor | None, str]:
    """The output, or None if the network refuses the input, and what is wrong with the way it does so."""
    try:
        return _forward(net, inputs), ""
    except ValueError as error:  # UsageError is one
        if numbers <= {int(number) for number in re.findall(r"\d+", str(error))}:
            return None, ""
        problem = f"is refused without being named ({reason(error)})"
    except CodeError as error:
        return None, f"is taken, but {error}"
    except Exception as error:
        problem = f"breaks the network ({reason(error)})"
    if isinstance(net, Wrapped):
        return None, f"{problem}: give registry.wrap in_channels, and size_multiple or fixed_size=True"
    return None, f"{problem}: call self.check_input(x) first, or raise registry.UsageError with what it got"


def _deterministic(net: Any) -> Verdict:
    inputs = net.example_inputs(2)
    first, second = _forward(net, inputs), _forward(net, inputs)
    if torch.equal(first, second):
        return "pass", "two calls are equal bit for bit"
    return "fail", f"two calls in eval mode differ by {_of_output(_difference(second, first))}"


@_of_denoisers
def _meaning(net: Any) -> Verdict:
    """Takes the network with its own weights, without added noise."""
    found = meaning(net)
    if found is None:
        return (
            "n/a",
            f"objective {net.objective} does not state its variables, or the output is no prediction",
        )
    declared, other = found
    if other is None and not declared.fits:
        return (
            "pass",
            "not checked: an untrained network without preconditioning predicts nothing yet",
        )
    if other is None:
        return "pass", f"as {declared.form} it denoises smooth images"
    return "fail", (
        f"it does not behave as {declared.form}, but as {other.form}: "
        + ("declare that" if isinstance(net, Wrapped) else "declare that by registry.wrap")
        + f"; its error is then {math.exp(other.excess):.2g} times that of a linear denoiser, and "
        f"{math.exp(declared.excess):.2g} times as declared now"
    )


CHECKS: dict[str, Callable[[Any], Verdict]] = {
    "output shape": _output_shape,
    "depends on t": _depends_on_t,
    "ends of time": _ends_of_time,
    "depends on y": _depends_on_y,
    "long skips": _long_skips,
    "no leak between samples": _no_leak,
    "gradients": _gradients,
    "null class": _null_class,
    "train equals eval": _train_equals_eval,
    "deployed equals trained": _deployed_equals_trained,
    "rebuilt from weights": _rebuilt_from_weights,
    "bf16 autocast": _bf16_autocast,
    "float64": _float64,
    "meaning": _meaning,
    "sizes": _sizes,
    "deterministic": _deterministic,
}

# Failures of these checks limit a network but make no number wrong.
WARNINGS = {"train equals eval", "bf16 autocast", "sizes"}
