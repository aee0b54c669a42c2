"""`bench train`: one backbone, one dataset, one protocol, one seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import DataOptions, Options, Plugins, parse_overrides
from bench.cli.output import console, working
from bench.utils.bars import bar, of_training


def train(
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Backbone, such as `udit-t`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for checkpoints, log and samples.")],
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="Data, steps and settings of training; see `bench list --kind protocol`. Or a TOML file.",
        ),
    ] = "micro",
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="'NAME [KEY=VALUE …]'",
            help="Training objective, such as `'ddpm beta_schedule=cosine'`; see `bench list --kind "
            "objective`. Default: the protocol's.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Dataset; see `bench list --kind dataset`. Default: the protocol's."
        ),
    ] = None,
    data_options: DataOptions = [],  # noqa: B006
    overrides: Options = [],  # noqa: B006
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the weights, the order of the data, and the noise.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the newest checkpoint in --out.")
    ] = False,
    accumulation: Annotated[
        int,
        typer.Option(
            min=1,
            help="Split each batch into this many parts, to save memory. Dropout and batch norm then act "
            "on each part.",
        ),
    ] = 1,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Train the network through torch.compile.")
    ] = False,
    tracker: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also log to a tracker of accelerate, such as `tensorboard`."),
    ] = None,
    plugins: Plugins = [],  # noqa: B006
) -> None:
    """Train a backbone under a protocol, on a GPU if there is one (`CUDA_VISIBLE_DEVICES` selects it).

    You can stop it at any time; the same command with --resume continues. Several processes share each batch:
    `accelerate launch --num_processes N -m bench.cli train …`.

    Examples:
        bench train --model udit-t --protocol smoke --out run
        bench train -m udit-b --protocol paper --data-option root=latents --out run
    """
    from bench.utils.load import load_note, other_load

    with working("loading torch"), other_load() as others:
        import torch

        from bench.training import protocols
        from bench.training.loop import train
        from bench.utils import distributed

        chosen = protocols.load(protocol)
    # Of several processes each would take the others for such; a thread alone waits for none.
    if distributed.count() == 1 and torch.get_num_threads() > 1 and (busy := load_note(others.cores)):
        console().print(busy)
    with bar() as shown, other_load() as others:
        result = train(
            model,
            chosen,
            out,
            overrides=parse_overrides(overrides),
            objective=objective,
            data=data,
            data_options=parse_overrides(data_options, "--data-option"),
            seed=seed,
            resume=resume,
            accumulation=accumulation,
            compiled=compiled,
            tracker=tracker,
            **of_training(shown),
        )
    if distributed.is_main():
        last = f", {result.images_per_second:.0f} images/s, loss {result.loss:.4f}" if result.taken else ""
        if result.interrupted:
            typer.echo(
                f"stopped at step {result.step}{last}: the same command with --resume continues", err=True
            )
        else:
            if distributed.count() == 1 and (busy := load_note(others.cores)):
                console().print(busy)
            console().print(f"{out} is trained to step {result.step}{last}", markup=False)
    if result.interrupted:
        raise typer.Exit(128 + result.signal)
