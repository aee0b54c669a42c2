"""`bench export`: a dataset's images as a reference for `bench eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import DataOptions, Plugins, parse_overrides
from bench.cli.output import console, working
from bench.utils.bars import bar


def export_dataset(
    data: Annotated[str, typer.Option(metavar="NAME", help="Dataset; see `bench list --kind dataset`.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE.npz", help="File to write, in the layout of the ADM suite.")
    ],
    data_options: DataOptions = [],  # noqa: B006
    plugins: Plugins = [],  # noqa: B006
) -> None:
    """Write the images of a dataset to one .npz, as a reference for `bench eval`.

    Examples:
        bench export --data digits --out digits.npz
    """
    with working("loading torch"):
        from bench import data as datasets
        from bench.data.export import export

        dataset = datasets.load(data, **parse_overrides(data_options, "--data-option"))
    with bar() as progress:
        export(dataset, out, progress)
    console().print(f"{len(dataset)} images of {dataset.name} in {out}", markup=False)
