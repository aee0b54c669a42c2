"""One forward pass of a deployed network, observed on fake tensors, which have shapes and no memory."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cost.conventions import COSTLESS, HANDLERS, Spec
from bench.cost.memory import LiveTensors
from bench.cost.stages import BETWEEN, around, stages
from registry.backbone import check_output, deploy
from registry.errors import CodeError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore scripts functions that are not used here
    from fvcore.nn.jit_analysis import _IGNORED_OPS, JitModelAnalysis, Statistics


class Analysis(JitModelAnalysis):
    """fvcore's analysis of operator counts by module, fed by the dispatcher.

    fvcore would trace with TorchScript, which is deprecated and cannot run without weights; what it
    makes of the operators (handlers, owners of modules, what was not counted) stays as it is.

    Args:
        network: honours the contract of `registry.Backbone`; left as it is.

    Attributes:
        deployed: its form for inference, without memory for weights.
        peaks: the most bytes of live tensors besides the weights, by stage.

    Raises:
        CodeError: its forward returns what cannot be an output of it.
        Exception: whatever its forward raises.
    """

    _stats: Statistics | None

    def __init__(self, network: nn.Module) -> None:
        self.deployed: Any = deploy(_shell(network, lambda p: torch.empty_like(p, device="meta")))
        super().__init__(self.deployed, ())
        self.set_op_handle(**HANDLERS)
        self._ignored_ops = _IGNORED_OPS | COSTLESS | {"prim::device"}
        self.uncalled_modules_warnings(False).unsupported_ops_warnings(False)
        self.stages = {name: self._aliases[module] for name, module in stages(self.deployed).items()}
        observer = self._observe_fake() or self._observe()
        self.peaks = observer.memory.peaks
        self._calls = observer.calls

    def _observe_fake(self) -> _Observer | None:
        """The forward pass on fake tensors; None if it fails on them, as where it looks at values."""
        log = logging.getLogger("torch._subclasses.fake_tensor")
        disabled, log.disabled = log.disabled, True  # what fails here is tried again
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                return self._observe()
        except CodeError:
            raise
        except Exception:  # on zeros it goes well, or shows a mistake as itself
            return None
        finally:
            log.disabled = disabled

    def _observe(self) -> _Observer:
        """The forward pass with zeros for weights, real ones unless tensors are fake."""
        model: Any = _shell(self.deployed, lambda p: torch.zeros(p.shape, dtype=p.dtype, device="cpu"))
        modules = {name: module for name, module in model.named_modules() if name}
        inner = {stage: model.get_submodule(name) for stage, name in self.stages.items()}
        observer = _Observer((*model.parameters(), *model.buffers()))
        with torch.no_grad(), _decomposed_attention():
            inputs = model.example_inputs(1)
            with (
                around(modules, observer.modules.append, lambda _: observer.modules.pop()),
                around(inner, observer.enter_stage, lambda _: observer.stages.pop()),
                observer,
                _Einsums(observer),
            ):
                for tensor in inputs:
                    observer.own(tensor)
                output = model(*inputs)
        # Values from weights of zero say nothing.
        check_output(model, inputs, output.to("meta") if isinstance(output, Tensor) else output)
        return observer

    def attention_tokens(self) -> dict[str, int]:
        """Keys of a query in fused attention, the most in each stage that has any."""
        found: dict[str, int] = {}
        for module, kind, inputs, _ in self._calls:
            if "scaled_dot_product" in kind:
                owners = self._get_all_ancestors(module)
                stage = next((stage for stage, name in self.stages.items() if name in owners), BETWEEN)
                found[stage] = max(found.get(stage, 0), inputs[1].shape[-2])
        return found

    def _analyze(self) -> Statistics:
        if self._stats is None:
            counts: dict[str, Counter[str]] = {name: Counter() for name in self._named_modules}
            uncounted: dict[str, Counter[str]] = {name: Counter() for name in self._named_modules}
            for module, kind, inputs, outputs in self._calls:
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


class _Observer(TorchDispatchMode):
    """Every operator of a forward pass, with the module and the stage it runs in.

    Args:
        weights: whose memory is no activation.

    Attributes:
        calls: module, operator, inputs and outputs of each, tensors as `Spec`s.
        modules, stages: names of those that run now, the innermost last.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.calls: list[tuple[str, str, list[Any], list[Any]]] = []
        self.memory = LiveTensors(besides=weights)
        self.modules, self.stages = [""], [BETWEEN]

    def enter_stage(self, name: str) -> None:
        self.stages.append(name)
        self.memory.mark(name)

    def own(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now until it is freed."""
        self.memory.add(tensor, self.stages[-1])

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
        self.calls.append((self.modules[-1], operator, [*map(_spec, inputs)], [*map(_spec, outputs)]))


class _Einsums(TorchFunctionMode):
    """Notes einsums that only move elements: the dispatcher shows them as views, torchprofile counts them."""

    def __init__(self, observer: _Observer) -> None:
        super().__init__()
        self.observer = observer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.einsum and len(args) == 2:
            self.observer.note("torch::einsum", args[1:], [out])
        return out


def _spec(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Spec(tuple(value.shape), value.is_floating_point() or value.is_complex())
    return value


def _shell(model: nn.Module, like: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a network whose parameters and buffers are replaced by what `like` makes of them."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(like(parameter), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = like(buffer)
    return copy.deepcopy(model, memo)


@contextlib.contextmanager
def _decomposed_attention() -> Iterator[None]:
    """Keep `nn.MultiheadAttention` from its fused inference path, which hides its operations."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
