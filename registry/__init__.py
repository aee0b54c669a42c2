"""Diffusion backbones by name: what is measured. Knows nothing of how (that is `bench`).

    import registry

    registry.names("udit*")                         # ['udit-t', 'udit-s', 'udit-b', 'udit-l']
    net = registry.create("U-DiT-B", input_size=32, num_classes=1000)
    net = registry.create("udit-t", downsampler="pixel-shuffle", ffn="mlp")
    registry.load_checkpoint(net, "U-DiT-B-400k.pt")

    @registry.register("my-net")
    class MyNet(registry.Backbone): ...

Importing this package does not import torch: names are known long before networks are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from registry.errors import UsageError, reason
from registry.plugins import Description, Registry

if TYPE_CHECKING:
    from torch import nn

    from registry.backbone import Backbone, LongSkip
    from registry.checkpoints import load_checkpoint

__all__ = [
    "Backbone",
    "Description",
    "LongSkip",
    "UsageError",
    "backbones",
    "canonical",
    "create",
    "describe",
    "label",
    "load_checkpoint",
    "names",
    "register",
]

backbones = Registry("backbone", group="bench.backbones", argument="override")
backbones.declare("registry.networks.dit", [f"dit-{s}-{p}" for s in ("s", "b", "l", "xl") for p in (2, 4, 8)])
backbones.declare("registry.networks.dit", [f"sit-{s}-{p}" for s in ("s", "b", "l", "xl") for p in (2, 4, 8)])
backbones.declare(
    "registry.networks.udit", ["dit-unet", "dit-unet-slim", "udit-t", "udit-s", "udit-b", "udit-l"]
)
backbones.declare(
    "registry.networks.uvit",
    ["uvit-s-2", "uvit-s-2-deep", "uvit-m-2", "uvit-l-2", "uvit-h-2"],
    aliases={
        "uvit-s-2-deep": ["uvit-s-deep", "uvit-s-deep-2"],
        **{f"uvit-{s}-2": [f"uvit-{s}"] for s in "smlh"},
    },
)
backbones.declare("registry.networks.uvit", ["uvit-m-4", "uvit-l-4", "uvit-s-2-cifar10"])
backbones.declare("registry.networks.unet2d", ["unet2d", "unet2d-64"])
backbones.declare("registry.networks.uvit2d", ["uvit2d", "uvit2d-latent"])
backbones.declare("registry.networks.tiny_unet", ["tiny-unet"])
backbones.declare("registry.networks.dic", ["dic-s", "dic-b", "dic-xl", "dic-h"])
backbones.declare("registry.networks.dico", ["dico-s", "dico-b", "dico-l", "dico-xl", "dico-h"])

register, names, describe = backbones.register, backbones.names, backbones.describe


def create(name: str, **overrides: Any) -> nn.Module:
    """Build the backbone `name`, randomly initialised, in training mode.

    Args:
        name: any registered name or alias, case and separators forgiven (`U-DiT-B`, `DiT-XL/2`).
        **overrides: arguments of that network, `input_size` (int or (H, W), in cells of its input)
            and `num_classes` (0 for unconditional) among them; `describe(name)` lists them all.

    Returns:
        A `Backbone` (or a user's module that honours its contract); `.name` and `.overrides` say
        what was asked for.

    Raises:
        UsageError: unknown name or override, or a value the network cannot be built with.
    """
    from registry.backbone import adopt

    factory = backbones.factory(name)
    overrides = backbones.check(name, overrides)
    title = backbones.find(name).name
    try:
        return adopt(title, factory, overrides)
    except UsageError:
        raise
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if not overrides:
            raise  # no value of the user's is to blame
        asked = ", ".join(f"{option}={value!r}" for option, value in overrides.items())
        raise UsageError(f"{title} cannot be built with {asked}: {reason(error)}") from error


def label(name: str, overrides: Mapping[str, Any]) -> str:
    """A network with its overrides as the command takes them: `udit-t rope=false depth=1,1,2,1,1`."""

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return ",".join(map(text, value))
        return str(value).lower() if isinstance(value, bool) else str(value)

    return " ".join([name, *(f"{key}={text(value)}" for key, value in overrides.items())])


def canonical(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a backbone with its value, in one form however it was written.

    Values are converted to their annotated types, defaults filled in; then tuples become lists, floats that
    are whole become integers, and a square `input_size` its side, so that JSON holds and compares them.

    Raises:
        UsageError: unknown name, or an override that it does not take.
    """
    defaults = {
        option: p.default for option, p in backbones.options(name).items() if p.default is not p.empty
    }
    config = {
        option: _plain(value) for option, value in (defaults | backbones.check(name, dict(overrides))).items()
    }
    size = config.get("input_size")
    if isinstance(size, list) and len(set(size)) == 1:
        config["input_size"] = size[0]
    return config


def _plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", str(value))


def __getattr__(attribute: str) -> Any:
    """Public names that need torch, imported on first use."""
    if attribute in ("Backbone", "LongSkip"):
        from registry import backbone

        return getattr(backbone, attribute)
    if attribute == "load_checkpoint":
        from registry.checkpoints import load_checkpoint

        return load_checkpoint
    raise AttributeError(f"module 'registry' has no attribute {attribute!r}")
