"""Registries of objectives and samplers, and the canonical form of a name with options. Needs no torch."""

from __future__ import annotations

from registry.errors import UsageError
from registry.plugins import Registry, unwrapped
from registry.values import join_options, plain, split_options

objectives = Registry("objective", "bench.diffusion", base="bench.diffusion.base.Objective")
samplers = Registry("sampler", "bench.diffusion", base="bench.diffusion.base.Sampler")


def lineage(objective: str) -> set[str]:
    """The name of an objective and those of its base classes, whose samplers work for it too."""
    entry = objectives.find(objective)
    if entry.module.startswith("bench."):  # none has another for its base; needs no torch
        return {entry.name}
    bases = getattr(unwrapped(objectives.factory(entry.name)), "__mro__", ())
    known = {name: unwrapped(objectives.factory(name)) for name in objectives.names()}
    return {entry.name, *(name for name, made in known.items() if made in bases)}


def samplers_for(objective: str) -> list[str]:
    """Names of the samplers that work for an objective, by its name."""
    names = lineage(objective)
    return [name for name in samplers.names() if names.intersection(samplers.attribute(name, "objectives"))]


def canonical(plugins: Registry, text: str) -> str:
    """The canonical form of a name and its options: `DDIM eta=.50` -> `ddim eta=0.5`.

    Options that have their defaults are left out. A name that is not registered, and options that it does
    not take, stay as they are written.
    """
    name, options = split_options(text)
    try:
        title, checked, known = plugins.find(name).name, plugins.check(name, options), plugins.options(name)
    except UsageError:
        return text
    changed = {
        option: plain(checked[option])
        for option in known
        if option in checked and plain(checked[option]) != plain(known[option].default)
    }
    return join_options(title, changed)
