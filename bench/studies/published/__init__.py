"""Figures of the papers, as printed, and which backbone each row stands for.

`published.csv` holds the 41 rows of Tables 1 to 6 of the U-DiT paper; `source` says whether its
authors measured the row (u-dit) or quoted it (dit). Nothing measured here may be put here.
"""

from __future__ import annotations

import csv
import functools
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import registry

TABLES = (1, 2, 3, 4, 5, 6)
QUALITY = ("fid", "sfid", "inception_score", "precision", "recall")


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        table: 1 … 6.
        label: the row's label, exactly as printed.
        source: who measured it: "u-dit" or "dit".
        model: the registered backbone it stands for.
        overrides: with these overrides.
        printed: the figures as printed, as text (`""` where the table has none): `training_steps`,
            `cfg_scale`, `gflops`, `fid`, `sfid`, `inception_score`, `precision`, `recall`.
    """

    table: int
    label: str
    source: str
    model: str
    overrides: dict[str, Any]
    printed: dict[str, str]

    @property
    def values(self) -> dict[str, float | int | str | None]:
        """The printed figures as numbers, None where the table has none, and their source."""
        numbers: dict[str, float | int | str | None] = {
            name: float(text) if text else None for name, text in self.printed.items()
        }
        return numbers | {"training_steps": int(self.printed["training_steps"]), "source": self.source}


@functools.cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("tables.toml").read_text("utf-8"))


def source() -> str:
    """The paper the figures were printed in."""
    return _tables()["source"]


def title(table: int) -> str:
    """What a table is about, in a few words."""
    return _tables()["titles"][str(table)]


def footnotes(table: int) -> list[tuple[tuple[str, ...], str]]:
    """Remarks on a table: (labels of the rows concerned, or none for the whole table; text)."""
    return [(tuple(n["rows"]), n["text"]) for n in _tables()["footnotes"] if n["table"] == table]


def rows(table: int | None = None) -> list[PublishedRow]:
    """The published rows in printed order, of one table or of all.

    Raises:
        UsageError: no such table.
    """
    if table is not None and table not in TABLES:
        raise registry.UsageError(f"there is no table {table}; the paper has Tables 1 to 6")
    ablations = _tables()["rows"]
    found = []
    with files(__package__).joinpath("published.csv").open(encoding="utf-8") as lines:
        for record in csv.DictReader(lines):
            number, label, origin = int(record.pop("table")), record.pop("row"), record.pop("source")
            if table in (None, number):
                name = "udit-t" if label in ablations else registry.backbones.find(label).name
                found.append(PublishedRow(number, label, origin, name, ablations.get(label, {}), record))
    return found
