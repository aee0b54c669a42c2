"""Figures of the papers, as printed, and which backbone each row stands for.

`published.csv` holds the 41 rows of Tables 1 to 6 of the U-DiT paper; `source` says whether its
authors measured the row (u-dit) or quoted it (dit). `leaderboard.csv` holds 22 rows of six families, and
`dico.csv` the 15 networks of Tables 4 and 5 of the DiCo paper, each with the publication that it is from.
Nothing measured here may be put here.
"""

from __future__ import annotations

import csv
import functools
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import registry

OTHERS = ("leaderboard", "dico")  # rows that are not of the U-DiT paper
TABLES = (1, 2, 3, 4, 5, 6, *OTHERS)
QUALITY = ("fid", "sfid", "inception_score", "precision", "recall")
OBJECTIVES = {"ddpm": "noise prediction", "flow": "flow"}


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        table: 1 … 6, or one of `OTHERS`.
        label: the row's label, exactly as printed.
        source: who measured it: "u-dit" or "dit"; of the others, the publication.
        model: the registered backbone it stands for; None where there is none.
        overrides: with these overrides.
        objective: what the network was trained for, "ddpm" or "flow".
        sampler: what its samples were made with, in words.
        printed: the figures as printed, as text (`""`, or no entry, where the table has none):
            `training_steps`, `batch_size`, `cfg_scale`, `params` (in millions), `gflops`, `fid`, `sfid`,
            `inception_score`, `precision`, `recall`.
    """

    table: int | str
    label: str
    source: str
    model: str | None
    overrides: dict[str, Any]
    objective: str
    sampler: str
    printed: dict[str, str]

    @property
    def of_the_paper(self) -> bool:
        """Whether it is a row of the U-DiT paper."""
        return self.table not in OTHERS

    @property
    def conditions(self) -> tuple[str, str]:
        """Objective and guidance in words. Scores compare where both are the same."""
        scale = float(self.printed["cfg_scale"])
        return OBJECTIVES[self.objective], "no guidance" if scale == 1 else f"guidance {scale:g}"

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
    """The paper that Tables 1 to 6 were printed in."""
    return _tables()["source"]


def title(table: int) -> str:
    """What a table is about, in a few words."""
    return _tables()["titles"][str(table)]


def footnotes(table: int | str) -> list[tuple[tuple[str, ...], str]]:
    """Remarks on a table: (labels of the rows concerned, or none for the whole table; text)."""
    return [(tuple(n["rows"]), n["text"]) for n in _tables()["footnotes"] if n["table"] == table]


def rows(table: int | str | None = None) -> list[PublishedRow]:
    """The published rows in printed order, of one table or of all.

    Raises:
        UsageError: no such table.
    """
    if table is not None and table not in TABLES:
        raise registry.UsageError(f"there is no table {table}; the paper has Tables 1 to 6")
    found = [_row(record, int(record["table"])) for record in read("published.csv")]
    found += [_row(record, other) for other in OTHERS for record in read(f"{other}.csv")]
    return [row for row in found if table in (None, row.table)]


def read(file: str) -> list[dict[str, str]]:
    """The lines of a CSV file of this package."""
    with files(__package__).joinpath(file).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _row(record: dict[str, str], table: int | str) -> PublishedRow:
    """A line of a file; a row of the U-DiT paper names its backbone by its label, or is an ablation."""
    known, label = _tables(), record["row"]
    overrides = known["rows" if table not in OTHERS else "others"]
    if table in OTHERS:
        model = record["backbone"] or None
    else:
        model = "udit-t" if label in overrides else registry.backbones.find(label).name
    objective = record.get("objective", "ddpm")
    others = ("table", "row", "backbone", "objective", "source")
    return PublishedRow(
        table=table,
        label=label,
        source=record["source"],
        model=model,
        overrides=overrides.get(label, {}),
        objective=objective,
        sampler=known["samplers"][objective],
        printed={key: text for key, text in record.items() if key not in others},
    )
