"""`bench sample`: images from a trained network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.options import Device, Options, Plugins, parse_numbers, parse_overrides
from bench.cli.output import console, working
from bench.utils.bars import bar

# Panels of the options.
GUIDANCE, WEIGHTS, DEVICE = "Guidance", "If --checkpoint is a file of weights", "Device and precision"


def sample(
    checkpoint: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="Folder of a run or of one of its checkpoints, or a file of weights (with --model).",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="`FILE.npz` as the ADM suite reads it, or a folder for PNGs.")
    ],
    num: Annotated[int | None, typer.Option(min=1, help="Number of images. Default: the protocol's.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="`ddim` or `'ddim eta=0.5'`; see `bench list --kind sampler`. Default: the protocol's.",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N|ddimN",
            help="Number of steps; `ddim50`: 50 steps spaced as DDIM's. Default: the protocol's.",
        ),
    ] = None,
    encoder_every: Annotated[
        int | None,
        typer.Option(min=1, help="DDT only: run the encoder in every N-th evaluation only. Default: 1."),
    ] = None,
    labels: Annotated[
        Literal["uniform", "balanced"] | None,
        typer.Option(help="Classes: drawn at random, or each equally often. Default: the protocol's."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Only these classes, by number.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i depends only on the seed and i.")] = 0,
    weights: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="Averaged weights (ema), last weights (model), or the width of a power-function average, "
            "such as 0.08, for a run with posthoc_ema. For a file: the entry that holds the weights.",
        ),
    ] = "ema",
    plugins: Plugins = [],  # noqa: B006
    cfg_scale: Annotated[
        float | None,
        typer.Option(help="Scale of classifier-free guidance; 1: none.", rich_help_panel=GUIDANCE),
    ] = None,
    guided_channels: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of guided channels, from the first; 0: all.", rich_help_panel=GUIDANCE
        ),
    ] = None,
    guide: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Guiding network, given like --checkpoint: smaller or less trained (autoguidance), or "
            "without classes. Needs --guide-scale.",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    guide_scale: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="The prediction is guide + S·(network − guide); 1: no guidance.",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    guide_weights: Annotated[
        str, typer.Option(metavar="WHICH", help="Like --weights, for the guide.", rich_help_panel=GUIDANCE)
    ] = "ema",
    guide_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Backbone of the guide, if it is a file of weights.",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Guide only at times from LOW to HIGH: steps 0 … 999 for `ddpm`, 0 (noise) … 1 (data) for "
            "`flow`, σ for `edm`. Default: always.",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Backbone, for a file of weights.", rich_help_panel=WEIGHTS),
    ] = None,
    overrides: Options = [],  # noqa: B006
    vae: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|ID",
            help="Decoder of latents, for a file of weights; `edm2:DIR` for EDM2's.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    pixels: Annotated[
        bool | None,
        typer.Option(
            "--pixels/--no-pixels",
            help="Whether the network makes pixels or latents. Default: pixels if it has 1 or 3 input "
            "channels.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    vae_precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(help="Number format of the decoder.", rich_help_panel=DEVICE),
    ] = "fp32",
    normalise: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Mean and standard deviation of the latents by channel, for a file of weights, such as "
            "LightningDiT's latents_stats.pt.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images per batch. Default: the protocol's.", rich_help_panel=DEVICE),
    ] = None,
    device: Device = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        typer.Option(help="bf16 and fp16 use autocast; fp16: CUDA only.", rich_help_panel=DEVICE),
    ] = "fp32",
    tf32: Annotated[
        bool | None,
        typer.Option(
            "--tf32/--no-tf32", help="TF32 on CUDA. Default: as in the protocol.", rich_help_panel=DEVICE
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Run the network through torch.compile.", rich_help_panel=DEVICE)
    ] = False,
) -> None:
    """Sample images from a trained network.

    You can stop it at any time; the same command resumes. Several processes (`accelerate launch … -m
    bench.cli sample …`) make the same images as one.

    Examples:
        bench sample --checkpoint run --out samples.npz --num 1000 --steps 50
        bench sample --checkpoint DiT-XL-2.pt --model dit-xl-2 --out samples.npz
    """
    from registry.errors import UsageError

    for path in filter(None, (checkpoint, guide)):
        if not path.exists():
            raise UsageError(f"no such file or folder: {path}")
    if (guide is None) != (guide_scale is None):
        raise UsageError("give --guide and --guide-scale together")
    if guide is None and (guide_model is not None or guide_weights != "ema"):
        raise UsageError("--guide-model and --guide-weights describe a guide: add --guide and --guide-scale")
    with working("loading torch"):
        from bench.sampling import Plan, open_weights
        from bench.sampling import sample as make
        from bench.training import protocols
        from bench.training.trained import open_guide, open_run
        from bench.utils import distributed

        device = device or distributed.device()
        if checkpoint.is_dir():
            for option, value in (
                ("--model", model),
                ("--set", overrides or None),
                ("--pixels", pixels),
                ("--normalise", normalise),
            ):
                if value is not None:
                    raise UsageError(
                        f"{option} is for a file of weights, but {checkpoint} is the folder of a run"
                    )
            source = open_run(checkpoint, weights, vae, vae_precision)
        else:
            if model is None:
                raise UsageError(f"{checkpoint} is a file of weights: add --model NAME")
            defaults = protocols.load("paper").sampling
            key = None if weights == "ema" else weights
            own = parse_overrides(overrides)
            source = open_weights(
                checkpoint, model, own, defaults, vae, key, pixels, vae_precision, normalise
            )
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
        if settings.cfg_scale == 1 and guided_channels is not None:
            raise UsageError("--guided-channels needs guidance by classes: add --cfg-scale")
        if settings.cfg_scale == 1 and guide is None and guidance_interval is not None:
            raise UsageError("--guidance-interval needs guidance: add --cfg-scale or --guide")
        plan = Plan(
            source.objective, settings, tuple(parse_numbers(classes, "--classes") or ()), seed, precision
        )
        if guide is not None and guide_scale is not None:
            plan = replace(plan, guide=open_guide(guide, guide_scale, guide_weights, guide_model))
    with bar() as progress:
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
        console().print(
            f"{settings.num} images in {out}, made on {device}; the first of them on a sheet: {sheet}",
            markup=False,
        )
