"""`bench sample`: images from a trained network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.options import Overrides, Plugins, parse_numbers, parse_overrides
from bench.cli.output import bars, console, working


def sample(
    checkpoint: Annotated[
        Path,
        typer.Option(
            help="Folder of a run or of one of its checkpoints, or a file of weights (with --model)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="`FILE.npz` in the ADM suite's form, or a folder for PNGs.")],
    num: Annotated[int | None, typer.Option(help="How many images; by default the protocol's.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="'NAME [KEY=VALUE …]'",
            help="`ddim`, `'ddim eta=0.5'`; `bench list --kind sampler`; by default the protocol's.",
        ),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="N|ddimN", help="Steps of the loop, or a respacing.")
    ] = None,
    cfg_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance; 1 is none.")] = None,
    guided_channels: Annotated[
        int | None, typer.Option(min=0, help="Leading channels that are guided; 0 for all.")
    ] = None,
    guide: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Another network that guides, as --checkpoint: smaller or less trained (autoguidance), "
            "or one without classes. Needs --guide-scale.",
        ),
    ] = None,
    guide_scale: Annotated[
        float | None, typer.Option(metavar="S", help="guide + S·(network − guide); 1 is none.")
    ] = None,
    guide_weights: Annotated[
        str, typer.Option(metavar="ema|model|WIDTH|KEY", help="As --weights, of the guide.")
    ] = "ema",
    guide_model: Annotated[
        str | None,
        typer.Option(metavar="'NAME [KEY=VALUE …]'", help="Backbone of the guide, for a file of weights."),
    ] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Times at which is guided, both included: steps 0 … 999 of `ddpm`, 0 (noise) … 1 (data) of "
            "`flow`, σ of `edm`; by default all.",
        ),
    ] = None,
    encoder_every: Annotated[
        int | None,
        typer.Option(min=1, help="Of DDT: evaluations for which its encoder runs once; by default 1."),
    ] = None,
    labels: Annotated[
        Literal["uniform", "balanced"] | None, typer.Option(help="Random classes, or each equally often.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Only these classes, by their numbers.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i depends on the seed and i alone.")] = 0,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once.")] = None,
    device: Annotated[
        str, typer.Option(help="`cpu`, `cuda`, `cuda:1`; by default a GPU if there is one.")
    ] = "",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="bf16 and fp16 run under autocast; fp16 on CUDA.")
    ] = "fp32",
    tf32: Annotated[
        bool | None, typer.Option("--tf32/--no-tf32", help="TF32 on CUDA; by default as in the protocol.")
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Run what torch.compile makes of it.")] = False,
    weights: Annotated[
        str,
        typer.Option(
            metavar="ema|model|WIDTH|KEY",
            help="Averaged weights, the last, or a power-function average of a width such as 0.08, of a run "
            "trained with posthoc_ema; of a file, the entry that holds the weights.",
        ),
    ] = "ema",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Backbone, for a file of weights.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    vae: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|ID", help="Decoder of latents, for a file of weights; `edm2:DIR` for those of EDM2."
        ),
    ] = None,
    pixels: Annotated[
        bool | None,
        typer.Option(
            "--pixels/--no-pixels",
            help="Weights that make pixels need no VAE; by default those with 1 or 3 input channels.",
        ),
    ] = None,
    vae_precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(help="Of the decoder's arithmetic; fp32 with --tf32 or without."),
    ] = "fp32",
    normalise: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For a file of weights: mean and standard deviation of latents by channel, in place of one "
            "scale, such as LightningDiT's latents_stats.pt.",
        ),
    ] = None,
    plugins: Plugins = [],  # noqa: B006
) -> None:
    """Make images; an interrupted call goes on where it stopped when it is repeated.

    The same images come out for every number of processes (`accelerate launch … -m bench.cli sample …`).
    """
    with working("loading torch"):
        from bench.sampling import Plan, open_weights
        from bench.sampling import sample as make
        from bench.training import protocols
        from bench.training.trained import open_guide, open_run
        from bench.utils import distributed
        from registry.errors import UsageError

        device = device or distributed.device()
        if checkpoint.is_dir():
            for option, value in (
                ("--model", model),
                ("--set", overrides or None),
                ("--pixels", pixels),
                ("--normalise", normalise),
            ):
                if value is not None:
                    raise UsageError(f"{option} is for a file of weights; {checkpoint} is a folder of a run")
            source = open_run(checkpoint, weights, vae, vae_precision)
        else:
            if model is None:
                raise UsageError(f"{checkpoint} is no folder of a run; a file of weights needs --model NAME")
            defaults = protocols.load("paper").sampling
            key = None if weights == "ema" else weights
            own = parse_overrides(overrides)
            source = open_weights(
                checkpoint, model, own, defaults, vae, key, pixels, vae_precision, normalise
            )
        if (guide is None) != (guide_scale is None):
            raise UsageError("--guide and --guide-scale belong together")
        options = {
            "sampler": sampler,
            "steps": steps,
            "cfg_scale": cfg_scale,
            "guided_channels": guided_channels,
            "guidance_interval": guidance_interval,
            "encoder_every": encoder_every,
            "num": num,
            "labels": labels,
            "batch_size": batch_size,
            "tf32": tf32,
        }
        changed = {key: value for key, value in options.items() if value is not None}
        settings = protocols.changed(source.defaults, changed)
        plan = Plan(
            source.objective, settings, tuple(parse_numbers(classes, "--classes") or ()), seed, precision
        )
        if guide is not None and guide_scale is not None:
            plan = replace(plan, guide=open_guide(guide, guide_scale, guide_weights, guide_model))
    with bars() as progress:
        sheet = make(
            source.network,
            source.to_images,
            plan,
            out,
            identity=source.identity,
            device=device,
            compiled=compiled,
            progress=progress,
        )
    if distributed.is_main():
        console().print(f"{settings.num} images in {out}; a sheet of the first in {sheet}", markup=False)
