"""Cost of each built-in backbone with its default options, for lists; needs no torch.

`python -m tests.listed` writes `listed.csv`; a test checks that it matches the present code.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("listed.csv")


@dataclass(frozen=True)
class Listed:
    """Cost of a backbone with its defaults.

    Attributes:
        fingerprint: of the code that was counted.
        parameters: scalars, in training.
        paper_gflops: in the convention of the U-DiT paper's tables; see `bench.cost`.
    """

    fingerprint: str
    parameters: int
    paper_gflops: float


@functools.cache
def listed() -> dict[str, Listed]:
    """Cost of each built-in backbone, by name."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return {
            row["name"]: Listed(row["fingerprint"], int(row["parameters"]), float(row["paper_gflops"]))
            for row in csv.DictReader(file)
        }
