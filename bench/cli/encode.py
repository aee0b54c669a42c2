"""`bench encode`: a folder of images to latents on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.options import Device
from bench.cli.output import console, working
from bench.utils.bars import bar


def encode(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Folder of images by class: DIR/CLASS/IMAGE.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the latents. Finished parts are kept.")
    ],
    vae: Annotated[
        str,
        typer.Option(
            metavar="ID|DIR",
            help="AutoencoderKL: its id on the hub or a diffusers folder. `edm2` or `edm2:DIR` for EDM2's "
            "latents.",
        ),
    ] = "stabilityai/sd-vae-ft-ema",
    size: Annotated[int, typer.Option(help="Side that images are resized and cropped to.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 32,
    device: Device = None,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Also encode the mirrored images.")] = True,
    posterior: Annotated[
        Literal["moments", "sample", "mean"],
        typer.Option(
            help="What is kept of each image's posterior: its mean and standard deviation, from which "
            "training draws a new sample at every step; one sample (half the space); or the mean."
        ),
    ] = "moments",
    seed: Annotated[int, typer.Option(help="Seed of samples from the posterior.")] = 0,
    dtype: Annotated[
        Literal["float32", "float16"], typer.Option(help="Number format of the files.")
    ] = "float32",
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Number format of the VAE; fp32 excludes TF32.")
    ] = "fp32",
) -> None:
    """Encode a folder of images into latents with a VAE, for training on `--data latents`.

    You can stop it at any time; the same command resumes. `torchrun` and `accelerate launch` distribute the
    work over processes.

    Examples:
        bench encode --images imagenet/train --out latents
    """
    with working("loading torch"):
        from bench.data.encoding import encode as encode_images
        from bench.data.folder import Folder
        from bench.data.latents import INDEX
        from bench.utils import distributed
        from bench.utils.device import find_device

        place = find_device(device or distributed.device())
    with working(f"looking through {images}"):
        dataset = Folder(images, size)
        _ = dataset.digest  # reads all files the first time
    with bar() as progress:
        index = encode_images(
            dataset,
            out,
            vae,
            flipped=flip,
            posterior=posterior,
            dtype=dtype,
            precision=precision,
            seed=seed,
            batch_size=batch_size,
            device=place,
            progress=progress,
        )
    if distributed.is_main() and not (out / INDEX).exists():
        console().print("other processes are still encoding; the last one completes the folder")
    elif distributed.is_main():
        shape = "×".join(map(str, index.shape))
        console().print(
            f"{index.count} images of {index.num_classes} classes as {shape} latents in {out}: train on them "
            f"with --data latents --data-option root={out}",
            soft_wrap=True,
        )
