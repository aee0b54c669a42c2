"""What a network costs."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bench.records.schema.base import Finite, Model, Request, Result, Size
from bench.utils.frames import Row

Convention = Literal["paper", "macs", "flops"]
By = Literal["stage", "module", "operator"]


class CostRequest(Request):
    """Cost of one forward pass of the deployed network, batch 1."""

    kind: Literal["cost"] = "cost"


class Part(Model):
    """Cost of a stage, a module or a kind of operator; what does not apply is None.

    Attributes:
        macs: multiply-accumulates.
        paper: operations in the convention of U-DiT's tables.
        parameters, parameters_deployed: scalars, trained and merged for inference.
        activation_bytes: peak while it runs, what waits for later stages included.
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
        request: what was measured; of a module that was built by hand its class's name and no config.
        input_size: side of the input grid, or (H, W).
        parameters: scalars in the trained network, fixed tables included.
        parameters_deployed: the same after re-parameterised modules are merged for inference.
        macs: exact multiply-accumulates.
        flops: 2·macs.
        paper_gflops: 10⁹ operations in the convention of U-DiT's tables.
        activation_bytes: peak of live tensors besides the weights, float32, without gradients; the skips that
            wait for the decoder included.
        uncounted: operators that may cost something and are in no count -> how often.
        notes: what a reader must know of the counts, such as that they depend on values; sentences.
        stages, modules, operators: the same cost in parts; a record keeps the stages.
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
