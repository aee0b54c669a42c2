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
            metavar="[NAME|FILE]…",
            help="Studies; the predictor is chosen on the first and judged on the others. By default "
            "`components`, `downsampler`, `toy`, `leaderboard` and `dico-components`.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(help="The published figure to predict: fid, sfid, inception_score, precision, recall."),
    ] = "fid",
    results: Results = Path("results"),
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Which protocol, score and checkpoint predict the published order, and how sure that is.

    A row's figure is that of the published row that it stands for, or what the study's file says of it
    (`known = { fid = 31.5 }`). Needs the records alone: measure them with `bench ablate STUDY --protocol
    proxy-fashion`. `--json` tells every checkpoint.
    """
    from bench import studies as study_files
    from bench.metrics.scores import SCORES
    from bench.reports import proxy as made
    from bench.reports.predictors import agreements, choose
    from bench.reports.render import terminal
    from bench.reports.select import Selection, lines

    chosen = [study_files.load(name) for name in studies or made.STUDIES]
    selection = Selection(results)
    first = lines(chosen[0], selection)
    found = [agreements(chosen[0].name, first, target)]
    found += [agreements(study.name, lines(study, selection), target, first) for study in chosen[1:]]
    if as_json:
        print_json(made.values(each for study in found for each in study))
        return
    for study, each in zip(chosen, found, strict=True):
        last = study is chosen[-1]
        table = made.agreement_table(made.last_checkpoints(each), study.title, made.REMARKS if last else ())
        terminal.table(table, console())
    for text in made.answer(choose(found), SCORES[target].heading):
        console().print(text, markup=False)
