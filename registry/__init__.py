"""Diffusion backbones by name. How they are measured is in `bench`.

    import registry

    registry.names("udit*")                         # ['udit-t', 'udit-s', 'udit-b', 'udit-l']
    net = registry.create("U-DiT-B", input_size=32, num_classes=1000)
    net = registry.create("udit-t", downsampler="pixel-shuffle", ffn="mlp")
    registry.load_checkpoint(net, "U-DiT-B-400k.pt")

    @registry.register("my-net")
    class MyNet(registry.Backbone): ...

Importing this package does not import torch: names are read from source.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from registry.errors import UsageError
from registry.fingerprints import added_options
from registry.plugins import Description, Registry, unwrapped
from registry.values import join_options, plain

if TYPE_CHECKING:
    from torch import nn

    from registry.backbone import Backbone, LongSkip
    from registry.checkpoints import load_checkpoint
    from registry.training_output import TrainingOutput
    from registry.wrapping import wrap

__all__ = [
    "Backbone",
    "Description",
    "LongSkip",
    "TrainingOutput",
    "UsageError",
    "backbones",
    "canonical",
    "changed",
    "create",
    "declared",
    "describe",
    "label",
    "load_checkpoint",
    "names",
    "register",
    "wrap",
]

backbones = Registry(
    "backbone",
    "registry.networks",
    base="registry.backbone.Backbone",
    largest=1_000_000,  # building a deeper network would take hours and fill the memory
)

register, names, describe = backbones.register, backbones.names, backbones.describe


def create(name: str, /, **overrides: Any) -> nn.Module:
    """Build the backbone `name`, randomly initialised, in training mode.

    Args:
        name: any registered name or alias; case and separators are ignored (`U-DiT-B`, `DiT-XL/2`).
        **overrides: arguments of that network, such as `input_size` (int or (H, W), in cells of its input)
            and `num_classes` (0: unconditional); `describe(name)` lists all of them.

    Returns:
        A `Backbone`, or a user's module that fulfils its contract. Its attributes `name` and `overrides` are
        set to the arguments, with values converted to the annotated types.

    Raises:
        UsageError: unknown name or override, or a value that the network refuses. Other exceptions of its
            constructor propagate.
    """
    from registry.backbone import adopt

    overrides = backbones.check(name, overrides)
    return adopt(backbones.find(name).name, backbones.factory(name), overrides)


def declared(name: str, attribute: str) -> Any:
    """A declaration of a backbone, such as its `objective`.

    It is an attribute of the backbone's class. If the factory is a function, it is the attribute of the
    network that the function returns with its defaults.

    Raises:
        UsageError: unknown name.
    """
    entry = backbones.find(name)
    if not entry.module.startswith("registry."):
        factory = backbones.factory(name)
        if not isinstance(unwrapped(factory), type) and (made := example(entry.name, factory)) is not None:
            return getattr(made, attribute)
    return backbones.attribute(name, attribute)


@functools.cache
def example(name: str, factory: Callable[..., Any]) -> Any:
    """A network with its default options, on the meta device if possible.

    Returns:
        The network, with arbitrary weights; None if it cannot be built. Measuring it then raises the error.
    """
    import torch

    fit = {"input_size": 32, "in_channels": 4, "num_classes": 1000}
    options = backbones.options(name)
    required = [option for option, p in options.items() if p.default is p.empty]
    needed = {option: fit[option] for option in required if option in fit}
    with torch.random.fork_rng(devices=()), contextlib.suppress(Exception):
        with contextlib.suppress(Exception), torch.device("meta"):
            return create(name, **needed)
        return create(name, **needed)  # the constructor reads values of tensors
    return None


def canonical(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a backbone with its value, in canonical form.

    Values are converted to their annotated types, and defaults are filled in. So that JSON can hold and
    compare them, tuples become lists, whole floats become integers, and a square `input_size` becomes its
    side. An option that was added later is omitted at the value that equals the earlier behaviour
    (`registry.fingerprints.added_options`).

    Args:
        name: of a registered backbone.
        overrides: some of its options with their values.

    Raises:
        UsageError: unknown name, or an unknown option.
    """
    config = _plain_config(_defaults(name) | backbones.check(name, dict(overrides)))
    added = added_options(backbones.find(name).name)
    return {option: value for option, value in config.items() if added.get(option, ...) != value}


def _defaults(name: str) -> dict[str, Any]:
    options = backbones.options(name)
    return {option: p.default for option, p in options.items() if p.default is not p.empty}


def _plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    plain_config = {option: plain(value) for option, value in config.items()}
    size = plain_config.get("input_size")
    if isinstance(size, list) and len(set(size)) == 1:
        plain_config["input_size"] = size[0]
    return plain_config


def label(name: str, overrides: Mapping[str, Any]) -> str:
    """A network as `--model` takes it, with the options that differ from their defaults: `udit-t rope=false`.

    Args:
        name, overrides: see `changed`.
    """
    return join_options(name, changed(name, overrides))


def changed(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a backbone that differ from their defaults, with their values.

    Args:
        name: of a backbone. If it is not registered, all overrides are returned.
        overrides: some of its options with their values, or all of them (`canonical`).
    """
    try:
        config, defaults = canonical(name, overrides), _plain_config(_defaults(name))
    except UsageError:
        config, defaults = dict(overrides), {}
    return {o: value for o, value in config.items() if o not in defaults or defaults[o] != value}


def __getattr__(attribute: str) -> Any:
    """Import a public name that needs torch, on first use."""
    if attribute in ("Backbone", "LongSkip"):
        from registry import backbone

        return getattr(backbone, attribute)
    if attribute == "TrainingOutput":
        from registry.training_output import TrainingOutput

        return TrainingOutput
    if attribute == "load_checkpoint":
        from registry.checkpoints import load_checkpoint

        return load_checkpoint
    if attribute == "wrap":
        from registry.wrapping import wrap

        return wrap
    raise AttributeError(f"module 'registry' has no attribute {attribute!r}")
