"""`bench eval`: how good images are, beside a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import Json, load_plugins
from bench.cli.output import bar, print_json, print_table, working

if TYPE_CHECKING:
    from rich.progress import TaskID

    from bench.metrics.evaluation import Comparison

Extractor = Annotated[
    str | None,
    typer.Option(help="`inception`, `digits` (the default up to 16×16 pixels) or a plugin's."),
]
Plugins = Annotated[
    list[str],
    typer.Option("--plugin", metavar="FILE|MODULE", help="Python file or module that registers extractors."),
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights of the extractor.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a pass of the extractor.")]
Device = Annotated[str, typer.Option(help="Device to run on: `cpu`, `cuda`, `cuda:1`.")]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder that keeps features. Default: in the user's cache."),
]


def evaluate(
    samples: Annotated[
        str, typer.Option(metavar="PATH", help="Folder of images, or .npz of images or features.")
    ],
    reference: Annotated[str, typer.Option(metavar="PATH", help="The same, or .npz of statistics.")],
    extractor: Extractor = None,
    weights: Weights = None,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
    half_distances: Annotated[
        bool,
        typer.Option("--half-distances", help="Precision and recall at half precision, as in the ADM suite."),
    ] = False,
    kid: Annotated[bool, typer.Option("--kid", help="Also KID.")] = False,
    intervals: Annotated[bool, typer.Option("--intervals", help="95% confidence intervals.")] = False,
    fid_infinity: Annotated[
        bool, typer.Option("--fid-infinity", help="Also FID extrapolated to infinitely many samples.")
    ] = False,
    cache: Cache = None,
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """FID, sFID, Inception score, precision and recall, equal to the ADM suite's.

    A folder is searched at any depth for png, jpg and webp.
    An .npz holds images (arr_0) as the ADM suite's files do, features that
    `bench features` wrote, or statistics (mu, sigma), which give FID and sFID.
    """
    load_plugins(plugins)
    with working("loading torch"):
        from bench.metrics.evaluation import compare
    with bars() as progress:
        found = compare(
            samples,
            reference,
            extractor=extractor,
            weights=weights,
            batch_size=batch_size,
            device=device,
            half_distances=half_distances,
            kid=kid,
            intervals=intervals,
            fid_infinity=fid_infinity,
            cache=cache,
            progress=progress,
        )
    if found is None:  # of several processes one prints
        return
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)


def _print(found: Comparison) -> None:
    from bench.metrics.evaluation import TITLES

    scores = found.scores
    rows = []
    for score, title in TITLES.items():
        value = getattr(scores, score)
        if value is None and score not in scores.missing:
            continue  # not asked for
        row = [title, _figures(score, value)]
        if scores.intervals:
            row.append("–".join(_figures(score, end) for end in scores.intervals.get(score, ())))
        rows.append(row)
    columns = ["Score", "Value", "95% interval"][: 3 if scores.intervals else 2]
    print_table("Image quality", columns, rows, notes=found.notes)


def _figures(score: str, value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.{ {'precision': 4, 'recall': 4, 'kid': 6}.get(score, 3) }f}"


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar with its rate on stderr for each step; None where it is not for this process to say."""
    from rich.markup import escape

    from bench.utils import distributed

    if not distributed.is_main():
        yield None
        return
    with bar("{task.description}", "{task.fields[rate]}") as progress:
        tasks: dict[str, TaskID] = {}

        def update(doing: str, done: int, count: int) -> None:
            if doing not in tasks:
                tasks[doing] = progress.add_task(escape(doing), rate="")
            speed = progress.tasks[tasks[doing]].speed
            rate = f"{speed:,.0f}/s" if speed else ""
            progress.update(tasks[doing], completed=done, total=count, rate=rate)

        yield update
