"""Weights of the authors' programs and of diffusers into our networks.

A checkpoint's names are translated by the rules of the network's class (`checkpoint_names`); tensors are
never changed, except that a 1×1 convolution and a linear map of the same numbers count as the same.
Nothing is unpickled beyond tensors, plain containers and an `argparse.Namespace`.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from registry.errors import UsageError, reason

# A pattern of a name in an authors' layout, and what takes its place in ours, as `re.sub` takes them.
Rule = tuple[str, str | Callable[[re.Match[str]], str]]

# Attention and MLP of the programs that take them from timm.
TRANSFORMER_NAMES: list[Rule] = [
    (r"\.attn\.", ".attention."),
    (r"\.attention\.proj\.", ".attention.out."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.fc2\.", ".mlp.contract."),
]


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

    fixed = getattr(model, "fixed_parameters", ())
    missing = [name for name in own if name not in state and name not in fixed]
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} where {tuple(own[name].shape)} is needed"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [
        f"{len(found)} {problem}: {_listed(found)}"
        for problem, found in (("missing", missing), ("left over", extra), ("of wrong shape", shapes))
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
    rules: list[Rule] = getattr(model, "checkpoint_names", [])
    if own & set(state) == set(state) or not rules:
        return state
    # Modules that hold, beside what they add to it, what a layout stores under their own name.
    inner = {
        name: f"{name}.{module.checkpoint_part}"
        for name, module in model.named_modules()
        if hasattr(module, "checkpoint_part")
    }

    def ours(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        module, _, parameter = name.rpartition(".")
        return f"{inner[module]}.{parameter}" if module in inner else name

    translated = {ours(name): tensor for name, tensor in state.items()}
    # Leave the names as they came where translating does not help: messages then name the file's.
    return translated if len(own & set(translated)) >= len(own & set(state)) else state


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """A weight's shape without the trailing 1×1 of a pointwise convolution."""
    shape = tuple(tensor.shape)
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
