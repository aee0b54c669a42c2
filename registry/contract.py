"""The checks every network must pass before anyone trusts it: shapes, conditions, skips, gradients, dtypes.

    for result in check(registry.create("udit-t")):
        print(result.status, result.check, result.reason)

`CHECKS`, at the end, lists them all. Each check runs on its own copy of the network, in float32,
without dropout, and with noise added to its parameters: networks start with closed branches (adaLN-Zero)
and a zero output, which hide whether anything behind them works.
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from registry.backbone import check_output, height_width, is_denoiser
from registry.errors import CodeError, reason, user_frame
from registry.layers.embeddings import LabelDropout

Status = Literal["pass", "fail", "n/a"]
Verdict = tuple[Status, str]  # and the reason

SEED = 0

# How far apart two outputs may be, in units of the largest output.
ROUNDING = 1e-5  # the same computation twice; what changes the output by more has an effect on it
NEAR = 1e-2  # the same in float32 by other kernels, TF32 among them
BF16 = 0.1
DEPLOYED = 1e-9  # in float64


@dataclass(frozen=True)
class Result:
    """Outcome of one check; the reason is one line, what was found or what to put right."""

    check: str
    status: Status
    reason: str


def check(model: nn.Module, *, progress: Callable[[str, int, int], None] | None = None) -> list[Result]:
    """Every check of `CHECKS` on a network, which is left as it was.

    Args:
        model: a network that honours the contract of `registry.Backbone`, on any device.
        progress: called before each check with its name, how many are done, and how many there are.

    Returns:
        One result for each check, in order; the same results from call to call. Where the network
        raises, the check has failed; the reason is the error's first line and its place in the user's file.
    """
    results: list[Result] = []
    for name, run in CHECKS.items():
        if progress:
            progress(name, len(results), len(CHECKS))
        with _seeded():
            try:
                status, found = run(_opened(model))
            except CodeError as error:
                status, found = "fail", str(error)
            except Exception as error:
                frame = user_frame(error)
                place = f" ({frame.filename}, line {frame.lineno})" if frame else ""
                status, found = "fail", reason(error) + place
        results.append(Result(name, status, found))
    return results


def rebuilt_from_weights(model: nn.Module) -> Verdict:
    """The check of that name alone; what the network raises is not caught.

    Args:
        model: as of `check`.
    """
    with _seeded():
        return _rebuilt_from_weights(_opened(model))


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Within this context PyTorch's random numbers start from `SEED`; its state is restored after it."""
    cuda = torch.cuda.is_initialized()  # a network on the CPU must not wake the GPU
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else ()):
        torch.default_generator.manual_seed(SEED)
        if cuda:
            torch.cuda.manual_seed_all(SEED)
        yield


@torch.no_grad()
def _opened(model: nn.Module) -> Any:
    """A copy in float32 and eval mode, without dropout, in which no parameter is zero or closes a branch."""
    net: Any = copy.deepcopy(model).float().eval()
    net.zero_grad()
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(module, (LabelDropout, nn.MultiheadAttention)):
            module.dropout = 0.0
    for parameter in net.parameters():
        if parameter.is_floating_point():
            # Half of what keeps the variance of a sum over the inputs, so that deep networks stay sane.
            std = 0.5 / math.sqrt(math.prod(parameter.shape[1:])) if parameter.dim() > 1 else 0.1
            parameter.add_(torch.randn_like(parameter), alpha=std)
    return net


# ---- what the checks are made of ----


@torch.no_grad()
def _forward(net: Any, inputs: Sequence[Tensor]) -> Tensor:
    out = net(*inputs)
    if not isinstance(out, Tensor):
        raise CodeError(f"forward returns {type(out).__name__}, not a tensor", net)
    return out


def _difference(a: Tensor, b: Tensor) -> float:
    """max|a − b| / max|b|; infinite where the shapes differ or a number is not finite."""
    if a.shape != b.shape:
        return math.inf
    a, b = a.double(), b.double()
    difference = ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item()
    return difference if math.isfinite(difference) else math.inf


def _least_change(a: Tensor, b: Tensor) -> float:
    """`_difference` of the sample that differs least."""
    return min(map(_difference, a, b))


