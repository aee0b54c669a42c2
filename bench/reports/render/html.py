"""HTML: the pieces of a page, and whole pages of one file each; pictures are files beside it.

What a figure is linked to, and the looks, are decided by who asks: `page` here, or `bench.reports.site`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

from bench.reports.page import Column, Entry, Page, Section, Table

Link = Callable[[str], str]  # from the file of a record to an address

_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;padding:0 2em}p,li{max-width:62rem}"
    "div.scroll{overflow-x:auto}table{border-collapse:collapse}"
    "th,td{border-bottom:1px solid #ccc;padding:.25em .6em;text-align:right}"
    "th{vertical-align:bottom}.text{text-align:left}img{max-width:100%}"
)


def page(page: Page) -> str:
    """A whole page."""
    title = escape(page.title)
    parts = [
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>',
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>",
    ]
    for section in page.sections:
        parts += _section(section)
    return "\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"<h2>{escape(section.title)}</h2>"] if section.title else []
    parts += [f"<p>{escape(text)}</p>" for text in section.text]
    remarks = list(section.remarks)
    if section.table:
        parts += [table(section.table), *items("ol", section.table.footnotes)]
        remarks = [*section.table.remarks, *remarks]
    parts += items("ul", remarks)
    if section.picture:
        file, description = map(escape, section.picture)
        parts.append(f'<p><img src="{file}" alt="{description}"></p>')
    return parts


def table(table: Table, link: Link | None = None, classes: str = "") -> str:
    """A table alone, without footnotes and remarks.

    Args:
        table: any.
        link: where a figure's record is; by default figures are no links.
        classes: of the element.
    """
    body = "\n".join(f"<tr>{cells(table.columns, row, link)}</tr>" for row in table.rows)
    named = f' class="{classes}"' if classes else ""
    return (
        f'<div class="scroll"><table{named}>\n<thead><tr>{heads(table.columns)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def heads(columns: Iterable[Column]) -> str:
    """The cells of a table's head; those of columns of which more is better say so."""
    made = []
    for column in columns:
        kind = ' data-number="true"' if column.number else ' class="text"'
        higher = ' data-higher="true"' if "↑" in column.heading or "/s" in column.heading else ""
        made.append(f'<th scope="col"{kind}{higher}>{escape(column.title)}</th>')
    return "".join(made)


def cells(columns: Sequence[Column], row: Sequence[Entry], link: Link | None = None) -> str:
    """The cells of a row, each with its column's title for narrow screens."""
    return "".join(_cell(column, entry, link) for column, entry in zip(columns, row, strict=True))


def _cell(column: Column, entry: Entry, link: Link | None) -> str:
    text = escape(entry.text).replace("± ", "±\N{NO-BREAK SPACE}")
    if link and text and entry.records:
        several = f' title="{len(entry.records)} records, one a seed"' if len(entry.records) > 1 else ""
        text = f'<a href="{escape(link(entry.records[0]))}"{several}>{text}</a>'
    kinds = [name for name, holds in (("text", not column.number), ("best", entry.best)) if holds]
    named = f' class="{" ".join(kinds)}"' if kinds else ""
    return f'<td{named} data-title="{escape(column.title)}">{f"<b>{text}</b>" if entry.best else text}</td>'


def items(tag: str, texts: Iterable[str]) -> list[str]:
    """A list of texts; nothing of none."""
    made = "\n".join(f"<li>{escape(text)}</li>" for text in texts)
    return [f"<{tag}>\n{made}\n</{tag}>"] if made else []
