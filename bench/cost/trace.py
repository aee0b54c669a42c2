"""Observes one forward pass of a deployed network on the meta device: tensors have shapes, but no values.

A network that reads values does not run there. It is observed on real tensors: its weights (random for a
network given by name), random inputs, and a time of `TIMES`, with seed `SEED`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import registry
from bench.cost.conventions import COSTLESS, HANDLERS, Spec
from bench.cost.memory import LiveTensors, Mode, Shapes, call, without_dynamo
from bench.cost.stages import BETWEEN, around, stages
from registry.backbone import check_output, deploy, is_denoiser
from registry.errors import CodeError, UsageError, reason
from registry.wrapping import Wrapped

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore scripts functions that are not used here
    from fvcore.nn.jit_analysis import _IGNORED_OPS, JitModelAnalysis, Statistics

SEED = 0
TIMES = {"ddpm": 500, "flow": 0.5, "edm": 1.0}  # t of a denoiser that is observed on real tensors

_COSTLESS = _IGNORED_OPS | COSTLESS | {"prim::device"}
_KNOWN = _COSTLESS | HANDLERS.keys()
_FUSED = F.scaled_dot_product_attention


class Analysis(JitModelAnalysis):
    """fvcore's analysis of operator counts by module, fed by the dispatcher.

    fvcore would trace with TorchScript, which is deprecated and cannot run without weights; the rest of its
    analysis (handlers, owners of modules, uncounted operators) is used unchanged.

    Args:
        network: fulfils the contract of `registry.Backbone`; not changed.

    Attributes:
        deployed: its form for inference, without memory for weights.
        peaks: largest sum of tensors in use at one time, without the weights, in bytes, by stage.
        notes: limits of the counts, as sentences.

    Raises:
        UsageError: it has a part that cannot be counted.
        CodeError: its forward returns what cannot be an output of it.
        Exception: any error of its forward.
    """

    _stats: Statistics | None

    def __init__(self, network: nn.Module) -> None:
        if isinstance(network, Wrapped):
            network = network.counted()
        for part, module in network.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                where = f"{part!r} of {_name(network)}" if part else _name(network)
                raise UsageError(
                    f"{where} is TorchScript, which cannot be counted: build it without torch.jit"
                )
        with without_dynamo(), Shapes():
            self.deployed: Any = deploy(_shell(network))
        super().__init__(self.deployed, ())
        self.set_op_handle(**HANDLERS)
        self._ignored_ops = _COSTLESS
        self.uncalled_modules_warnings(False).unsupported_ops_warnings(False)
        self.stages = {name: self._aliases[module] for name, module in stages(self.deployed).items()}
        shapes = self._observe_shapes()
        observer = shapes or self._observe_values(network)
        self.peaks = observer.memory.peaks
        on_values = (
            f"The forward pass does not run on shapes alone: the counts are for seed {SEED} and "
            f"t = {_time(network)}, and may depend on values."
        )
        self._calls = observer.calls
        self.notes = [*([] if shapes else [on_values]), *observer.notes(), *self._masked()]

    def _observe_shapes(self) -> _Observer | None:
        """The forward pass on the meta device; None if it fails there, for example because it reads
        values."""
        try:
            with without_dynamo(), torch.device("meta"):
                return self._observe(self.deployed, _inputs(self.deployed))
        except CodeError:
            raise
        except Exception:  # on real tensors it works, or raises its own error
            return None

    def _observe_values(self, network: nn.Module) -> _Observer:
        """The forward pass on real tensors."""
        with seeded():
            try:
                model: Any = deploy(_real(network)).cpu()
            except UsageError:
                raise
            except Exception as error:  # an error of the copy only, as it worked without values
                raise UsageError(f"{_name(network)} cannot be copied: {reason(error)}") from error
            inputs = _inputs(model)
            try:
                with torch.compiler.set_stance("force_eager"):  # so that each operator is seen
                    return self._observe(model, inputs)
            except CodeError:
                raise
            except Exception as error:
                failure = error
            with torch.no_grad():
                model(*inputs)  # raises what the network itself raises
        raise UsageError(f"{_name(network)} runs, but cannot be counted: {reason(failure)}") from failure

    def _observe(self, model: Any, inputs: Sequence[Any]) -> _Observer:
        """The forward pass of the deployed network, observed."""
        modules = {name: module for name, module in model.named_modules() if name}
        inner = {stage: model.get_submodule(name) for stage, name in self.stages.items()}
        observer = _Observer((*model.parameters(), *model.buffers()))
        with (
            torch.no_grad(),
            decomposed_attention(),
            around(modules, observer.modules.append, lambda _: observer.modules.pop()),
            around(inner, observer.enter_stage, lambda _: observer.stages.pop()),
            observer,
            _Calls(observer),
        ):
            for tensor in inputs:
                observer.memory.add(tensor, BETWEEN)
            output = model(*inputs)
        # Values of random weights say nothing.
        check_output(model, inputs, output.to("meta") if isinstance(output, Tensor) else output)
        return observer

    def _attended(self, module: str) -> int | None:
        """Number of keys that a query attends to, if the module declares it."""
        return getattr(self._named_modules[module], "attended_keys", None)

    def _masked(self) -> list[str]:
        """Notes on attention that computes more keys than are counted."""
        calls = [
            (math.prod(inputs[0].shape[:-1]), self._attended(module), inputs[1].shape[-2])
            for module, _, kind, inputs, _ in self._calls
            if "scaled_dot_product" in kind and self._attended(module)
        ]
        if not calls:
            return []
        seen, computed = (sum(queries * call[i] for queries, *call in calls) for i in (0, 1))
        return [
            f"Local attention counts the keys that a query sees; {computed / seen:.1f} times as many are "
            "computed, and masked."
        ]

    def by_stage(self) -> dict[str, Counter[str]]:
        """Counts of each stage and of what is in none, by operator; each call counts in one of them."""
        self._analyze()
        return self._by_stage

    def _analyze(self) -> Statistics:
        if self._stats is None:
            self._by_stage: dict[str, Counter[str]] = {stage: Counter() for stage in (*self.stages, BETWEEN)}
            counts: dict[str, Counter[str]] = {name: Counter() for name in self._named_modules}
            uncounted: dict[str, Counter[str]] = {name: Counter() for name in self._named_modules}
            for module, stage, kind, inputs, outputs in self._calls:
                handler = self._op_handles.get(kind, self._op_handles.get(kind.removesuffix("_")))
                if handler is None and self._ignored_ops & {kind, kind.removesuffix("_")}:
                    continue
                layouts = {value.layout for value in (*inputs, *outputs) if isinstance(value, Spec)}
                if special := layouts - {"strided"}:  # whose shapes do not tell what is computed
                    kind, handler = f"{kind} ({', '.join(sorted(special))})", None
                if "scaled_dot_product" in kind and (seen := self._attended(module)):
                    inputs = [_keys(value, seen) if i in (1, 2) else value for i, value in enumerate(inputs)]
                ancestors = self._get_all_ancestors(module)
                if handler is None:
                    for ancestor in ancestors:
                        uncounted[ancestor][kind] += 1
                    continue
                counted = handler(inputs, outputs)
                for ancestor in ancestors:
                    counts[ancestor] += counted
                if stage == BETWEEN:  # a stage whose parts are called, but not itself
                    stage = next((name for name, path in self.stages.items() if path in ancestors), BETWEEN)
                self._by_stage[stage] += counted
            self._stats = Statistics(counts, uncounted, set())
        return self._stats


class _Observer(Mode):
    """Every operator of a forward pass, with the module and the stage it runs in.

    Args:
        weights: whose memory is no activation.

    Attributes:
        calls: module, stage, operator, inputs and outputs of each, tensors as `Spec`s.
        modules, stages: names of those that run now, the innermost last.
    """

    supports_higher_order_operators = True

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.memory = LiveTensors(besides=weights)
        self.calls: list[tuple[str, str, str, list[Any], list[Any]]] = []
        self._masks: list[tuple[Any, ...]] = []  # of each flex_attention
        self.modules, self.stages = [""], [BETWEEN]

    def enter_stage(self, name: str) -> None:
        self.stages.append(name)
        self.memory.mark(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._higher_order(func, args, kwargs)
        operator = func._schema.name
        # Composite operators come here in inference mode and in branches of `torch.cond`.
        if not {operator, operator.removesuffix("_")} & _KNOWN and not types:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        return self._run(operator, func, args, kwargs)

    def _higher_order(self, func: HigherOrderOperator, args: Any, kwargs: Any) -> Any:
        """An operator that takes functions: of `torch.cond` the branch that is taken runs, observed."""
        if func is torch.ops.higher_order.cond:
            condition, then, otherwise, operands = args
            branch = then if condition else otherwise
            with self:
                return branch(*operands)
        if func is torch.ops.higher_order.flex_attention:
            self._masks.append(args[4])
        return self._run(f"higher_order::{func.name()}", func, args, kwargs)

    def _run(self, operator: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator, follow what it made of its inputs, and return it.

        Tables of positions, which exist before the pass, are left out, and so are their copies on the meta
        device, which are made in the first pass alone.
        """
        out = call(func, args, kwargs)
        outputs = out if isinstance(out, tuple | list) else [out]
        given = [value for value in args if isinstance(value, Tensor)]
        for tensor in given:
            self.memory.leave_out(tensor)
        for tensor in outputs:
            if isinstance(tensor, Tensor):
                if tensor.is_meta and given and not given[0].is_meta:
                    self.memory.leave_out(tensor)
                self.memory.add(tensor, self.stages[-1])
        self.note(operator, args, outputs)
        return out

    def note(self, operator: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Record one call, in the module and the stage that run."""
        given, made = [*map(_spec, inputs)], [*map(_spec, outputs)]
        self.calls.append((self.modules[-1], self.stages[-1], operator, given, made))

    def notes(self) -> list[str]:
        """Notes on the counts."""
        if not self._masks:
            return []
        kept, every = map(sum, zip(*map(_kept_blocks, self._masks), strict=True))
        return [
            "flex_attention counts as two dense matrix products, without score_mod and mask (masks keep "
            f"{kept / every:.1%} of the blocks)."
        ]


class _Calls(TorchFunctionMode):
    """Notes functions that the dispatcher shows as something else.

    Einsums that only move elements, which torchprofile counts, are views there; `torch.linalg.vecdot` is an
    elementwise product and a sum; fused attention comes in parts on the meta device. Functions of PyTorch
    that call fused attention, as `nn.MultiheadAttention` does, find ours in its place.
    """

    def __init__(self, observer: _Observer) -> None:
        super().__init__()
        self.observer = observer

    def __enter__(self) -> Any:
        F.scaled_dot_product_attention = _attention  # type: ignore[assignment]
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        F.scaled_dot_product_attention = _FUSED

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.linalg.vecdot:
            return _vecdot(*args, **kwargs)
        if func is _FUSED:
            return _attention(*args, **kwargs)
        out = func(*args, **kwargs)
        if func is torch.einsum and len(args) == 2 and isinstance(args[1], Tensor):
            self.observer.note("torch::einsum", args[1:], [out])
        return out


def _vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """`torch.linalg.vecdot` as the matrix product that it is."""
    x, y = (tensor.movedim(dim, -1) for tensor in torch.broadcast_tensors(x, y))
    return (x.conj()[..., None, :] @ y[..., None])[..., 0, 0]


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """`F.scaled_dot_product_attention`; on the meta device too by the kernel that a CPU would choose."""
    widths = {tensor.shape[-1] for tensor in (query, key, value)}
    if not query.is_meta or len(widths) > 1 or query.dim() not in (3, 4) or dropout_p or query.is_complex():
        return _FUSED(query, key, value, attn_mask, dropout_p, is_causal, **options)
    options.pop("enable_gqa", None)
    batched = [tensor if tensor.dim() == 4 else tensor[None] for tensor in (query, key, value)]
    out, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *batched, dropout_p, is_causal, attn_mask=attn_mask, **options
    )
    return out if query.dim() == 4 else out[0]


def _spec(value: Any) -> Any:
    if isinstance(value, Tensor):
        layout = str(value.layout).removeprefix("torch.")
        return Spec(
            tuple(value.shape), value.is_floating_point() or value.is_complex(), value.is_complex(), layout
        )
    if isinstance(value, list | tuple):  # those of `cat`, which would be kept alive
        return [_spec(each) for each in value]
    return value


def _keys(value: Spec, count: int) -> Spec:
    """Keys or values (…, keys, d) as if there were `count` of them."""
    return dataclasses.replace(value, shape=(*value.shape[:-2], count, value.shape[-1]))


def _kept_blocks(mask: tuple[Any, ...]) -> tuple[int, int]:
    """Blocks of a `BlockMask` that are computed, and all of them."""
    columns, partial, full, width = mask[1], mask[2], mask[4], mask[-2]
    kept = partial.sum() + (0 if full is None else full.sum())
    return int(kept), partial.numel() * -(-columns // width)


def _name(network: nn.Module) -> str:
    return getattr(network, "name", "") or type(network).__name__


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Within this context PyTorch's random numbers on the CPU start from `SEED`; their state is restored."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(SEED)
        yield


def _inputs(model: Any) -> tuple[Any, ...]:
    """A network's example inputs at batch 1; of a denoiser at the time of `TIMES`."""
    inputs = model.example_inputs(1)
    if is_denoiser(model, inputs):
        x, t, y = inputs
        inputs = x, torch.full_like(t, _time(model)), y
    return inputs


def _time(network: Any) -> float:
    return TIMES.get(getattr(network, "objective", ""), TIMES["ddpm"])


def _real(network: Any) -> nn.Module:
    """The network itself, or built again with weights where it has none.

    Raises:
        UsageError: it was built on the meta device by hand.
    """
    if not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        return network
    if not getattr(network, "name", ""):
        raise UsageError(
            f"{_name(network)} has no weights (it is on the meta device), and its forward pass does not run "
            "on shapes alone: build it on the CPU"
        )
    return registry.create(network.name, **network.overrides)


def _shell(model: nn.Module) -> Any:
    """A network whose parameters and buffers are on the meta device: itself, if they are, or a copy."""
    if all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return model
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        hollow = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(hollow, requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


@contextlib.contextmanager
def decomposed_attention() -> Iterator[None]:
    """Keep `nn.MultiheadAttention` from its fused inference path, which hides its operations."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
