"""What the device is measured for once it computes what it should: speed, where the time goes, quality.

Speed and quality become records in DIR/records, as of `bench throughput` and `bench ablate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import registry
from bench import records, studies
from bench.records.schema import Context, Speed
from bench.speed import profile as profiles
from bench.speed import throughput
from bench.studies import published
from bench.studies.cells import Cell, cells
from bench.studies.jobs import Task
from bench.studies.measuring import measure_quality
from bench.studies.staleness import fingerprints
from bench.training import protocols
from tests.device.journal import Found, Items

Network = tuple[str, dict[str, Any]]
SMALL = Path(__file__).with_name("small.toml")
ROUNDS = 6  # the fewest that give an interval
SEEDS = 8


def speed(device: torch.device, out: Path, tiny: bool) -> Items:
    """Forward passes: the networks of each table and the families, eager, then one by one compiled."""
    if tiny:
        groups: dict[str, list[Network]] = {"tiny": [("tiny-unet", {"input_size": 8})] * 2}
        return dict(_eager(groups, [("fp32", 1)], device, out))
    most = {"table 6": of_table(6), "families": families()}
    groups = most | {f"table {number}": of_table(number) for number in (5, 1, 2)}
    first = [("bf16", 64), ("tf32", 64), ("fp32", 64), ("bf16", 1), ("bf16", 8)]
    rest = [(dtype, batch) for dtype in ("tf32", "fp32") for batch in (1, 8)]
    small = [("udit-s", {}), ("dit-s-2", {}), *of_table(6), *families()]
    return {
        **dict(_eager(groups, first[:1], device, out)),
        **dict(_alone(small, [("bf16", 64)], device, out, compile=True)),
        **dict(_eager(groups, first[1:], device, out)),
        **dict(_alone(small[:2], [("bf16", 64), ("bf16", 8)], device, out, num_inference_steps=50)),
        **dict(
            _alone(small[:2], [("bf16", 64), ("bf16", 8)], device, out, num_inference_steps=50, compile=True)
        ),
        **dict(_eager(most, [("bf16", "auto")], device, out)),
        **dict(_alone(small, [("bf16", 1), ("tf32", 64)], device, out, compile=True)),
        **dict(_eager(groups, rest, device, out)),
        **dict(_alone(small, [("bf16", 64)], device, out, channels_last=True)),
    }


def training(device: torch.device, out: Path, tiny: bool) -> Items:
    """Training steps of single networks: a batch that does not fit is told of that network alone."""
    if tiny:
        return dict(_alone([("tiny-unet", {"input_size": 8})], [("fp32", 1)], device, out, mode="training"))
    networks = [("udit-s", {}), ("dit-s-2", {}), *of_table(6), *families(), ("udit-b", {}), ("dit-b-2", {})]
    options: dict[str, Any] = {"mode": "training"}
    return {
        **dict(_alone(networks, [("bf16", 64), ("tf32", 64)], device, out, **options)),
        **dict(_alone(networks[:2], [("bf16", 64)], device, out, compile=True, **options)),
        **dict(_alone(networks, [("bf16", "auto"), ("fp32", 64)], device, out, **options)),
        **dict(_alone(networks[2:], [("bf16", 64)], device, out, compile=True, **options)),
    }


def profile(device: torch.device, out: Path, tiny: bool) -> Items:
    """Where the time of a forward pass goes, and a picture of it."""
    from bench.reports.profile_figure import draw, finding

    def measure(name: str, options: dict[str, Any], dtype: Any, batch: int) -> Found:
        torch.manual_seed(0)
        network = registry.create(name, **options)
        found = profiles.measure(
            network, device=str(device), dtype=dtype, batch_size=batch, repeats=1 if tiny else 10
        )
        draw([found], out / "pictures" / f"{name}-{dtype}-{batch}")
        return found.model_dump(mode="json") | {"finding": finding(found)}

    networks = [("tiny-unet", {"input_size": 8})] if tiny else [("udit-s", {}), ("dit-s-2", {}), *families()]
    return {
        f"{registry.label(name, options)} {dtype} {batch}": partial(measure, name, options, dtype, batch)
        for dtype, batch in ([("fp32", 1)] if tiny else [("bf16", 64), ("bf16", 1), ("fp32", 64)])
        for name, options in networks
    }


def quality(device: torch.device, out: Path, tiny: bool, data: Path | None) -> Items:
    """Cells of Table 6 and of the small networks under `proxy-cifar-32`, seed by seed.

    Args:
        data: folder of CIFAR-10; see `bench.data.cifar10`.
    """
    if tiny:
        planned = cells(studies.load("components"), protocols.load("smoke"), [0])[:1]
    else:
        protocol = protocols.load("proxy-cifar-32")
        planned = [
            cell
            for seed in range(SEEDS)
            for study in ("components", SMALL)
            for cell in cells(studies.load(study), protocol, [seed])
        ]

    def measure(cell: Cell) -> Found:
        task = Task(
            title=cell.title,
            request=cell.request,
            overrides=cell.overrides,
            protocol=cell.protocol,
            run=out / "runs" / cell.run,
            results=out / "records",
            data_options={} if data is None or tiny else {"root": str(data)},
        )
        measure_quality(task)
        return {"label": cell.row.label, "seed": cell.seed, "record": cell.file}

    return {cell.title: partial(measure, cell) for cell in planned}


# ---- networks, and how they are timed ----


def of_table(number: int) -> list[Network]:
    """The networks of a published table, each once."""
    found: list[Network] = []
    for row in published.rows(number):
        if row.model and (row.model, row.overrides) not in found:
            found.append((row.model, row.overrides))
    return found


def families() -> list[Network]:
    """A network of every family, at like cost."""
    rows = studies.load("backbones").rows
    return [*((row.model, row.overrides) for row in rows if row.model), ("dic-s", {}), ("dico-s", {})]


def _eager(
    groups: dict[str, list[Network]], cases: Sequence[tuple[Any, Any]], device: torch.device, out: Path
) -> Iterator[tuple[str, Any]]:
    """Groups of networks in turns."""
    for dtype, batch in cases:
        for title, networks in groups.items():
            settings = throughput.Settings(device=str(device), dtype=dtype, batch_size=batch)
            yield f"{title} {dtype} {batch}", partial(_time, networks, settings, out)


def _alone(
    networks: Sequence[Network],
    cases: Sequence[tuple[Any, Any]],
    device: torch.device,
    out: Path,
    **options: Any,
) -> Iterator[tuple[str, Any]]:
    """Networks one by one."""
    for dtype, batch in cases:
        for name, overrides in networks:
            settings = throughput.Settings(device=str(device), dtype=dtype, batch_size=batch, **options)
            way = sorted(options.keys() - {"mode"})
            title = " ".join([registry.label(name, overrides), dtype, str(batch), *way])
            yield title, partial(_time, [(name, overrides)], settings, out)


def _time(networks: list[Network], settings: throughput.Settings, out: Path) -> Found:
    """Images a second, by network."""
    return {_label(result): result.images_per_second for result in timed(networks, settings, out)}


def timed(networks: Sequence[Network], settings: throughput.Settings, out: Path) -> list[Speed]:
    """Time networks and write their records."""
    results = throughput.measure(networks, settings, repeats=ROUNDS)
    for result in results:
        against = None if result is results[0] else _label(results[0])
        context = Context(against=against, repeats=ROUNDS)
        records.write(
            result,
            out / "records",
            context=context,
            fingerprints=fingerprints(result.request),
            device=settings.device,
        )
    return results


def _label(result: Speed) -> str:
    return registry.label(result.request.model, result.request.config)
