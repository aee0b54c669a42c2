"""`bench export`: a dataset's images as a reference for `bench eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import DataOptions, Plugins, parse_overrides
from bench.cli.output import bars, console, working


def export_dataset(
    data: Annotated[str, typer.Option(help="Dataset; `bench list --kind dataset`.")],
    out: Annotated[Path, typer.Option(help="`FILE.npz` in the ADM suite's form.")],
    data_options: DataOptions = [],  # noqa: B006
    plugins: Plugins = [],  # noqa: B006
) -> None:
    """Write a dataset's images to one .npz, as the reference of what is trained on it."""
    with working("loading torch"):
        from bench import data as datasets
        from bench.data.export import export

        dataset = datasets.load(data, **parse_overrides(data_options, "--data-option"))
    with bars() as progress:
        export(dataset, out, progress)
    console().print(f"{len(dataset)} images of {dataset.name} in {out}", markup=False)
