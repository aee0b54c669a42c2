"""Tables and pages as data, which `bench.reports.render` writes in several formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple

_GROUPS = {"": "", "published": "Published", "measured": "Measured here"}


class Entry(NamedTuple):
    """A cell of a table.

    Attributes:
        text: its text.
        best: whether it is bold.
        records: files of the records of its figure, one for each seed.
        url: address of a source, linked on the site.
        model: name of a backbone, whose page is linked on the site.
    """

    text: str
    best: bool = False
    records: tuple[str, ...] = ()
    url: str = ""
    model: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: heading with the unit.
        group: where its figures come from.
        number: whether it holds numbers, which are right-aligned and never shortened.
    """

    heading: str
    group: Literal["", "published", "measured"] = ""
    number: bool = True

    @property
    def title(self) -> str:
        """`FID↓, published`."""
        return f"{self.heading}, {self.group}" if self.group else self.heading

    @property
    def short_title(self) -> str:
        """`paper FID↓`, for narrow places."""
        word = {"": "", "published": "paper ", "measured": "here "}[self.group]
        return word + self.heading


@dataclass(frozen=True)
class Table:
    """Columns and rows; the first column labels the rows.

    Attributes:
        columns, rows: the columns, and the entries of each row.
        title: title in a terminal; may be empty. On a page the section has the title.
        footnotes: numbered from 1, for the marks "[1]" in labels.
        remarks: how numbers were measured and what they mean, each one or more sentences.
        text: paragraphs between title and table.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Entry]]
    title: str = ""
    footnotes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    text: Sequence[str] = ()

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(heading, number of columns) of neighbouring columns of one group; [] if all are of one group."""
        runs = [(group, len([*of])) for group, of in groupby(self.columns, attrgetter("group"))]
        return [(_GROUPS[group], count) for group, count in runs] if len(runs) > 1 else []


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its title; empty for the first section.
        text: paragraphs before the table.
        table: the table, if any.
        remarks: notes below the table.
        picture: file name and description.
        folded: whether it is folded until a reader opens it.
    """

    title: str = ""
    text: Sequence[str] = ()
    table: Table | None = None
    remarks: Sequence[str] = ()
    picture: tuple[str, str] | None = None
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A page with its file name without extension."""

    file: str
    title: str
    sections: Sequence[Section] = field(repr=False)
