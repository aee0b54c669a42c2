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
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Check networks against the contract; exit status 1 if numbers of one cannot be trusted.

    `fail` is an error; `warn` a limit of the network that makes no number wrong.
    """
    import torch

    from bench.utils.device import find_device
    from registry import contract

    networks = parse_models(models, parse_shared(overrides, input_size))
    place = find_device(device)
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
                notes.append(f"{counts['fail']} failed: numbers of this network cannot be trusted.")
            if counts["warn"]:
                notes.append(f"{counts['warn']} warned: a limit of the network, which makes no number wrong.")
            print_table(
                registry.label(name, own), ["Check", "Result", "Reason"], rows, numbers=False, notes=notes
            )
    if any(result.status == "fail" for found in results for result in found):
        raise typer.Exit(1)
