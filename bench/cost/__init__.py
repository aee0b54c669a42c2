"""What a backbone costs: parameters, multiply-accumulates, activation memory, whole and in parts.

One forward pass (batch 1, deployed form) runs on fake tensors, which have shapes and no memory; fvcore
counts its operators with the handlers below. Two counts come of it:

- **macs**: exact multiply-accumulates of convolutions, linear maps, matrix products and attention;
- the **paper convention** of U-DiT's tables, which print as "FLOPs(G)" what torchprofile counts on
  the released code: the multiply-accumulates, plus one for each output element of an elementwise
  product (attention logits times their scale among them), of an affine norm and of a pooling.

`flops` is 2·macs. Published figures live in `bench.studies.published`, not here.
"""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import registry
from registry.backbone import Backbone, Size, deploy
from registry.errors import UsageError, reason

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore scripts functions that are not used here
    from fvcore.nn.jit_analysis import _IGNORED_OPS, JitModelAnalysis, Statistics

if TYPE_CHECKING:
    import pandas as pd

Convention = Literal["paper", "macs", "flops"]
By = Literal["stage", "module", "operator"]


@dataclass(frozen=True)
class Part:
    """Cost of a stage, a module or a kind of operator; what does not apply is None."""

    name: str
    macs: int
    paper: int  # operations in the paper's convention
    parameters: int | None = None
    parameters_deployed: int | None = None
    activation_bytes: int | None = None  # peak while it runs, what waits for later stages included

    def count(self, convention: Convention) -> int:
        """Operations in one convention."""
        return {"paper": self.paper, "macs": self.macs, "flops": 2 * self.macs}[convention]


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass at batch 1.

    Attributes:
        parameters: scalars in the trained network, fixed tables included.
        parameters_deployed: the same after re-parameterised modules are merged for inference.
        macs: exact multiply-accumulates.
        flops: 2·macs.
        paper_gflops: 10⁹ operations in the convention of U-DiT's tables.
        activation_bytes: peak of live tensors besides the weights, float32, without gradients;
            the skips that wait for the decoder included.
        uncounted: operators that may cost something and are in neither count -> how often.
        stages, modules, operators: the same cost in parts.
    """

    model: str
    overrides: dict[str, Any]
    input_size: Size
    parameters: int
    parameters_deployed: int
    macs: int
    flops: int
    paper_gflops: float
    activation_bytes: int
    uncounted: dict[str, int]
    stages: list[Part] = field(repr=False)
    modules: list[Part] = field(repr=False)
    operators: list[Part] = field(repr=False)

    def count(self, convention: Convention) -> float:
        """Operations in one convention."""
        return {"paper": self.paper_gflops * 1e9, "macs": self.macs, "flops": self.flops}[convention]

    def parts(self, by: By) -> list[Part]:
        """The breakdown by stage, by module or by operator."""
        return {"stage": self.stages, "module": self.modules, "operator": self.operators}[by]

    def to_dict(self, by: By | None = None) -> dict[str, Any]:
        """Plain values for JSON; with `by`, the breakdown under `parts`."""
        inner = ("stages", "modules", "operators")
        values = {name: value for name, value in vars(self).items() if name not in inner}
        return values | ({"parts": [asdict(part) for part in self.parts(by)]} if by else {})

    def frame(self, by: By) -> pd.DataFrame:
        """The breakdown as a table, one row a part, shares of the whole beside the counts."""
        import pandas as pd

        frame = pd.DataFrame([asdict(part) for part in self.parts(by)]).set_index("name")
        frame["macs_share"] = frame["macs"] / max(self.macs, 1)
        frame["paper_share"] = frame["paper"] / max(self.paper_gflops * 1e9, 1)
        return frame.dropna(axis="columns", how="all")


def measure(model: str | nn.Module, *, input_size: Size | None = None, **overrides: Any) -> Cost:
    """Cost of a backbone, by name (nothing is allocated for its weights) or as a module.

    Args:
        model: a registered name, or a network that honours the contract of `registry.Backbone`.
        input_size: side of the input grid or (H, W); by default the network's own.
        **overrides: of the named backbone, as for `registry.create`.

    Raises:
        UsageError: unknown name or override, or a network that fails on its example inputs.

    Example:
        >>> measure("udit-b").paper_gflops
        22.22...
    """
    if isinstance(model, str):
        if input_size is not None:
            overrides["input_size"] = input_size
        network = _weightless(model, overrides)
    elif overrides or input_size is not None:
        raise UsageError("overrides and input_size go with a name; a module is measured as it is")
    else:
        network = model
    traced = _Analysis(network)
    peaks = traced.observed.peaks
    by_module = traced._analyze().counts
    trained = _stages(network)
    stages = [
        Part(
            name,
            **_counted(traced.counts(module)),
            parameters=_numel(trained[name]),
            parameters_deployed=_numel(module),
            activation_bytes=peaks[name],
        )
        for name, module in traced.stages.items()
    ]
    macs, paper = _counted(by_module[""]).values()
    between = Part(
        "(between)",
        macs=macs - sum(part.macs for part in stages),
        paper=paper - sum(part.paper for part in stages),
        parameters=_numel(network) - sum(part.parameters or 0 for part in stages),
        parameters_deployed=_numel(traced.deployed) - sum(part.parameters_deployed or 0 for part in stages),
        activation_bytes=peaks["(between)"],
    )
    named: Any = network
    return Cost(
        model=getattr(network, "name", "") or type(network).__name__,
        overrides={k: v for k, v in getattr(network, "overrides", {}).items() if k != "input_size"},
        input_size=named.input_size,
        parameters=_numel(network),
        parameters_deployed=_numel(traced.deployed),
        macs=macs,
        flops=2 * macs,
        paper_gflops=paper / 1e9,
        activation_bytes=max(peaks.values()),
        uncounted=dict(traced.unsupported_ops("")),
        stages=[part for part in (*stages, between) if part.paper or part.parameters],
        modules=[
            Part(name, **_counted(counts), parameters_deployed=_numel(traced.deployed.get_submodule(name)))
            for name, counts in by_module.items()
            if name and counts
        ],
        operators=[Part(op, **_counted({op: count})) for op, count in by_module[""].most_common()],
    )


def _counted(counts: dict[str, int]) -> dict[str, int]:
    """Both counts of the operators in one module."""
    macs = sum(count for operator, count in counts.items() if operator in MULTIPLY_ACCUMULATES)
    return {"macs": macs, "paper": sum(counts.values())}


def _weightless(name: str, overrides: dict[str, Any]) -> nn.Module:
    """The backbone on the meta device; for real where its constructor looks at numbers."""
    try:
        with torch.device("meta"):
            return registry.create(name, **overrides)
    except Exception:  # if what is wrong is something else, it is wrong again
        return registry.create(name, **overrides)


def _stages(network: nn.Module) -> dict[str, nn.Module]:
    asked: Callable[[], dict[str, nn.Module]] | None = getattr(network, "stages", None)
    return asked() if asked else Backbone.stages(network)  # type: ignore[arg-type]


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shell(model: nn.Module, like: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a network whose parameters and buffers are replaced by what `like` makes of them."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(like(parameter), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = like(buffer)
    return copy.deepcopy(model, memo)


# ---- one forward pass, observed ----


class _Observed(TorchDispatchMode):
    """Every operator of a forward pass on fake tensors, with the module and stage it ran in.

    Also follows the bytes of live tensors, and their peak in each stage.
    """

    def __init__(self, deployed: nn.Module, stages: dict[str, nn.Module]) -> None:
        super().__init__()
        self.calls: list[tuple[str, str, list[Any], list[Any]]] = []  # module, operator, inputs, outputs
        self.live, self.peaks = 0, Counter[str]()
        self._stack, self._stage = [""], ["(between)"]
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        for tensor in (*deployed.parameters(), *deployed.buffers()):
            self._known.add(tensor.untyped_storage())  # weights are no activations
        stage_of = {
            part: stage
            for stage, module in stages.items()
            # A bare container is never called; its items are.
            for part in (module.children() if isinstance(module, nn.ModuleList) else [module])
        }
        for name, module in deployed.named_modules():
            if name:
                module.register_forward_pre_hook(self._enter(name, stage_of.get(module)))
                module.register_forward_hook(self._leave(stage_of.get(module)), always_call=True)

    def _enter(self, name: str, stage: str | None) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._stack.append(name)
            if stage:
                self._stage.append(stage)
                self._mark()

        return hook

    def _leave(self, stage: str | None) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._stack.pop()
            if stage:
                self._stage.pop()

        return hook

    def own(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now until it is freed."""
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known.add(storage)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._freed, storage.nbytes())
        self._mark()

    def _freed(self, size: int) -> None:
        self.live -= size

    def _mark(self) -> None:
        stage = self._stage[-1]
        self.peaks[stage] = max(self.peaks[stage], self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        outputs = list(out) if isinstance(out, (tuple, list)) else [out]
        for tensor in outputs:
            if isinstance(tensor, Tensor):
                self.own(tensor)
        self.note(func._schema.name, args, outputs)
        return out

    def note(self, operator: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Record one call, in the module that runs."""
        self.calls.append((self._stack[-1], operator, [*map(_spec, inputs)], [*map(_spec, outputs)]))


class _Einsums(TorchFunctionMode):
    """Notes einsums that only move elements: the dispatcher shows them as views, torchprofile counts them."""

    def __init__(self, observed: _Observed) -> None:
        super().__init__()
        self.observed = observed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.einsum and len(args) == 2:
            self.observed.note("torch::einsum", args[1:], [out])
        return out


@dataclass(frozen=True)
class Spec:
    """What a handler sees of a tensor: the tensor itself may be freed by then."""

    shape: tuple[int, ...]
    counts: bool  # floating point or complex

    @property
    def elements(self) -> int:
        """How many numbers it holds; integers and booleans are no arithmetic of the network."""
        return math.prod(self.shape) if self.counts else 0


def _spec(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Spec(tuple(value.shape), value.is_floating_point() or value.is_complex())
    return value


class _Analysis(JitModelAnalysis):
    """fvcore's analysis of operator counts by module, fed by the dispatcher.

    fvcore would trace with TorchScript, which is deprecated and cannot run without weights; what it
    makes of the operators (handlers, ancestors, what was not counted) stays as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        shell = _shell(network, lambda tensor: torch.empty_like(tensor, device="meta"))
        deployed: Any = deploy(shell)
        super().__init__(deployed, ())
        self._stats: Statistics | None = None
        self.set_op_handle(**HANDLERS)
        self._ignored_ops = _IGNORED_OPS | COSTLESS | {"prim::device"}
        self.uncalled_modules_warnings(False).unsupported_ops_warnings(False)
        self.deployed, self.stages = deployed, _stages(deployed)
        self.names = {module: name for name, module in deployed.named_modules()}
        try:
            try:
                with FakeTensorMode(allow_non_fake_inputs=True):
                    self.observed = self._observe()
            except (DynamicOutputShapeException, DataDependentOutputException):
                self.observed = self._observe()  # looks at values, so needs some: zeros
        except Exception as error:
            raise _failure(network, error) from error

    def _observe(self) -> _Observed:
        model: Any = _shell(self.deployed, lambda p: torch.zeros(p.shape, dtype=p.dtype, device="cpu"))
        stages = {name: model.get_submodule(self.names[module]) for name, module in self.stages.items()}
        observed = _Observed(model, stages)
        with torch.no_grad(), _decomposed_attention():
            inputs = model.example_inputs(1)
            with observed, _Einsums(observed):
                for tensor in inputs:
                    observed.own(tensor)
                model(*inputs)
        return observed

    def _analyze(self) -> Statistics:
        if self._stats is None:
            counts: dict[str, Counter[str]] = {name: Counter() for name in self.names.values()}
            uncounted: dict[str, Counter[str]] = {name: Counter() for name in self.names.values()}
            for module, kind, inputs, outputs in self.observed.calls:
                handler = self._op_handles.get(kind)
                if handler is None and kind in self._ignored_ops:
                    continue
                for ancestor in self._get_all_ancestors(module):
                    if handler is None:
                        uncounted[ancestor][kind] += 1
                    else:
                        counts[ancestor] += handler(inputs, outputs)
            self._stats = Statistics(counts, uncounted, set())
        return self._stats

    def counts(self, stage: nn.Module) -> Counter[str]:
        """Operations inside one stage."""
        return self._analyze().counts[self.names[stage]]


@contextlib.contextmanager
def _decomposed_attention() -> Iterator[None]:
    """Keep `nn.MultiheadAttention` from its fused inference path, which hides its operations."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _failure(network: nn.Module, error: Exception) -> UsageError:
    if isinstance(error, UsageError):
        return error
    name = getattr(network, "name", "") or type(network).__name__
    return UsageError(f"{name} fails on its example inputs: {reason(error)}")


def _split(name: str, counts: dict[str, int], parameters: int | None = None) -> Part:
    macs = sum(int(count) for op, count in counts.items() if op in MULTIPLY_ACCUMULATES)
    return Part(name, macs, int(sum(counts.values())), parameters_deployed=parameters)


# ---- the price of an operator ----

MULTIPLY_ACCUMULATES = {"convolution", "linear", "attention"}

Handler = Callable[[list[Any], list[Any]], Counter[str]]


def _each_output(name: str, times: int = 1) -> Handler:
    """One operation (or `times`) for each output element."""
    return lambda inputs, outputs: Counter({name: times * outputs[0].elements})


def _product(first: int) -> Handler:
    """Matrix product whose left factor is argument `first`: output elements × inner dimension."""
    return lambda inputs, outputs: Counter({"linear": outputs[0].elements * inputs[first].shape[-1]})


def _convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    x, weight, transposed = inputs[0], inputs[1], inputs[6]
    # Each output element (each input element, if transposed) meets one filter without its first axis.
    elements = x.elements if transposed else outputs[0].elements
    return Counter({"convolution": elements * math.prod(weight.shape[1:])})


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    q, k, v = (value.shape for value in inputs[:3])
    logits = math.prod(q[:-1]) * k[-2]
    return Counter({"attention": logits * (q[-1] + v[-1]), "attention scale": logits})


def _affine_norm(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """One for each element, if the norm has a weight (it always comes before any other tensor)."""
    affine = any(isinstance(value, Spec) for value in inputs[1:3])
    return Counter({"affine norm": outputs[0].elements if affine else 0})


HANDLERS: dict[str, Handler] = {
    "aten::convolution": _convolution,
    **{f"aten::{op}": _product(0) for op in ("mm", "bmm", "mv", "dot")},
    **{f"aten::{op}": _product(1) for op in ("addmm", "addmv", "baddbmm", "addbmm")},
    **{
        f"aten::_scaled_dot_product_{kind}": _attention
        for kind in (
            "flash_attention",
            "flash_attention_for_cpu",
            "efficient_attention",
            "cudnn_attention",
            "fused_attention_overrideable",
        )
    },
    "torch::einsum": _each_output("einsum"),
    **{f"aten::{op}": _each_output("product") for op in ("mul", "mul_", "addcmul", "addcmul_")},
    **{
        f"aten::{op}": _affine_norm
        for op in (
            "native_layer_norm",
            "native_batch_norm",
            "_native_batch_norm_legit_no_training",
            "_fused_rms_norm",
        )
    },
    "aten::native_group_norm": _affine_norm,
    **{f"aten::{op}": _each_output("leaky relu") for op in ("leaky_relu", "leaky_relu_")},
    "aten::upsample_bilinear2d": _each_output("interpolation", 4),
    **{f"aten::{op}": _each_output("pooling") for op in ("avg_pool2d", "_adaptive_avg_pool2d", "mean")},
}

# Neither multiply nor accumulate in any convention here: additions, divisions, activation functions,
# reductions, comparisons, and what only moves or makes tensors.
COSTLESS = {
    f"aten::{op}"
    for op in """
    _adaptive_avg_pool1d _conj _local_scalar_dense _log_softmax _reshape_alias _safe_softmax _softmax
    _to_copy _unsafe_view _weight_norm_interface abs add add_ alias all amax amin any argmax as_strided
    bernoulli bernoulli_ bitwise_and bitwise_or ceil channel_shuffle clamp_max clamp_max_ clamp_min
    clamp_min_ clone complex cos cumsum diagonal div div_ elu embedding empty_like empty_permuted
    empty_strided erf exp exp_ expm1 fill fill_ flip floor_ fmod gelu glu hardsigmoid hardswish hardtanh
    index_select isinf isnan le lift_fresh lift_fresh_copy linalg_vector_norm log log1p log2 logical_and
    logical_not logical_or lt masked_select max_pool2d_with_indices maximum min minimum mish
    native_channel_shuffle native_dropout ne neg new_empty_strided new_ones normal_ ones_like pixel_shuffle
    pixel_unshuffle polar pow prelu _prelu_kernel rand rand_like randint randn randn_like real reciprocal
    reflection_pad2d repeat replication_pad2d rsqrt rsqrt_ rsub scalar_tensor scatter sgn sigmoid sigmoid_
    sign silu silu_ sin softplus sort sqrt square std sub sub_ sum tan tanh tanh_ threshold topk tril triu
    unfold uniform_ upsample_nearest1d upsample_nearest2d var var_mean view_as_complex view_as_real where
    zero_
    """.split()
}
