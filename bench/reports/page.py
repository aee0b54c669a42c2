"""Tables and pages as plain pieces, which `bench.reports.render` writes in many forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple

_GROUPS = {"": "", "published": "Published", "measured": "Measured here"}


class Entry(NamedTuple):
    """One place of a table.

    Attributes:
        best: whether it is marked.
        records: the files that its figure is from, one for each seed.
        url: address of a source, which pages of the site link.
        model: name of a backbone, whose page is linked likewise.
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
        heading: with its unit.
        group: where its figures come from.
        number: whether it holds numbers, which align right and are never cut.
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
        title: above it in a terminal; may be empty. On a page the section's stands there.
        footnotes: numbered from 1, as the marks "[1]" in labels say.
        remarks: how the numbers came about and what they mean, a sentence or more each.
        text: paragraphs below the title, likewise.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Entry]]
    title: str = ""
    footnotes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    text: Sequence[str] = ()

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Where figures of neighbouring columns come from, and how many these are; [] where all are alike."""
        runs = [(group, len([*of])) for group, of in groupby(self.columns, attrgetter("group"))]
        return [(_GROUPS[group], count) for group, count in runs] if len(runs) > 1 else []


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: `""` for the first, which stands under the page's own.
        text: paragraphs before the table.
        picture: file name and description.
        folded: whether a reader opens it first, by its title.
    """

    title: str = ""
    text: Sequence[str] = ()
    table: Table | None = None
    remarks: Sequence[str] = ()
    picture: tuple[str, str] | None = None
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A page, and the file it goes to, without its ending."""

    file: str
    title: str
    sections: Sequence[Section] = field(repr=False)
