"""Weights of the authors' programs and of diffusers into our networks.

A checkpoint's names are translated by rules that stand here, one list a family; tensors are never
changed, except that a 1×1 convolution and a linear map of the same numbers count as the same.
Nothing is unpickled beyond tensors, plain containers and an `argparse.Namespace`.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from registry.errors import UsageError, reason

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
Family = TypeVar("Family")

_TRANSFORMER: list[Rule] = [
    (r"\.attn\.", ".attention."),
    (r"\.attention\.proj\.", ".attention.out."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.fc2\.", ".mlp.contract."),
]

_DIT: list[Rule] = [
    (r"^x_embedder\.proj\.", "embed."),
    (r"^t_embedder\.", "condition.time."),
    (r"^y_embedder\.embedding_table\.", "condition.label.table."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
    (r"^final_layer\.linear\.", "head.project."),
    (r"^final_layer\.", "head."),
    *_TRANSFORMER,
]

_UVIT: list[Rule] = [
    (r"^patch_embed\.proj\.", "embed."),
    (r"^label_emb\.", "label.table."),
    (r"\.skip_linear\.", ".fuse."),
    (r"^decoder_pred\.", "project."),
    (r"^final_layer\.", "output."),
    *_TRANSFORMER,
]


def _layer(match: re.Match[str]) -> str:
    """Two layers a stage unit: `.3.attn2.` -> `.7.attention.`"""
    parts = {"attn": "attention", "mlp": "ffn", "adaLN_modulation": "modulation"}
    return f".{2 * int(match[1]) + int(match[3]) - 1}.{parts[match[2]]}."


_UDIT: list[Rule] = [
    (r"^x_embedder\.proj\.", "stem."),
    (r"^t_embedder_(\d)\.", r"condition\1.time."),
    (r"^y_embedder_(\d)\.embedding_table\.", r"condition\1.label.table."),
    (r"^encoder_level_", "encoder"),
    (r"^decoder_level_", "decoder"),
    (r"^latent\.", "middle."),
    (r"^(down\d)_\d\.body\.0\.", r"\1.conv."),
    (r"^up\d_(\d)\.body\.0\.", r"up\1.conv."),  # up3_2 leads to scale 2
    (r"^reduce_chan_level", "fuse"),
    (r"\.(\d+)\.(attn|mlp|adaLN_modulation)([12])\.", _layer),
    (r"^final_layer\.adaLN_modulation\.", "head.modulation."),
    (r"^final_layer\.out_proj\.", "head.project."),
    (r"\.modulation\.1\.", ".modulation."),
    (r"\.attention\.to_", ".attention."),
    (r"\.downsampler\.layer\.", ".downsampler."),
    (r"\.ffn\.(project_in|fc1)\.", ".ffn.expand."),
    (r"\.ffn\.(project_out|fc2)\.", ".ffn.contract."),
    (r"\.ffn\.dwconv\.", ".ffn.depthwise."),
]

_TINY_UNET: list[Rule] = [
    (r"^t_emb\.(\d)", lambda m: f"time.{int(m[1]) - 1}"),
    (r"^d(\d)\.", r"down\1."),
    (r"^mid\.", "middle."),
    (r"^u(\d)\.", r"up\1."),
    (r"\.t_proj\.", ".time."),
    (r"\.skip\.", ".shortcut."),
    (r"^out\.", "output."),
]

_RULES: dict[str, list[Rule]] = {
    "registry.networks.dit.DiT": _DIT,
    "registry.networks.udit.UDiT": _UDIT,
    "registry.networks.uvit.UViT": _UVIT,
    "registry.networks.tiny_unet.TinyUNet": _TINY_UNET,
    "registry.networks.unet2d.UNet2D": [(r"^", "net.")],
    "registry.networks.uvit2d.UVit2D": [(r"^", "net.")],
}

# Tables that are computed, not learned, and that a checkpoint may therefore leave out.
_FIXED = {"registry.networks.dit.DiT": {"pos_embed"}}


def load_checkpoint(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any], *, key: str | None = None
) -> nn.Module:
    """Fill a backbone with the weights of a checkpoint, all or nothing.

    Args:
        model: a backbone; its parameters keep their device and dtype.
        source: a `.pt`, `.pth`, `.bin` or `.safetensors` file, or a state dict. Names may be ours,
            those of the authors' releases, or diffusers'.
        key: entry of the checkpoint that holds the network; by default `ema` before `model`.

    Returns:
        `model`.

    Raises:
        UsageError: no such file, not a checkpoint, pickled code, a missing or left-over name or a
            wrong shape; the message lists them and the model is unchanged.
    """
    where = "the state dict" if isinstance(source, Mapping) else os.fspath(source)
    content = source if isinstance(source, Mapping) else _read(Path(source))
    state = _network(content, key, where)
    state = _translate(model, state)
    own = model.state_dict()
    for name, tensor in state.items():
        target = own.get(name)
        if target is not None and target.shape != tensor.shape and _squeezed(target) == _squeezed(tensor):
            state[name] = tensor.reshape(target.shape)  # a linear map stored as a 1×1 convolution

    fixed = _of_family(_FIXED, model) or set()
    missing = [name for name in own if name not in state and name not in fixed]
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} where {tuple(own[name].shape)} is needed"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [
        f"{len(found)} {what}: {_listed(found)}"
        for what, found in (("missing", missing), ("left over", extra), ("of wrong shape", shapes))
        if found
    ]
    if problems:
        name = getattr(model, "name", "") or type(model).__name__
        raise UsageError(f"{where} does not fit {name}: {'; '.join(problems)}")
    model.load_state_dict({name: state.get(name, own[name]) for name in own})
    return model


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"no such checkpoint file: {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{path} is not a readable safetensors file: {error}") from None
    if path.suffix not in (".pt", ".pth", ".bin"):
        raise UsageError(f"{path}: a checkpoint ends in .pt, .pth, .bin or .safetensors")
    # The authors' training programs save their command line beside the weights: plain values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            code = _pickled_code(path)
            problem = f"holds pickled code ({_listed(code)})" if code else "is damaged or holds pickled code"
            raise UsageError(
                f"{path} {problem}, which is never run. Save the state dict alone, best as .safetensors."
            ) from None
        except Exception as error:
            # The first sentence: torch goes on to advise unpickling everything.
            problem = reason(error).partition(". ")[0]
            raise UsageError(f"{path} is damaged or no torch checkpoint: {problem}") from None


def _pickled_code(path: Path) -> list[str]:
    """What a checkpoint would import besides tensors' own parts; nothing where that cannot be read."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a bare pickle, or a damaged one
        return []


