"""What a network costs."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bench.records.schema.base import Finite, Model, NetworkRequest, Result, Size
from bench.utils.frames import Row

Convention = Literal["paper", "macs", "flops"]
By = Literal["stage", "module", "operator"]


class CostRequest(NetworkRequest):
    """Cost of one forward pass of the deployed network, batch 1.

    Attributes:
        kind: kind of measurement.
    """

    kind: Literal["cost"] = "cost"


class Part(Model):
    """Cost of a stage, a module or a kind of operator; None where a value does not apply.

    Attributes:
        name: name of the stage, module or kind of operator.
        macs: multiply-accumulates.
        paper: operations as the U-DiT paper counts them.
        parameters: scalars as trained.
        parameters_deployed: scalars after merging for inference.
        activation_bytes: largest memory while the part runs, with what is kept for later stages.
    """

    name: str
    macs: int
    paper: int
    parameters: int | None = None
    parameters_deployed: int | None = None
    activation_bytes: int | None = None

    def count(self, convention: Convention) -> int:
        """Operations in one convention."""
        return {"paper": self.paper, "macs": self.macs, "flops": 2 * self.macs}[convention]


class Cost(Result):
    """Cost of one forward pass at batch 1.

    Attributes:
        request: what was measured. For a module that was not made from the registry, the name of its class
            and no options.
        input_size: side of the input grid, or (H, W).
        parameters: scalars in the trained network, fixed tables included.
        parameters_deployed: the same after merging for inference.
        macs: multiply-accumulates, exact.
        flops: 2·macs.
        paper_gflops: 10⁹ operations as the U-DiT paper counts them.
        activation_bytes: largest sum of tensors in use at one time, skips included, without the weights;
            float32, no gradients.
        uncounted: operators that no count includes although they may cost something, and how often each is
            called.
        notes: what limits these counts, such as that they depend on values; sentences.
        stages: the cost by stage.
        modules: the cost by module; not in records.
        operators: the cost by kind of operator; not in records.
    """

    excluded: ClassVar[set[str]] = {"input_size", "modules", "operators"}

    request: CostRequest
    input_size: Size | None = None
    parameters: int
    parameters_deployed: int
    macs: int
    flops: int
    paper_gflops: Finite
    activation_bytes: int
    uncounted: dict[str, int]
    notes: tuple[str, ...] = Field(default=(), exclude_if=lambda notes: not notes)  # as records of before
    stages: tuple[Part, ...] = Field(repr=False)
    modules: tuple[Part, ...] = Field(default=(), repr=False)
    operators: tuple[Part, ...] = Field(default=(), repr=False)

    def columns(self) -> Row:
        """See `Result.columns`."""
        size = self.input_size
        sides = (size, size) if isinstance(size, int) else size
        return ({"Input": "×".join(map(str, sides))} if sides else {}) | {
            "Params (M)": self.parameters / 1e6,
            "Params deployed (M)": self.parameters_deployed / 1e6,
            "GFLOPs (paper)": self.paper_gflops,
            "GMACs": self.macs / 1e9,
            "Memory (MiB)": self.activation_bytes / 2**20,
        }

    def count(self, convention: Convention) -> float:
        """Operations in one convention."""
        return {"paper": self.paper_gflops * 1e9, "macs": self.macs, "flops": self.flops}[convention]

    def parts(self, by: By) -> tuple[Part, ...]:
        """The breakdown by stage, by module or by operator."""
        return {"stage": self.stages, "module": self.modules, "operator": self.operators}[by]
