"""`bench diff`: what changed between two folders of records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Json
from bench.cli.output import console, print_json


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Folder of records.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Folder of later records.")],
    tolerance: Annotated[float, typer.Option(help="How much worse a value may become: 0.05 is 5%.")] = 0.0,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a comment on a pull request.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare two folders of records; the exit status is 1 if a cost, speed or score became worse.

    Records of the same request are compared, scores over all their seeds. Worse means significantly worse
    than the tolerance allows. If nothing really changed, 5% of calls report a change, however many
    records they compare. A value that is now missing or not a number is worse; a record that only one folder
    has is not.

    Examples:
        bench diff main/results branch/results --tolerance 0.05
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
