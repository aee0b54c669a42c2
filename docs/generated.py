"""The pages of reference that are tables of what the code has: backbones, plugins, protocols, files.

`write(folder)` writes them; `docs/conf.py` calls it at each build.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import registry
from bench import studies
from bench.cli.catalog import REGISTRIES
from bench.cost.listed import listed
from bench.metrics.scores import SCORES
from bench.records import schema
from bench.records.quantities import COSTS, HELD_OUT, Quantity, decimals
from bench.studies import Study, StudyRow, _WrittenRow, _WrittenStudy
from bench.training import protocols
from bench.utils.text import documented

Table = list[list[str]]


def write(folder: Path) -> None:
    """Write every page to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "backbones": backbones(),
        "plugins": plugins(),
        "scores": scores(),
        "protocols": protocol_files(),
        "studies": study_files(),
        "records": record_files(),
    }
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text + "\n", "utf-8")


def table(head: list[str], rows: Table) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + ":--|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows])


def backbones() -> str:
    """Every backbone with its paper and cost, and the options of each family."""
    costs = listed()
    rows, families = [], {}
    for name in registry.names():
        entry, cost = registry.backbones.describe(name), costs[name]
        rows.append(
            [
                f"`{name}`",
                entry.paper,
                str(registry.backbones.attribute(name, "objective")),
                COSTS["params"].text(cost.parameters),
                decimals(cost.paper_gflops, COSTS["gflops"].digits),
            ]
        )
        factory = registry.backbones.factory(name)
        families.setdefault(getattr(factory, "func", factory), []).append(name)
    return "\n\n".join(
        [
            "Cost is counted at the default options; `bench flops --model 'NAME KEY=VALUE'` counts others. "
            "The objective is how the network is trained and what its output means: see "
            "[what a denoiser must return]"
            "(../how-to/bring-a-published-network.md#what-a-denoiser-must-return).",
            table(["Name", "Paper", "Objective", "Parameters (M)", "GFLOPs (paper)"], rows),
            "## Options\n\nNames of one family take the same options with other defaults, which "
            "`bench describe NAME` shows.",
            *(_family(factory, names) for factory, names in families.items()),
        ]
    )


def _family(factory: Any, names: list[str]) -> str:
    described = registry.backbones.describe(names[0])
    defaults = [registry.backbones.describe(name).options for name in names]
    meanings = _arguments(factory)
    rows = []
    for option, first in described.options.items():
        values = {str(options[option].default) for options in defaults}
        default = f"`{first.default}`" if len(values) == 1 else "by name"
        rows.append([f"`{option}`", f"`{first.type}`", default, meanings.get(option, "")])
    parts = [f"### {names[0] if len(names) == 1 else f'{names[0]} … {names[-1]}'}", _prose(described.summary)]
    if len(names) > 1:
        parts.append(", ".join(f"`{name}`" for name in names))
    return "\n\n".join([*parts, _table_of_options(rows)])


def plugins() -> str:
    """Samplers, objectives, datasets, extractors and executors with their options."""
    parts = []
    for kind in ("objective", "sampler", "dataset", "extractor", "executor"):
        found = pkgutil.resolve_name(REGISTRIES[kind])
        parts.append(f"## {kind.capitalize()}s")
        for entry in found.names():
            described, meanings = found.describe(entry), _arguments(found.factory(entry))
            rows = [
                [
                    f"`{name}`",
                    f"`{str(option.type).removeprefix('pathlib.')}`",
                    "(required)" if option.required else f"`{option.default}`",
                    meanings.get(name, ""),
                ]
                for name, option in described.options.items()
            ]
            parts.append(f"### {entry}\n\n{_prose(described.summary)}\n\n{_table_of_options(rows)}")
    return "\n\n".join(parts)


def scores() -> str:
    """Every score and cost: its heading, and which way is better."""
    rows = [
        [
            f"`{name}`",
            score.heading,
            _prose(_first(type(score))),
            "higher" if score.higher_is_better else "lower",
            score.extractor or "Inception",
            _yes(score.default),
        ]
        for name, score in SCORES.items()
    ]
    others = [[f"`{name}`", quantity.heading] for name, quantity in _quantities()]
    return "\n\n".join(
        [
            "`bench eval --score NAME` and the key `scores` of a protocol compute these:",
            table(["Score", "Heading", "Definition", "Better", "Features of", "Computed by default"], rows),
            "## Costs and losses\n\nA study can have these as columns too.",
            table(["Name", "Heading"], others),
        ]
    )


