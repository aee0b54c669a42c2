"""`bench features`: features and statistics of a set, written once for many comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.eval import BatchSize, Cache, Extractor, Weights
from bench.cli.options import Device, Plugins
from bench.cli.output import console, working
from bench.utils.bars import bar


def features(
    images: Annotated[str, typer.Option(metavar="PATH", help="Folder of images, or .npz of images.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .npz to write.")],
    extractor: Extractor = None,
    weights: Weights = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    with_images: Annotated[
        bool,
        typer.Option("--with-images", help="Also store the images, which the ADM suite's evaluator needs."),
    ] = False,
    cache: Cache = None,
    plugins: Plugins = [],  # noqa: B006
) -> None:
    """Write the features and statistics of a set of images to one .npz, to reuse them in `bench eval`.

    `bench eval` takes the file as --samples or --reference. It also holds mu, sigma, mu_s and sigma_s, which
    the ADM suite and pytorch-fid read.

    Examples:
        bench features --images digits.npz --out features.npz
    """
    with working("loading torch"):
        from bench.metrics.features import make_file
        from bench.utils import distributed
    with bar() as progress:
        written = make_file(
            images,
            out,
            extractor=extractor,
            weights=weights,
            batch_size=batch_size,
            device=device or distributed.device(),
            with_images=with_images,
            cache=cache,
            progress=progress,
        )
    for line in written or ():
        console().print(line, markup=False)
