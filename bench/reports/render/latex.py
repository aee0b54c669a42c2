"""LaTeX tables to include in a document; they need no packages."""

from __future__ import annotations

import re

from bench.reports.page import Entry, Page, Section

_SMALL = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi "
    "chi psi omega"
).split()
_CAPITAL = "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()  # others are as Latin ones
_GREEK = dict(zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ", [*_SMALL, *_CAPITAL], strict=True))
_CHARACTERS = {
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
    "→": r"$\rightarrow$",
    **{letter: rf"$\{name}$" for letter, name in _GREEK.items()},
    "²": r"$^2$",
    "³": r"$^3$",
    "∞": r"$\infty$",
    "–": r"\textendash{}",
    "…": r"\ldots{}",
    "`": r"\textasciigrave{}",
}


def page(page: Page) -> str:
    """The tables of a page."""
    parts = [f"% {escape(page.title)}"]
    parts += [_table(page.title, section) for section in page.sections if section.table]
    return "\n\n".join(parts) + "\n"


def _table(page_title: str, section: Section) -> str:
    table = section.table
    assert table is not None
    sentences = filter(None, (page_title, section.title))
    caption = " ".join(text if text.endswith(("?", "!", ".")) else f"{text}." for text in sentences)
    # A row that begins with a bracket would be taken for an argument of the line break before it.
    rows = [" & ".join(map(_cell, row)) for row in table.rows]
    notes = [f"[{i}] {text}" for i, text in enumerate(table.footnotes, 1)]
    notes += [*table.remarks, *section.remarks]
    return "\n".join(
        [
            r"\begin{table}\centering\small",
            rf"\caption{{{escape(caption)}}}",
            *(rf"\par {escape(text)}" for text in section.text),
            rf"\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in table.columns)}}}",
            r"\hline",
            " & ".join(escape(column.title) for column in table.columns) + r" \\ \hline",
            *(rf"{{}}{row} \\" for row in rows),
            r"\hline",
            r"\end{tabular}",
            *(rf"\par {escape(note)}" for note in notes),
            r"\end{table}",
        ]
    )


def escape(text: str) -> str:
    """Escape text so that LaTeX prints it unchanged."""
    escaped = "".join(_CHARACTERS.get(character, character) for character in text)
    return re.sub(r"([-'])(?=\1)", r"\1{}", escaped)  # or two make a dash or a quotation mark


def _cell(entry: Entry) -> str:
    return rf"\textbf{{{escape(entry.text)}}}" if entry.best else escape(entry.text)