def protocol_files() -> str:
    """The built-in protocols, and every key of a protocol's file."""
    rows = [[f"`{name}`", protocols.load(name).title] for name in protocols.names()]
    parts = [
        "A protocol is a TOML file that says how networks are trained, sampled and scored. These are built "
        "in; [small protocols](../explanation/small-protocols.md) says what they predict.",
        table(["Protocol", "What it is"], rows),
        "## Keys of a protocol",
    ]
    for title, model in (
        ("Top level", protocols.Protocol),
        ("`[training]`", protocols.Training),
        ("`[sampling]`", schema.SamplingSettings),
        ("`[evaluation]`", protocols.Evaluation),
        ("`[evaluation.held_out]`", schema.HeldOutSettings),
    ):
        parts.append(f"### {title}\n\n{_fields(model)}")
    return "\n\n".join(parts)


def study_files() -> str:
    """The built-in studies, and every key of a study's file."""
    rows = [[f"`{name}`", studies.load(name).title] for name in studies.names()]
    return "\n\n".join(
        [
            "A study is a TOML file that describes a table: its rows are networks. These are built in; "
            "[your first ablation](../tutorials/first-ablation.md) writes one.",
            table(["Study", "Title"], rows),
            f"## Keys of a study\n\n### Top level\n\n{_fields(_WrittenStudy, Study)}",
            f"### `[[rows]]`\n\n{_fields(_WrittenRow, StudyRow)}",
        ]
    )


def record_files() -> str:
    """What a record holds."""
    parts = [
        "A record is one measurement in a JSON file, named by a hash of its request. "
        "`bench.records.load()` reads all as a DataFrame; [stale records](../explanation/stale-records.md) "
        "explains fingerprints and versions.",
        _fields(schema.Record),
    ]
    bases = (schema.Record, schema.Model, schema.Request, schema.Result, schema.DeviceRequest)
    for name in sorted(vars(schema)):
        model = getattr(schema, name)
        if isinstance(model, type) and issubclass(model, BaseModel) and model not in bases:
            parts.append(f"## {name}\n\n{_prose(_first(model))}\n\n{_fields(model)}")
    return "\n\n".join(parts)


def _fields(model: type[BaseModel], told_by: type | None = None) -> str:
    """The keys of a model; what its own docstring does not explain, that of `told_by` does."""
    rows = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if field.is_required():
            shown = "(required)"
        else:
            shown = "" if isinstance(default, BaseModel) else f"`{default!r}`"
        rows.append(
            [
                f"`{field.alias or name}`",
                f"`{_kind(model, name)}`",
                shown,
                _meaning(model, name) or _meaning(told_by or model, name),
            ]
        )
    return table(["Key", "Type", "Default", "Meaning"], rows) if rows else ""


def _kind(model: type, name: str) -> str:
    """The type of a field as it is written, without its limits."""
    annotations = [inspect.get_annotations(owner) for owner in model.__mro__]
    written = next(found[name] for found in annotations if name in found)
    plain = re.sub(r"Annotated\[([^,\[\]]+), .*?\)\]", r"\1", str(written))
    return re.sub(r"\b(Finite|_Beta|_Width)\b", "float", plain)


def _meaning(model: type, name: str) -> str:
    """What the class's docstring says of an attribute."""
    for owner in model.__mro__:
        said = documented(owner.__doc__ or "").get(name)
        if said:
            return said
    return ""


def _arguments(factory: Any) -> dict[str, str]:
    """What docstrings say of the arguments of a class or function, that of a subclass first."""
    found: dict[str, str] = {}
    for owner in inspect.getmro(factory) if inspect.isclass(factory) else (factory,):
        for doc in (owner.__doc__, getattr(owner.__init__, "__doc__", "") if inspect.isclass(owner) else ""):
            found = documented(doc or "", "Args:") | found
    return found


def _table_of_options(rows: Table) -> str:
    return table(["Option", "Type", "Default", "Meaning"], rows) if rows else "No options."


def _quantities() -> list[tuple[str, Quantity]]:
    return [*COSTS.items(), *HELD_OUT.items()]


def _yes(value: bool) -> str:
    return "yes" if value else ""


def _first(model: type) -> str:
    return (model.__doc__ or "").split("\n\n")[0]


def _prose(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