def _network(content: Any, key: str | None, where: str) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without the prefix that DataParallel or compile add."""
    if not isinstance(content, Mapping):
        raise UsageError(f"{where} holds {type(content).__name__}, not a state dict")
    inner = [entry for entry in content if isinstance(content[entry], Mapping)]
    if key is not None and key not in inner:
        raise UsageError(f"{where} has no state dict {key!r}; it has: {_listed(list(map(str, content)))}")
    for entry in (key,) if key is not None else ("ema", "model", "state_dict"):
        if entry in inner:
            content = content[entry]
            break
    state = {n: value for n, value in content.items() if isinstance(n, str) and isinstance(value, Tensor)}
    others = [str(name) for name in content if name not in state]
    if others or not content:
        found = f"entries that are no named tensors: {_listed(others)}" if others else "nothing"
        raise UsageError(f"{where} is not a state dict; it holds {found}")
    for prefix in ("module.", "_orig_mod.", "module."):  # in either order
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _listed(names: list[str]) -> str:
    """The first few of `names`, for a message."""
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _translate(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the authors' layout into ours; names that are ours already stay."""
    own = set(model.state_dict())
    rules = _of_family(_RULES, model)
    if own & set(state) == set(state) or not rules:
        return state
    # The downsampler is a bare convolution in some variants and holds one in others.
    nested = any(".downsampler.conv." in name for name in own)

    def ours(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name.replace(".downsampler.", ".downsampler.conv.") if nested else name

    translated = {ours(name): tensor for name, tensor in state.items()}
    # Leave the names as they came where translating does not help: messages then name the file's.
    return translated if len(own & set(translated)) >= len(own & set(state)) else state


def _of_family(table: Mapping[str, Family], model: nn.Module) -> Family | None:
    """The entry for a network's class or, where a user has derived one, for its base class."""
    lineage = (f"{ancestor.__module__}.{ancestor.__name__}" for ancestor in type(model).__mro__)
    return next((table[name] for name in lineage if name in table), None)


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """A weight's shape without the trailing 1×1 of a pointwise convolution."""
    shape = tuple(tensor.shape)
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
