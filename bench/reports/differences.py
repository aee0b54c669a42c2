"""What changed between two folders of records, and what of it became worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import registry
from bench import records
from bench.metrics.scores import SCORES
from bench.records.quantities import COSTS, HELD_OUT, SPEEDS, Quantity
from bench.records.schema import Quality, Record
from registry.errors import UsageError

# Quantities compared, by kind of record.
COMPARED: dict[str, dict[str, Quantity]] = {
    "cost": COSTS,
    "speed": SPEEDS,
    "quality": {**SCORES, **HELD_OUT},
}


@dataclass(frozen=True)
class Change:
    """A value that is not what it was.

    Attributes:
        file: the record.
        title: model, overrides and seed, in words.
        before, after: None where there is no finite number.
        relative: (after − before) / |before|; None where that is not defined.
        regression: whether it became worse by more than the tolerance, or is no number any more.
    """

    file: str
    title: str
    value: str
    before: float | None
    after: float | None
    relative: float | None
    regression: bool


@dataclass(frozen=True)
class Differences:
    """Of two folders, record by record.

    Attributes:
        compared: records in both.
        removed, added: files of records in one alone.
        changes: by file.
    """

    compared: int
    removed: Sequence[str]
    added: Sequence[str]
    changes: Sequence[Change]

    @property
    def regressions(self) -> list[Change]:
        """What became worse."""
        return [change for change in self.changes if change.regression]


def differences(before: str | Path, after: str | Path, tolerance: float = 0.0) -> Differences:
    """Compare the records of two folders that answer the same questions.

    Args:
        before, after: folders of records.
        tolerance: how much worse a value may be, as a fraction of what it was.

    Raises:
        UsageError: no such folder, a negative tolerance, or no question that both answer.
    """
    if not tolerance >= 0:
        raise UsageError(f"--tolerance is a fraction of 0 or more, not {tolerance:g}")
    old, new = ({record.file: record for record in records.read(folder)} for folder in (before, after))
    common = sorted(old.keys() & new.keys())
    if not common:
        raise UsageError(f"{before} and {after} have no record in common: there is nothing to compare")
    changes = [change for file in common for change in _changes(old[file], new[file], tolerance)]
    return Differences(len(common), sorted(old.keys() - new), sorted(new.keys() - old), changes)


def _changes(old: Record, new: Record, tolerance: float) -> list[Change]:
    found = []
    for name, quantity in COMPARED.get(old.request.kind, {}).items():
        before, after = (_number(record, quantity) for record in (old, new))
        if before == after:
            continue
        relative, regression = None, after is None
        if before is not None and after is not None:
            relative = (after - before) / abs(before) if before else None
            worse = before - after if quantity.higher_is_better else after - before
            regression = worse > tolerance * abs(before)
        value = quantity.field or name
        found.append(Change(old.file, _title(old), value, before, after, relative, regression))
    return found


def _number(record: Record, quantity: Quantity) -> float | None:
    result = record.result
    if isinstance(result, Quality):
        value = result.value(quantity.name)
    else:
        value = getattr(result, quantity.field or quantity.name)
    return value if value is not None and math.isfinite(value) else None


def _title(record: Record) -> str:
    request = record.request
    words = [registry.label(request.model, request.config)]
    if record.context.protocol:
        words.append(f"protocol {record.context.protocol}")
    words += [f"{key} {getattr(request, key)}" for key in ("step", "seed") if hasattr(request, key)]
    return " ".join(words)
