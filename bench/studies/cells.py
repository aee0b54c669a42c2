"""Cells: a study's rows under a protocol, once for each seed, and the questions their records answer.

Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench import data, records
from bench.studies import Row, Study
from bench.training.protocols import Protocol
from registry.errors import UsageError

# Of a protocol's training, what changes no number that comes out.
SILENT = {"log_every", "checkpoint_every", "keep"}


@dataclass(frozen=True)
class Cell:
    """One row under one protocol with one seed.

    Attributes:
        row: of the study.
        protocol: with what the row changes about it.
        seed: of training and of sampling.
    """

    row: Row
    protocol: Protocol
    seed: int

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.row.label}, seed {self.seed}"

    @property
    def step(self) -> int:
        """The step of the training run whose averaged weights are measured."""
        return self.row.step or self.protocol.training.steps

    @cached_property
    def asked(self) -> dict[str, Any]:
        """The question, by which its record is named."""
        return quality_asked(self.row, self.protocol, self.seed)

    @cached_property
    def file(self) -> str:
        """Name of its record."""
        return records.name(self.asked)

    @cached_property
    def run(self) -> str:
        """Name of the folder of its training run: cells that differ in nothing that trains share it."""
        asked = self.asked
        decides = {key: asked[key] for key in ("model", "scaled", "data", "seed")}
        decides["training"] = {k: v for k, v in asked["training"].items() if k != "steps"}
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return f"{self.row.model}-{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def cells(study: Study, protocol: Protocol, seeds: Sequence[int]) -> list[Cell]:
    """All cells of a study under a protocol, seed by seed, so that an interrupted study has all rows.

    Rows that are not for this protocol have none.

    Raises:
        UsageError: a row changes something of the protocol that is not there, or to a value that is not
            right.
    """
    changed = [(row, _changed(row, protocol)) for row in study.rows if row.measured_under(protocol.name)]
    return [Cell(row, how, seed) for seed in seeds for row, how in changed]


def quality_asked(row: Row, protocol: Protocol, seed: int) -> dict[str, Any]:
    """What the record of a cell's image quality is named by, as JSON can hold it."""
    return {
        "measure": "quality",
        "model": row.model,
        "overrides": row.overrides,
        "protocol": protocol.name,
        "scaled": protocol.overrides(row.model) | row.overrides | (row.scale or {}).get(protocol.name, {}),
        "training": protocol.training.model_dump(exclude=SILENT),
        "data": data.datasets.find(protocol.data).name,
        "sampling": protocol.sampling.model_dump(),
        "step": row.step or protocol.training.steps,
        "seed": seed,
        "extractor": protocol.extractor,
    }


def cost_asked(model: str, overrides: dict[str, Any], input_size: int | None = None) -> dict[str, Any]:
    """What the record of a backbone's cost is named by, as JSON can hold it."""
    return {"measure": "cost", "model": model, "overrides": overrides, "input_size": input_size}


def known(results: Path) -> dict[str, dict[str, Any]]:
    """Records of costs and image quality in a folder, by file name; none where there is no folder.

    Warns:
        UserWarning: names each damaged record; it is left out.
    """
    found = records.read(results) if results.is_dir() else []
    return {record["file"]: record for record in found if record["asked"]["measure"] in ("quality", "cost")}


def _changed(row: Row, protocol: Protocol) -> Protocol:
    """The protocol with what a row changes about it."""
    table = protocol.model_dump()
    table["training"] |= row.training or {}
    table["sampling"] |= row.sampling or {}
    if row.cfg_scale is not None:
        table["sampling"]["cfg_scale"] = row.cfg_scale
    try:
        return Protocol.model_validate(table)
    except ValidationError as error:
        complaint = error.errors()[0]
        place = ".".join(map(str, complaint["loc"]))
        raise UsageError(f"row {row.label!r}: {place} = {complaint['input']!r}: {complaint['msg']}") from None
