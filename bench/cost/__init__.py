"""What a backbone costs: parameters, multiply-accumulates, activation memory, whole and in parts.

    bench.cost.measure("udit-b").paper_gflops            # 22.22…

`trace` observes one forward pass (batch 1, deployed form), `conventions` says what each operator costs. The
result has two counts:

- **macs**: exact multiply-accumulates of convolutions, linear maps, matrix products and attention;
- the **paper convention** of U-DiT's tables, which print as "FLOPs(G)" what torchprofile counts on
  the released code: the multiply-accumulates, plus one for each output element of an elementwise
  product (attention logits times their scale among them), of an affine norm and of a pooling.

`flops` is 2·macs. Published figures live in `bench.studies.published`, not here. Importing this module
imports no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import registry
from bench.cost.conventions import MULTIPLY_ACCUMULATES
from bench.records.schema import Cost, CostRequest, Part, Size
from registry.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def measure(model: str | nn.Module, /, *, input_size: Size | None = None, **overrides: Any) -> Cost:
    """Cost of a backbone, given by name (no memory is allocated for weights) or as a module.

    Args:
        model: a registered name, or a network that fulfils the contract of `registry.Backbone`.
        input_size: side of the input grid or (H, W); by default the network's own.
        **overrides: options of the named backbone, as for `registry.create`.

    Raises:
        UsageError: unknown name or override, or a network with a part that cannot be counted.
        CodeError: the network returns no tensor, or one of another shape than its contract says.
        Exception: any error of the network itself.

    Example:
        >>> measure("udit-b").paper_gflops
        22.22...
    """
    from bench.cost.stages import BETWEEN, stages
    from bench.cost.trace import Analysis

    if isinstance(model, str):
        if input_size is not None:
            overrides["input_size"] = input_size
        network: Any = _weightless(model, overrides)
    elif overrides or input_size is not None:
        raise UsageError("overrides and input_size need a name; a module is measured unchanged")
    else:
        network = model
    analysis = Analysis(network)
    deployed, peaks = analysis.deployed, analysis.peaks
    trained = {**stages(network), BETWEEN: network}
    served = {stage: deployed.get_submodule(name) for stage, name in analysis.stages.items()}
    served[BETWEEN] = deployed
    of_stages, of_deployed = _parameters_of(trained), _parameters_of(served)
    parts = [
        Part(
            name=stage,
            **_counts(counts),
            parameters=of_stages[stage],
            parameters_deployed=of_deployed[stage],
            activation_bytes=peaks[stage],
        )
        for stage, counts in analysis.by_stage().items()
    ]
    whole = analysis.by_operator()
    macs, paper = _counts(whole).values()
    name, config = identity(network)
    return Cost(
        request=CostRequest(model=name, config=config),
        input_size=network.input_size,
        parameters=_parameters(network),
        parameters_deployed=_parameters(deployed),
        macs=macs,
        flops=2 * macs,
        paper_gflops=paper / 1e9,
        activation_bytes=max(peaks.values()),
        uncounted=dict(analysis.unsupported_ops()),
        notes=tuple(analysis.notes),
        stages=tuple(part for part in parts if part.paper or part.parameters),
        modules=tuple(
            Part(name=name, **_counts(counts), parameters_deployed=_parameters(deployed.get_submodule(name)))
            for name, counts in analysis.by_module_and_operator().items()
            if name and counts
        ),
        operators=tuple(Part(name=op, **_counts({op: count})) for op, count in whole.most_common()),
    )


def identity(network: nn.Module) -> tuple[str, dict[str, Any]]:
    """A network as requests name it: its registered name and all options.

    For a module that was not made from the registry, the name of its class and no options.
    """
    name: str = getattr(network, "name", "")
    if not name:
        return type(network).__name__, {}
    overrides: dict[str, Any] = getattr(network, "overrides", {})
    return name, registry.canonical(name, overrides)


def _counts(operations: dict[str, int]) -> dict[str, int]:
    """Both counts of the operations in one module."""
    macs = sum(count for kind, count in operations.items() if kind in MULTIPLY_ACCUMULATES)
    return {"macs": macs, "paper": sum(operations.values())}


def _weightless(name: str, overrides: dict[str, Any]) -> nn.Module:
    """The backbone on the meta device, or with real weights if its constructor reads values."""
    import torch

    from bench.cost.memory import Shapes, without_dynamo
    from bench.cost.trace import seeded

    registry.backbones.factory(name)  # imports its code
    with contextlib.suppress(Exception), torch.device("meta"), without_dynamo(), Shapes():
        return registry.create(name, **overrides)
    with seeded():  # if something else is wrong, it is wrong again
        return registry.create(name, **overrides)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _parameters_of(parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Parameters of each part that no part before it has."""
    counts, counted = {}, set[int]()
    for name, module in parts.items():
        own = {id(parameter): parameter.numel() for parameter in module.parameters()}
        counts[name] = sum(size for key, size in own.items() if key not in counted)
        counted |= own.keys()
    return counts
