"""A page of a report as plain pieces, and its Markdown, HTML and LaTeX. Nothing is computed here."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Entry(NamedTuple):
    """A cell of a table."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table whose first column labels the rows; all others hold numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Entry]]


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: `""` for the first, which stands under the page's own.
        footnotes: numbered from 1, as the marks "[1]" in labels say.
        remarks: how the numbers came about and what they mean, one sentence or more each.
        picture: file name and description.
    """

    title: str = ""
    grid: Grid | None = None
    footnotes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    picture: tuple[str, str] | None = None


@dataclass(frozen=True)
class Page:
    """A page, and the file it goes to, without its ending."""

    file: str
    title: str
    sections: Sequence[Section] = field(repr=False)


def markdown(page: Page) -> str:
    """The page as GitHub renders it; columns are padded, so that it reads as text too."""
    parts = [f"# {_markdown(page.title)}"]
    for section in page.sections:
        if section.title:
            parts.append(f"## {_markdown(section.title)}")
        if section.grid:
            parts.append(_markdown_table(section.grid))
        if section.footnotes:
            parts.append("\n".join(f"{i}. {_markdown(text)}" for i, text in enumerate(section.footnotes, 1)))
        if section.remarks:
            parts.append("\n".join(f"- {_markdown(text)}" for text in section.remarks))
        if section.picture:
            file, description = section.picture
            parts.append(f"![{_markdown(description)}]({file})")
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_<>`])", r"\\\1", text)


def _markdown_table(grid: Grid) -> str:
    from tabulate import tabulate

    rows = [[_bold(entry, "**", _markdown(entry.text)) for entry in row] for row in grid.rows]
    return tabulate(
        rows,
        [_markdown(column) for column in grid.columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(grid.columns) - 1)),
    )


def _bold(entry: Entry, mark: str, text: str) -> str:
    return f"{mark}{text}{mark}" if entry.best and text else text


_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "th,td{border-bottom:1px solid #ccc;padding:.25em .6em;text-align:right;white-space:nowrap}"
    "th{white-space:normal;vertical-align:bottom}th:first-child,td:first-child{text-align:left}"
    "img{max-width:100%}"
)


def html_page(page: Page) -> str:
    """The page as one HTML file; pictures are files beside it."""
    title = html.escape(page.title)
    parts = [
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>',
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>",
    ]
    for section in page.sections:
        if section.title:
            parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.grid:
            heads = "".join(f"<th>{html.escape(column)}</th>" for column in section.grid.columns)
            rows = [
                "".join(
                    f"<td><b>{html.escape(e.text)}</b></td>" if e.best else f"<td>{html.escape(e.text)}</td>"
                    for e in row
                )
                for row in section.grid.rows
            ]
            body = "\n".join(f"<tr>{row}</tr>" for row in rows)
            parts.append(f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>")
        for tag, texts in (("ol", section.footnotes), ("ul", section.remarks)):
            if texts:
                items = "\n".join(f"<li>{html.escape(text)}</li>" for text in texts)
                parts.append(f"<{tag}>\n{items}\n</{tag}>")
        if section.picture:
            file, description = map(html.escape, section.picture)
            parts.append(f'<p><img src="{file}" alt="{description}"></p>')
    return "\n".join(parts) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "−": r"$-$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "ρ": r"$\rho$",
    "³": r"$^3$",
    "–": "--",
    "…": r"\ldots{}",
    "`": r"\textasciigrave{}",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def latex(page: Page) -> str:
    """The tables, to be included in a document; it needs no package."""
    parts = [f"% {_latex(page.title)}"]
    for section in page.sections:
        if not section.grid:
            continue
        sentences = filter(None, (page.title, section.title))
        caption = " ".join(text if text.endswith(("?", "!", ".")) else f"{text}." for text in sentences)
        # A row that begins with a bracket would be read as the line break's optional argument.
        rows = [
            " & ".join(rf"\textbf{{{_latex(e.text)}}}" if e.best else _latex(e.text) for e in row)
            for row in section.grid.rows
        ]
        notes = [f"[{i}] {text}" for i, text in enumerate(section.footnotes, 1)] + list(section.remarks)
        parts.append(
            "\n".join(
                [
                    r"\begin{table}\centering\small",
                    rf"\caption{{{_latex(caption)}}}",
                    rf"\begin{{tabular}}{{l{'r' * (len(section.grid.columns) - 1)}}}",
                    r"\hline",
                    " & ".join(map(_latex, section.grid.columns)) + r" \\ \hline",
                    *(rf"{{}}{row} \\" for row in rows),
                    r"\hline",
                    r"\end{tabular}",
                    *(rf"\par {_latex(note)}" for note in notes),
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"
