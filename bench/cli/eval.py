"""`bench eval`: how good images are, beside a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.cli.options import Device, Json, Plugins, Results
from bench.cli.output import console, print_json, print_table, working
from bench.utils.bars import bar

if TYPE_CHECKING:
    from bench.metrics.evaluation import Comparison


def evaluate(
    samples: Annotated[
        str, typer.Option(metavar="PATH", help="Folder of images, or .npz of images or features.")
    ],
    reference: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="Folder of images, or .npz of images, features or statistics. Repeatable, for extractors "
            "with files of their own.",
        ),
    ],
    scores: Annotated[
        list[str],
        typer.Option(
            "--score",
            metavar="NAME",
            help="Compute only this score or wildcard, such as `kid` or `'*'`; see `bench list --kind "
            "score`. Repeatable.",
        ),
    ] = [],  # noqa: B006
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Extractor of scores that have none of their own, such as FID: `inception`, or a plugin's. "
            "Default: `inception`; `digits` for images of at most 16×16 pixels.",
        ),
    ] = None,
    weights: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]FILE",
            help="Weights of the extractor, or of the named one; see `bench weights`. Repeatable.",
        ),
    ] = [],  # noqa: B006
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass of the extractor.")] = 64,
    device: Device = None,
    half_distances: Annotated[
        bool,
        typer.Option("--half-distances", help="Precision and recall at half precision, as in the ADM suite."),
    ] = False,
    intervals: Annotated[bool, typer.Option("--intervals", help="Also print 95% intervals.")] = False,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to store features in. Default: in the user's cache."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="For the record: what was sampled and how, as in 'EDM2-S, guidance 1.4'."),
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Write a record of the scores.")] = False,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="For the record: the backbone, if it is registered.")
    ] = None,
    provenance: Annotated[
        str, typer.Option(metavar="TEXT", help="For the record: where the samples come from.")
    ] = "",
    labels: Annotated[
        Literal["balanced", "drawn"] | None,
        typer.Option(
            help="For the record: each class equally often, or classes drawn at random. Default: read from "
            "the labels in arr_1."
        ),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also show the published rows of this name."),
    ] = None,
    results: Results = Path("results"),
    plugins: Plugins = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Score images: FID, sFID, Inception score, precision and recall as in the ADM suite, FD-DINOv2, others.

    Each score has its extractor: `--score fid --score fd_dinov2` computes features of Inception and DINOv2
    in one pass over the images.

    A folder is searched at any depth for images that Pillow can read. An .npz file holds images (arr_0, as in
    the ADM suite), features from `bench.metrics.features.make_file`, or statistics (mu, sigma), which give
    FID and sFID.

    Examples:
        bench eval --samples samples.npz --reference digits.npz
        bench eval --samples samples --reference imagenet256.npz --score fid
    """
    with working("loading torch"):
        from bench.metrics.evaluation import compare
        from bench.studies import scored
        from bench.utils import distributed

    told = scored.Declared(label, model, provenance, labels, published, record=record)
    device = device or distributed.device()
    with bar() as progress:
        found = compare(
            samples,
            reference,
            scores=scores,
            extractor=extractor,
            weights=_weights(weights),
            batch_size=batch_size,
            device=device,
            half_distances=half_distances,
            intervals=intervals,
            cache=cache,
            progress=progress,
        )
    if found is None:  # of several processes one prints
        return
    found = scored.with_published(found, told)
    written = scored.record(found, told, results, device) if record else []
    if as_json:
        print_json(found.to_dict())
        return
    _print(found)
    for path in written:
        console().print(f"wrote {path}", soft_wrap=True, markup=False)


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
                f"--weights {text}: with several files, each needs its extractor, as in dinov2=FILE"
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
    if found.published:
        _print_published(found)


def _print_published(found: Comparison) -> None:
    from bench.metrics.scores import SCORES

    rows, notes = [], []
    for each in found.published:
        for name, (printed, ours, difference) in each.scores.items():
            score = SCORES[name]
            change = "" if difference is None else ("" if difference < 0 else "+") + score.text(difference)
            shown = "" if ours is None else score.text(ours)
            rows.append([each.row, each.conditions, score.full_name, score.text(printed), shown, change])
        notes += [f"{each.row}: {note}" for note in (*each.notes, f"Source: {each.source}.")]
    columns = ["Row", "Conditions", "Score", "Published", "Here", "Difference"]
    print_table("Beside published figures", columns, rows, numbers=columns[3:], notes=dict.fromkeys(notes))
