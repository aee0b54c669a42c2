"""The pages of reference that are tables of what the code has: backbones, plugins, protocols, files.

`write(folder)` writes them; `docs/conf.py` calls it at each build.
"""

from __future__ import annotations

import importlib
import inspect
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
    """Every backbone with its paper, cost and options."""
    costs = listed()
    rows, options = [], []
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
        options.append(f"### {name}\n\n{_prose(entry.summary)}\n\n" + _options(entry.options))
    return "\n\n".join(
        [
            table(["Name", "Paper", "Objective", "Parameters (M)", "GFLOPs (paper)"], rows),
            "## Options",
            *options,
        ]
    )


def plugins() -> str:
    """Samplers, objectives, datasets, extractors and executors with their options."""
    parts = []
    for kind in ("objective", "sampler", "dataset", "extractor", "executor"):
        module, name = REGISTRIES[kind]
        found = getattr(importlib.import_module(module), name)
        parts.append(f"## {kind.capitalize()}s")
        for entry in found.names():
            described = found.describe(entry)
            parts.append(f"### {entry}\n\n{_prose(described.summary)}\n\n{_options(described.options)}")
    return "\n\n".join(parts)


def scores() -> str:
    """Every score and cost: its heading, and which way is better."""
    rows = [
        [
            f"`{name}`",
            score.heading,
            "higher" if score.higher_is_better else "lower",
            score.extractor or "Inception",
            _yes(score.default),
        ]
        for name, score in SCORES.items()
    ]
    others = [[f"`{name}`", quantity.heading] for name, quantity in _quantities()]
    return "\n\n".join(
        [
            table(["Score", "Heading", "Better", "Features of", "Computed by default"], rows),
            "## Costs and losses\n\nThese are columns of studies too.",
            table(["Name", "Heading"], others),
        ]
    )


def protocol_files() -> str:
    """The built-in protocols, and every key of a protocol's file."""
    rows = [[f"`{name}`", protocols.load(name).title] for name in protocols.names()]
    parts = [table(["Protocol", "What it is"], rows), "## Keys of a protocol"]
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
            table(["Study", "Title"], rows),
            f"## Keys of a study\n\n### Top level\n\n{_fields(_WrittenStudy, Study)}",
            f"### `[[rows]]`\n\n{_fields(_WrittenRow, StudyRow)}",
        ]
    )


def record_files() -> str:
    """What a record holds."""
    parts = [_fields(schema.Record)]
    for name in sorted(vars(schema)):
        model = getattr(schema, name)
        if isinstance(model, type) and issubclass(model, BaseModel) and model is not schema.Record:
            parts.append(f"## {name}\n\n{_prose(_first(model))}\n\n{_fields(model)}")
    return "\n\n".join(parts)


def _fields(model: type[BaseModel], told_by: type | None = None) -> str:
    """The keys of a model; `told_by` is the class whose docstring says what they mean."""
    rows = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if field.is_required():
            shown = "(required)"
        else:
            shown = "" if isinstance(default, BaseModel) else f"`{default!r}`"
        rows.append(
            [f"`{field.alias or name}`", f"`{_kind(model, name)}`", shown, _meaning(told_by or model, name)]
        )
    return table(["Key", "Type", "Default", "Meaning"], rows) if rows else ""


def _kind(model: type, name: str) -> str:
    """The type of a field as it is written, without its limits."""
    annotations = [inspect.get_annotations(owner) for owner in model.__mro__]
    written = next(found[name] for found in annotations if name in found)
    return re.sub(r"Annotated\[([^,\[\]]+), .*?\)\]", r"\1", str(written))


def _meaning(model: type, name: str) -> str:
    """What the class's docstring says of an attribute."""
    for owner in model.__mro__:
        said = _attributes(owner.__doc__ or "").get(name)
        if said:
            return said
    return ""


def _attributes(doc: str) -> dict[str, str]:
    """`Attributes:` of a docstring by name; a line may name several."""
    _, _, section = inspect.cleandoc(doc).partition("Attributes:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        indent = len(line) - len(line.lstrip())
        head, colon, rest = line.strip().partition(":")
        if indent == 4 and colon:
            names = [part.strip() for part in head.split(",")]
            found |= dict.fromkeys(names, rest.strip())
        elif indent > 4:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        elif line.strip():
            break
    return found


def _options(options: dict[str, Any]) -> str:
    rows = [
        [f"`{name}`", "(required)" if option.required else f"`{option.default}`", f"`{option.type}`"]
        for name, option in options.items()
    ]
    return table(["Option", "Default", "Type"], rows) if rows else "No options."


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
