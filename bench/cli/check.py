"""`bench check`: the contract every network must pass before anyone trusts it."""

from __future__ import annotations

import typer

import registry
from bench.cli.options import (
    Device,
    InputSize,
    Json,
    Models,
    Overrides,
    Plugins,
    parse_models,
    parse_shared,
)
from bench.cli.output import print_json, print_table, working


def check(
    models: Models,
    overrides: Overrides = [],  # noqa: B006
    input_size: InputSize = None,
    plugins: Plugins = [],  # noqa: B006
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Check that networks are fit to be measured: shapes, time step, labels, gradients, checkpoints.

    `fail`: numbers of this network would be wrong; the exit status is 1. `warn`: a limitation that makes no
    number wrong.

    Examples:
        bench check --model udit-t
        bench check --model my-net --plugin my_net.py
    """
    networks = parse_models(models, parse_shared(overrides, input_size))
    with working("loading torch"):
        import torch

        from bench.utils import distributed
        from bench.utils.device import find_device
        from registry import contract

        place = find_device(device or distributed.device())
    results = []
    for name, own in networks:
        torch.manual_seed(0)
        with working(registry.label(name, own)) as status:
            network = registry.create(name, **own).to(place)
            results.append(contract.check(network, progress=lambda name, *_: status.update(name)))
    if as_json:
        print_json(
            [
                {"model": name, "overrides": own} | vars(result)
                for (name, own), found in zip(networks, results, strict=True)
                for result in found
            ]
        )
    else:
        for (name, own), found in zip(networks, results, strict=True):
            rows = [[result.check, result.status, result.reason] for result in found]
            counts = {status: sum(result.status == status for result in found) for status in ("fail", "warn")}
            notes = []
            if counts["fail"]:
                notes.append(f"{counts['fail']} failed: numbers of this network would be wrong.")
            if counts["warn"]:
                notes.append(f"{counts['warn']} warned: a limit of the network that makes no number wrong.")
            print_table(
                f"{registry.label(name, own)}, on {place}",
                ["Check", "Result", "Reason"],
                rows,
                numbers=False,
                notes=notes,
            )
    if any(result.status == "fail" for found in results for result in found):
        raise typer.Exit(1)
