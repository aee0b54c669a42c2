"""Markdown as GitHub renders it; columns are padded, so that it reads as text too."""

from __future__ import annotations

import re

from bench.reports.page import Entry, Page, Section, Table


def page(page: Page) -> str:
    """A whole page."""
    parts = [f"# {escape(page.title)}"]
    for section in page.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {escape(section.title)}"] if section.title else []
    remarks = list(section.remarks)
    if section.table:
        parts.append(table(section.table))
        if section.table.footnotes:
            parts.append(
                "\n".join(f"{i}. {escape(text)}" for i, text in enumerate(section.table.footnotes, 1))
            )
        remarks = [*section.table.remarks, *remarks]
    if remarks:
        parts.append("\n".join(f"- {escape(text)}" for text in remarks))
    if section.picture:
        file, description = section.picture
        parts.append(f"![{escape(description)}]({file})")
    return parts


def table(table: Table) -> str:
    """A table alone, without footnotes and remarks."""
    from tabulate import tabulate

    return tabulate(
        [[_bold(entry) for entry in row] for row in table.rows],
        [escape(column.title) for column in table.columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if column.number else "left" for column in table.columns],
    )


def escape(text: str) -> str:
    """Text as itself: no table, emphasis, tag, code, link or picture comes of it."""
    text = re.sub(r"([\\|*_<>`])", r"\\\1", text)
    return text.replace("](", r"\](").replace("][", r"\]\[").replace("![", r"\!\[").replace("]:", r"\]:")


def _bold(entry: Entry) -> str:
    text = escape(entry.text)
    return f"**{text}**" if entry.best and text else text
