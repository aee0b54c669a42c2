"""`bench proxy`: which cheap measurement orders the rows of a study as a figure that is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Json, Plugins, Results
from bench.cli.output import console, print_json


def proxy(
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|FILE",
            help="Studies: the predictor is chosen on the first and evaluated on the others. Default: "
            "components, downsampler, toy, leaderboard, dico-components.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="SCORE",
            help="Published score to predict: fid, sfid, inception_score, precision or recall.",
        ),
    ] = "fid",
    every: Annotated[
        bool, typer.Option("--all", help="Show all predictors of every study, not only the five best.")
    ] = False,
    results: Results = Path("results"),
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Show which small protocol, score and checkpoint predict the published order, and how reliably.

    Only reads records; `bench ablate STUDY --protocol proxy-fashion` makes them. The target of a row is its
    published score, or the one that the study file gives (`known = { fid = 31.5 }`).

    Examples:
        bench proxy
        bench proxy components downsampler --target sfid --all
    """
    from bench import studies as study_files
    from bench.metrics.scores import SCORES
    from bench.reports import proxy as made
    from bench.reports.predictors import agreements, choose
    from bench.reports.render import terminal
    from bench.reports.select import Selection, lines

    chosen = [study_files.load(name) for name in studies or made.STUDIES]
    selection = Selection(results)
    # A user's file may be named like a built-in study, which the page calls by the number of its table.
    names = [study.name if study.folder is None else f"{study.name}.toml" for study in chosen]
    rows = [lines(study, selection) for study in chosen]
    found = [agreements(names[0], rows[0], target)]
    found += [agreements(name, each, target, rows[0]) for name, each in zip(names[1:], rows[1:], strict=True)]
    if as_json:
        print_json(made.values(each for study in found for each in study))
        return
    choice = choose(found)
    for text in made.answer(choice, SCORES[target].heading):
        console().print(text, markup=False)
    if every:
        for study, each in zip(chosen, found, strict=True):
            remarks = made.REMARKS if study is chosen[-1] else ()
            table = made.agreement_table(made.last_checkpoints(each), study.title, remarks)
            terminal.table(table, console())
    elif choice:
        best = [*choice.candidates[: made.BEST], *choice.free]
        title = f"The {made.BEST} best predictors on {chosen[0].title}, and costs alone"
        more = ["`--all` shows all predictors of every study, and explains the columns."]
        table = made.agreement_table(best, title, more, marked=choice.best, short=True)
        terminal.table(table, console())
