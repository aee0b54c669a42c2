"""What changed between two folders of records, and what of it became worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import registry
from bench import records
from registry.errors import UsageError

# Values compared, by measure: 1 where more is worse, −1 where less is worse.
WORSE = {
    "cost": dict.fromkeys(
        ("parameters", "parameters_deployed", "macs", "flops", "paper_gflops", "activation_bytes"), 1
    ),
    "throughput": {"images_per_second": -1, "peak_bytes": 1},
    "quality": {"fid": 1, "sfid": 1, "kid": 1, "inception_score": -1, "precision": -1, "recall": -1},
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
    old, new = ({record["file"]: record for record in records.read(folder)} for folder in (before, after))
    common = sorted(old.keys() & new.keys())
    if not common:
        raise UsageError(f"{before} and {after} have no record in common: there is nothing to compare")
    changes = [change for file in common for change in _changes(old[file], new[file], tolerance)]
    return Differences(len(common), sorted(old.keys() - new), sorted(new.keys() - old), changes)


def _changes(old: dict[str, Any], new: dict[str, Any], tolerance: float) -> list[Change]:
    asked = old["asked"]
    found = []
    for value, sign in WORSE.get(asked["measure"], {}).items():
        before, after = (_number(record["values"].get(value)) for record in (old, new))
        if before == after:
            continue
        relative, regression = None, after is None
        if before is not None and after is not None:
            relative = (after - before) / abs(before) if before else None
            regression = sign * (after - before) > tolerance * abs(before)
        found.append(Change(old["file"], _title(asked), value, before, after, relative, regression))
    return found


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return value if is_number else None


def _title(asked: dict[str, Any]) -> str:
    words = [registry.label(asked["model"], asked.get("overrides", {}))]
    words += [f"{key} {asked[key]}" for key in ("protocol", "step", "seed") if asked.get(key) is not None]
    return " ".join(words)
