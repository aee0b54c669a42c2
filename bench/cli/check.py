"""`bench check`: the contract every network must pass before anyone trusts it."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.options import (
    InputSize,
    Json,
    Models,
    Overrides,
    Plugins,
    load_plugins,
    model_names,
    parse_overrides,
    parse_size,
)
from bench.cli.output import print_json, print_table, working


def check(
    models: Models,
    overrides: Overrides = [],  # noqa: B006
    input_size: InputSize = None,
    plugins: Plugins = [],  # noqa: B006
    device: Annotated[str, typer.Option(help="Device to run on.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Check networks against the contract; exit status 1 if a check fails."""
    import torch

    import registry
    from bench import contract
    from bench.device import find_device

    load_plugins(plugins)
    asked = parse_overrides(overrides)
    if input_size is not None:
        asked["input_size"] = parse_size(input_size)
    place = find_device(device)
    results = {}
    for name in model_names(models):
        torch.manual_seed(0)
        with working(name) as status:
            network = registry.create(name, **asked).to(place)
            results[name] = contract.check(network, progress=status.update)
    if as_json:
        print_json([{"model": name} | vars(result) for name, found in results.items() for result in found])
    else:
        for name, found in results.items():
            rows = [[result.check, result.status, result.reason] for result in found]
            print_table(name, ["Check", "Result", "Reason"], rows, numbers=False)
    if any(result.status == "fail" for found in results.values() for result in found):
        raise typer.Exit(1)
