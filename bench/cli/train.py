"""`bench train`: one backbone, one dataset, one protocol, one seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import Overrides, Plugins, load_plugins, parse_overrides
from bench.cli.output import bar, console, working

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.training.loop import Progress


def train(
    model: Annotated[str, typer.Option("--model", "-m", help="Backbone name, such as `udit-t`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoints, log, pictures.")],
    protocol: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="`smoke`, `micro`, `mini`, `paper` or a TOML file.")
    ] = "micro",
    data: Annotated[
        str | None, typer.Option(help="Dataset; by default the protocol's. `bench list --kind dataset`.")
    ] = None,
    data_options: Annotated[
        list[str],
        typer.Option("--data-option", metavar="KEY=VALUE", help="Option of the dataset, such as `root=DIR`."),
    ] = [],  # noqa: B006
    overrides: Overrides = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Of the weights, the order, the noise.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")
    ] = False,
    accumulation: Annotated[
        int, typer.Option(min=1, help="Parts into which a batch is cut, for memory.")
    ] = 1,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Train what torch.compile makes of it.")
    ] = False,
    tracker: Annotated[
        str | None, typer.Option(help="Also log to a tracker that accelerate knows, such as `tensorboard`.")
    ] = None,
    plugins: Plugins = [],  # noqa: B006
) -> None:
    """Train a backbone; kill it at any moment and go on with --resume.

    Several processes: `accelerate launch --num_processes N -m bench.cli train …`; they share each batch.
    """
    load_plugins(plugins)
    with working("loading torch"):
        from bench.training import protocols
        from bench.training.loop import train

        chosen = protocols.load(protocol)
    with _progress() as tell:
        trained = train(
            model,
            chosen,
            out,
            overrides=parse_overrides(overrides),
            data=data,
            data_options=parse_overrides(data_options, "--data-option"),
            seed=seed,
            resume=resume,
            accumulation=accumulation,
            compiled=compiled,
            tracker=tracker,
            progress=tell,
        )
    from bench.utils import distributed

    if distributed.is_main():
        told = f", {trained.images_per_second:.0f} images/s, loss {trained.loss:.4f}" if trained.taken else ""
        if trained.interrupted:
            console().print(f"stopped at step {trained.step}{told}: go on with --resume")
        else:
            console().print(f"{out} is trained to step {trained.step}{told}")
    if trained.interrupted:
        raise typer.Exit(130)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    with bar("[progress.description]{task.description}", "loss {task.fields[loss]:.4f}",
             "{task.fields[rate]:.0f} images/s") as shown:  # fmt: skip
        task = shown.add_task("training", total=None, loss=float("nan"), rate=float("nan"))

        def tell(now: Progress) -> None:
            shown.update(
                task,
                description=now.doing,
                completed=now.step,
                total=now.steps,
                loss=now.loss,
                rate=now.images_per_second,
            )

        yield tell
