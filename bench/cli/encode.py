"""`bench encode`: a folder of images to latents on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.output import bars, console, working


def encode(
    images: Annotated[Path, typer.Option(help="Folder of images by class: FOLDER/CLASS/IMAGE.")],
    out: Annotated[Path, typer.Option(help="Folder for the latents; a finished part of it is kept.")],
    vae: Annotated[
        str,
        typer.Option(
            metavar="ID|DIR",
            help="AutoencoderKL: id of the hub or diffusers folder; `edm2` or `edm2:DIR` for EDM2's latents.",
        ),
    ] = "stabilityai/sd-vae-ft-ema",
    size: Annotated[int, typer.Option(help="Side that images are resized and cropped to.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 32,
    device: Annotated[
        str | None,
        typer.Option(help="Device to run on: `cpu`, `cuda`, `cuda:1`. Default: this process's GPU, if any."),
    ] = None,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Also encode the mirrored images.")] = True,
    posterior: Annotated[
        Literal["moments", "sample", "mean"],
        typer.Option(
            help="What is kept of each image's posterior: mean and standard deviation, from which training "
            "draws anew at every step; one sample (half the space); or the mean."
        ),
    ] = "moments",
    seed: Annotated[int, typer.Option(help="Of the sample that is kept, or taken for references.")] = 0,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Of the files.")] = "float32",
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Of the VAE's arithmetic; fp32 without TF32.")
    ] = "fp32",
) -> None:
    """Encode a folder of images with a VAE, for training on `latents`.

    Run it again to go on after an interruption; torchrun or `accelerate launch` shares the work between
    processes.
    """
    with working("loading torch"):
        import torch

        from bench.data.encoding import encode as encode_images
        from bench.data.folder import Folder
        from bench.data.latents import INDEX
        from bench.utils import distributed
        from bench.utils.device import find_device

        if device is None:
            own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
            device = own if torch.cuda.is_available() else "cpu"
        place = find_device(device)
    with working(f"looking through {images}"):
        dataset = Folder(images, size)
        _ = dataset.digest  # reads all files the first time
    with bars() as progress:
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
        console().print("other processes are not done yet: the last one completes the folder")
    elif distributed.is_main():
        shape = "×".join(map(str, index.shape))
        console().print(
            f"{index.count} images of {index.num_classes} classes as {shape} latents in {out}: train on them "
            f"with --data latents --data-option root={out}",
            soft_wrap=True,
        )
