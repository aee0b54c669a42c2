"""Markdown as GitHub renders it. Columns are padded, so the source is readable too."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from bench.reports.page import Entry, Page, Section, Table


def page(page: Page) -> str:
    """A whole page."""
    parts = [f"# {escape(page.title)}"]
    for section in page.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    """Findings, table, picture, and folded notes."""
    parts = [*map(_item, section.text)]
    footnotes: Sequence[str] = ()
    remarks = list(section.remarks)
    if section.table:
        parts.append(table(section.table))
        footnotes, remarks = section.table.footnotes, [*section.table.remarks, *remarks]
    if section.picture:
        file, description = section.picture
        alt = re.sub(r"(?<!\\)([\[\]])", r"\\\1", escape(description))
        parts.append(f"![{alt}]({file})")
    notes = ["\n".join(f"{i}. {_item(text)}" for i, text in enumerate(footnotes, 1))]
    notes += ["\n".join(f"- {_item(text)}" for text in remarks)]
    if footnotes or remarks:
        parts += _fold("Notes", [*filter(None, notes)])
    if section.folded:
        return _fold(section.title, parts)
    return [f"## {escape(section.title)}", *parts] if section.title else parts


def _fold(title: str, parts: Sequence[str]) -> list[str]:
    return [f"<details><summary>{html.escape(' '.join(title.split()))}</summary>", *parts, "</details>"]


def table(table: Table) -> str:
    """A table alone, without footnotes and remarks."""
    from tabulate import tabulate

    return tabulate(
        [[_bold(entry) for entry in row] for row in table.rows],
        [escape(column.short_title) for column in table.columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if column.number else "left" for column in table.columns],
    )


def escape(text: str) -> str:
    """Escape text so that it makes no table, heading, emphasis, tag, formula, code, link or picture."""
    text = re.sub(r"([\\|*_<>`#$~])", r"\\\1", text.strip())
    text = re.sub(r"&(?=#?\w+;)", r"\&", text)  # of `&lt;`
    text = re.sub(r"\](?=[(\[:])", r"\]", text)  # of a link or its target
    return text.replace("://", r":\//").replace("www.", r"www\.")  # which GitHub makes links of


def _item(text: str) -> str:
    """Text of a paragraph or list item, escaped so that it starts no list or rule."""
    return re.sub(r"^(\d*)([-+=.)](?=[-=\s]|$))", r"\1\\\2", escape(text))


def _bold(entry: Entry) -> str:
    text = escape(entry.text)
    return f"**{text}**" if entry.best and text else text
