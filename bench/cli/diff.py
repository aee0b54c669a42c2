"""`bench diff`: what changed between two folders of records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Json
from bench.cli.output import console, print_json


def diff(
    before: Annotated[Path, typer.Argument(help="Folder of records.")],
    after: Annotated[Path, typer.Argument(help="The same, later.")],
    tolerance: Annotated[
        float, typer.Option(help="How much worse a value may be: 0.05 is 5% of what it was.")
    ] = 0.0,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a comment on a pull request.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare two folders of records; exit status 1 if a cost, speed or score became worse.

    Records that answer the same question are compared, scores over their seeds.
    Worse means significantly worse than the tolerance allows: where nothing
    changed but chance, 5% of such comparisons claim something, however many
    records there are. A value that is missing or no number any more is worse; a
    record that only one folder has is not.
    """
    from dataclasses import asdict, replace

    from bench.reports.differences import differences, summary_page
    from bench.reports.render import markdown as renderer
    from bench.reports.render import terminal

    found = differences(before, after, tolerance)
    regressions = found.regressions
    page = summary_page(found)
    if as_json:
        judgements = [asdict(each) | {"quantity": each.quantity.name} for each in found.judgements]
        print_json(asdict(found) | {"judgements": judgements, "regressions": len(regressions)})
    elif markdown:
        print(renderer.page(page), end="")
    else:
        for section in page.sections:
            if section.table:
                terminal.table(replace(section.table, title=section.title), console())
        for word, files in (("removed", found.removed), ("added", found.added)):
            for file in files:
                console().print(f"{word}: {file}", soft_wrap=True)
        for text in (*page.sections[0].remarks, *page.sections[0].text):
            console().print(text, soft_wrap=True)
    if regressions:
        raise typer.Exit(1)
