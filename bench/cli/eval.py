"""`bench eval`: how good images are, beside a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import Device, Json, Plugins
from bench.cli.output import print_json, print_table, working
from bench.utils.bars import bar

if TYPE_CHECKING:
    from bench.metrics.evaluation import Comparison

Extractor = Annotated[
    str | None,
    typer.Option(help="`inception`, `digits` (the default up to 16×16 pixels) or a plugin's."),
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights of the extractor.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a pass of the extractor.")]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder to store features in. Default: in the user's cache."),
]


def evaluate(
    samples: Annotated[
        str, typer.Option(metavar="PATH", help="Folder of images, or .npz of images or features.")
    ],
    reference: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="The same, or .npz of statistics; repeatable, where extractors have files of their own.",
        ),
    ],
    scores: Annotated[
        list[str],
        typer.Option(
            "--score",
            metavar="NAME",
            help="Only this score or wildcard, such as `kid` or `'*'`; repeatable. See "
            "`bench list --kind score`.",
        ),
    ] = [],  # noqa: B006
    extractor: Extractor = None,
    weights: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]FILE",
            help="Weights of the extractor, or of the one that is named; repeatable. See `bench weights`.",
        ),
    ] = [],  # noqa: B006
    batch_size: BatchSize = 64,
    device: Device = None,
    half_distances: Annotated[
        bool,
        typer.Option("--half-distances", help="Precision and recall at half precision, as in the ADM suite."),
    ] = False,
    fid_infinity: Annotated[
        bool, typer.Option("--fid-infinity", help="Also FID extrapolated to infinitely many samples.")
    ] = False,
    intervals: Annotated[bool, typer.Option("--intervals", help="95% confidence intervals.")] = False,
    cache: Cache = None,
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """FID, sFID, Inception score, precision and recall, equal to the ADM suite's, FD-DINOv2 and others.

    A score names its extractor: `--score fid --score fd_dinov2` takes Inception's
    features and DINOv2's, in one pass over the images.

    A folder is searched at any depth for all that Pillow reads.
    An .npz holds images (arr_0) as the ADM suite's files do, features that
    `bench features` wrote, or statistics (mu, sigma), which give FID and sFID.

    Examples:
        bench eval --samples samples.npz --reference digits.npz
        bench eval --samples samples --reference imagenet256.npz --score fid
    """
    with working("loading torch"):
        from bench.metrics.evaluation import compare
        from bench.metrics.scores import select
        from bench.utils import distributed

    if fid_infinity:
        scores = [*(scores or [score.name for score in select(())]), "fid_infinity"]
    with bar() as progress:
        found = compare(
            samples,
            reference,
            scores=scores,
            extractor=extractor,
            weights=_weights(weights),
            batch_size=batch_size,
            device=device or distributed.device(),
            half_distances=half_distances,
            intervals=intervals,
            cache=cache,
            progress=progress,
        )
    if found is None:  # of several processes one prints
        return
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)


def _weights(given: list[str]) -> str | dict[str, str] | None:
    """A file for the extractor that is asked for, or files by extractor."""
    from bench.metrics.extractors import extractors
    from registry.errors import UsageError

    named = {}
    for text in given:
        name, equals, file = text.partition("=")
        if equals and name in extractors.names():
            named[name] = file
        elif len(given) == 1:
            return text
        else:
            raise UsageError(
                f"--weights {text}: of several files each takes its extractor, as in dinov2=FILE"
            )
    return named or None


def _print(found: Comparison) -> None:
    from bench.metrics.scores import SCORES

    rows = []
    for name, value in found.scores.items():
        score = SCORES[name]
        row = [score.full_name, "none" if value is None else score.text(value)]
        if found.intervals:
            row.append("–".join(score.text(end) for end in found.intervals.get(name, ())))
        rows.append(row)
    columns = ["Score", "Value", "95% interval"][: 3 if found.intervals else 2]
    print_table("Image quality", columns, rows, notes=found.notes)
