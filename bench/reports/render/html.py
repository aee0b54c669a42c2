"""HTML: one file a page; pictures are files beside it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from bench.reports.page import Entry, Page, Section, Table

_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "th,td{border-bottom:1px solid #ccc;padding:.25em .6em;text-align:right;white-space:nowrap}"
    "th{white-space:normal;vertical-align:bottom}th:first-child,td:first-child{text-align:left}"
    "img{max-width:100%}"
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
        parts += [table(section.table), *_list("ol", section.table.footnotes)]
        remarks = [*section.table.remarks, *remarks]
    parts += _list("ul", remarks)
    if section.picture:
        file, description = map(escape, section.picture)
        parts.append(f'<p><img src="{file}" alt="{description}"></p>')
    return parts


def table(table: Table) -> str:
    """A table alone, without footnotes and remarks."""
    heads = "".join(f"<th>{escape(column.title)}</th>" for column in table.columns)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _cell(entry: Entry) -> str:
    text = escape(entry.text)
    return f"<td><b>{text}</b></td>" if entry.best else f"<td>{text}</td>"


def _list(tag: str, texts: Iterable[str]) -> list[str]:
    items = "\n".join(f"<li>{escape(text)}</li>" for text in texts)
    return [f"<{tag}>\n{items}\n</{tag}>"] if items else []