def _others(net: Any, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Other inputs of the same shape; of a denoiser, step and label of every sample surely differ."""
    others = net.example_inputs(len(inputs[0]))
    if not is_denoiser(net, inputs):
        return others
    _, t, y = inputs
    return others[0], (t + 500) % 1000, (y + 1) % net.num_classes if net.num_classes else y + 1


def _of_denoisers(run: Callable[[Any], Verdict]) -> Callable[[Any], Verdict]:
    """Decorator: a check that says nothing of a network with other inputs."""

    def checked(net: Any) -> Verdict:
        if not is_denoiser(net, net.example_inputs(2)):
            return "n/a", "the network takes other inputs than x (N, C, H, W), t, y"
        return run(net)

    return checked


def _some(names: list[str]) -> str:
    """The first names of a list that may be long."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _of_output(difference: float) -> str:
    return f"{difference:.1e} of the largest output"


# ---- the checks: a network, opened by `_opened`, which they may change -> verdict ----


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
        out = net.train()(*net.example_inputs(2))
        (out * torch.randn_like(out)).sum().backward()
    # Rows of a table that were not drawn may be zero, the whole table may not.
    dead = [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
    if dead:
        return "fail", f"no gradient reaches {_some(dead)}"
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


def _deployed_equals_trained(net: Any) -> Verdict:
    before = {name: v.clone() for name, v in net.state_dict().items() if isinstance(v, Tensor)}
    inputs = net.double().example_inputs(2)
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
    if gap > DEPLOYED:
        return (
            "fail",
            f"the deployed network differs by {_of_output(gap)} in float64 (at most {DEPLOYED:.0e})",
        )
    again = _difference(_forward(net.deploy(), inputs), once)
    if again:
        return "fail", f"deploying a second time changes the output by {_of_output(again)}"
    return "pass", f"in float64 they agree to {_of_output(gap)}"


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
        return "fail", f"{_some(strange)} of its state dict is no tensor: checkpoints hold nothing else"
    inputs = net.example_inputs(2)
    torch.manual_seed(SEED + 1)
    other: Any = create(name, **net.overrides).to(inputs[0].device).float().eval()
    try:
        other.load_state_dict(state)
    except RuntimeError as error:
        return "fail", f"its weights cannot be loaded: {' '.join(str(error).split())}"
    gap = _difference(_forward(other, inputs), _forward(net, inputs))
    # A GPU may add up in another order from call to call, and in TF32.
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
    if not out.isfinite().all():
        return "fail", f"{(~out.isfinite()).sum()} of {out.numel()} output values are not finite"
    gap = _difference(out, _forward(net, inputs))
    if gap <= BF16:
        return "pass", f"differs from float32 by {_of_output(gap)}"
    return (
        "fail",
        f"differs from float32 by {_of_output(gap)} (at most {BF16}): keep what needs it in float32",
    )


def _float64(net: Any) -> Verdict:
    inputs = net.example_inputs(2)
    single = _forward(net, inputs)
    out = _forward(net.double(), [a.double() if a.is_floating_point() else a for a in inputs])
    if out.dtype != torch.float64:
        return "fail", f"a float64 network returns {out.dtype}: something casts to a fixed dtype"
    gap = _difference(single, out)
    if gap <= NEAR:
        return "pass", f"float32 differs from it by {_of_output(gap)}"
    return "fail", f"float32 differs from float64 by {_of_output(gap)} (at most {NEAR:.0e})"


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
        if out is not None and not out.isfinite().all():
            return "fail", f"a {h}×{w} input gives an output that is not finite"
        (refused if out is None else taken).append(f"{h}×{w}")
    wrong = f"{channels + 1} channels"
    out, problem = _try(net, (torch.randn(n, channels + 1, height, width).to(x), t, y), {channels + 1})
    if problem:
        return "fail", f"an input of {wrong} {problem}"
    if out is not None:
        return "fail", f"an input of {wrong} is taken, where in_channels is {channels}"
    return "pass", f"takes {', '.join(taken) or 'none'}; refuses {', '.join((*refused, wrong))}"


def _try(net: Any, inputs: Sequence[Tensor], numbers: set[int]) -> tuple[Tensor | None, str]:
    """The output, or None where the network refuses the input, and what is wrong about how it does."""
    try:
        return _forward(net, inputs), ""
    except ValueError as error:  # UsageError is one
        if numbers <= {int(number) for number in re.findall(r"\d+", str(error))}:
            return None, ""
        problem = f"is refused without being named ({reason(error)})"
    except Exception as error:
        problem = f"breaks the network ({reason(error)})"
    return None, f"{problem}: call self.check_input(x) first, or raise a UsageError that names what it got"


def _deterministic(net: Any) -> Verdict:
    inputs = net.example_inputs(2)
    first, second = _forward(net, inputs), _forward(net, inputs)
    if torch.equal(first, second):
        return "pass", "two calls are equal bit for bit"
    return "fail", f"two calls in eval mode differ by {_of_output(_difference(second, first))}"


CHECKS: dict[str, Callable[[Any], Verdict]] = {
    "output shape": _output_shape,
    "depends on t": _depends_on_t,
    "depends on y": _depends_on_y,
    "long skips": _long_skips,
    "no leak between samples": _no_leak,
    "gradients": _gradients,
    "train equals eval": _train_equals_eval,
    "deployed equals trained": _deployed_equals_trained,
    "rebuilt from weights": _rebuilt_from_weights,
    "bf16 autocast": _bf16_autocast,
    "float64": _float64,
    "sizes": _sizes,
    "deterministic": _deterministic,
}
