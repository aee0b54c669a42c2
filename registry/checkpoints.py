"""Loads weights of the authors' programs and of diffusers into our networks.

Parameter names are translated by the rules of the network's class (`checkpoint_names`). Tensors never change,
except that the weight of a 1×1 convolution may serve a linear map and the reverse. The network's names may
have any prefix, such as `module.` or `ema_denoiser.`, and the file may hold other networks. If it holds
several sets of the network's weights, the averaged one is loaded.

Nothing is unpickled except tensors, plain containers, paths, an `argparse.Namespace` and Lightning's options.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from registry.errors import UsageError, reason

# A pattern in the authors' parameter names and its replacement in ours, as arguments of `re.sub`.
Rule = tuple[str, str | Callable[[re.Match[str]], str]]

# Attention and MLP of programs that use timm's.
TRANSFORMER_NAMES: list[Rule] = [
    (r"\.attn\.", ".attention."),
    (r"\.attention\.proj\.", ".attention.out."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.fc2\.", ".mlp.contract."),
]

# Names of entries that hold averaged weights: `ema`, `model_ema`, `ema_model`, `state_dict_ema`, `ema_0.999`.
_AVERAGED = re.compile(
    r"(?<![a-zA-Z])(?i:ema|swa|averaged?|shadow|polyak)(?![a-z])|(?<![A-Z])E(?:MA|ma)(?![a-z])"
)
# Parts that torch.compile, FSDP and activation checkpointing add to the names of modules that they wrap.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Classes of plain values that training programs save beside the weights: command lines, options of
# Lightning's modules (a dictionary), paths.
_ATTRIBUTE_DICT = ("lightning.fabric.utilities.data", "lightning_fabric.utilities.data",
                   "lightning.pytorch.utilities.parsing", "pytorch_lightning.utilities.parsing")  # fmt: skip
_PLAIN: list[Any] = [
    argparse.Namespace,
    *((dict, f"{module}.AttributeDict") for module in _ATTRIBUTE_DICT),
    *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
]
# A file is a decompression bomb if it unpacks to more than `_LARGE` bytes and `_USUAL_RATIO` times its size.
_LARGE, _USUAL_RATIO = 2**30, 100


def load_checkpoint(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any], *, key: str | None = None
) -> nn.Module:
    """Load the weights of a checkpoint into a backbone. If anything does not fit, nothing is loaded.

    Args:
        model: a backbone; its parameters keep their device and dtype.
        source: a `.pt`, `.pth`, `.bin`, `.ckpt` or `.safetensors` file, or a state dict. Names may be ours,
            those of the authors' releases, or diffusers', with any prefix.
        key: entry of the checkpoint that holds the network, or prefix of its names. By default the averaged
            weights of a pair (`model` and `ema`, `state_dict` and `state_dict_ema`, `net.` and `net_ema.`,
            …), or the only weights that fit.

    Returns:
        `model`.

    Raises:
        UsageError: there is no such file, it is not a checkpoint, it contains pickled code or several sets of
            weights that fit equally, a name is missing or left over, or a shape or a value does not fit. The
            message lists the names; the model does not change.
    """
    where = "the state dict" if isinstance(source, Mapping) else os.fspath(source)
    content = source if isinstance(source, Mapping) else _read(Path(source))
    state, where = _network(model, content, key, where)
    state, problems = _matched(model, state)
    own = model.state_dict()
    unusable = [
        f"{name} ({problem})"
        for name in own
        if name in state and state[name].shape == own[name].shape
        if (problem := _problem(state[name], own[name]))
    ]
    if unusable:
        problems.append(f"{len(unusable)} unusable: {_listed(unusable)}")
    if problems:
        raise UsageError(f"{where} does not fit {_title(model)}: {'; '.join(problems)}")
    model.load_state_dict({name: state.get(name, own[name]).to(own[name].dtype) for name in own})
    return model


def _title(model: nn.Module) -> str:
    return getattr(model, "name", "") or type(model).__name__


def _matched(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict with the model's names and shapes, and descriptions of what does not fit."""
    state = _translate(model, state)
    own = model.state_dict()
    for name, tensor in state.items():
        target = own.get(name)
        if target is not None and target.shape != tensor.shape and _squeezed(target) == _squeezed(tensor):
            state[name] = tensor.reshape(target.shape)  # a linear map stored as a 1×1 convolution

    fixed = getattr(model, "fixed_parameters", ())
    missing = [name for name in own if name not in state and name not in fixed]
    extra = [name for name in state if name not in own and name not in fixed]
    shapes = [
        f"{name} {tuple(state[name].shape)} where {tuple(own[name].shape)} is needed"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    return state, [
        f"{len(found)} {problem}: {_listed(found)}"
        for problem, found in (("missing", missing), ("left over", extra), ("of wrong shape", shapes))
        if found
    ]


def _problem(tensor: Tensor, own: Tensor) -> str:
    """Why a tensor of the right shape cannot replace `own`; empty if it can."""
    if tensor.is_meta:
        return "on the meta device, which holds no values"
    if tensor.is_quantized or tensor.layout != torch.strided:
        return "quantised" if tensor.is_quantized else "sparse"
    kinds = [_kind(tensor.dtype), _kind(own.dtype)]
    if kinds[0] != kinds[1] and kinds != ["floating-point", "complex"]:
        return f"{_dtype(tensor)} where {_dtype(own)} is needed"
    value = tensor.to(own.dtype)
    if kinds[0] in ("integer", "bool"):
        return "" if torch.equal(value.to(tensor.dtype), tensor) else f"beyond the range of {_dtype(own)}"
    wild = ~value.isfinite()
    if not wild.any() or not own.cpu().isfinite()[wild.cpu()].any():  # a buffer may be a mask with −∞
        return ""
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    finite = tensor.to(wide).isfinite().all()
    return f"beyond the range of {_dtype(own)}" if finite else "not finite"


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex or dtype.is_floating_point:
        return "complex" if dtype.is_complex else "floating-point"
    return "bool" if dtype == torch.bool else "integer"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
    if path.suffix not in (".pt", ".pth", ".bin", ".ckpt"):
        raise UsageError(f"{path}: a checkpoint ends in .pt, .pth, .bin, .ckpt or .safetensors")
    _check_size(path)
    with torch.serialization.safe_globals(_PLAIN), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about kinds of tensors that are refused below
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            code = _pickled_code(path)
            problem = f"holds pickled code ({_listed(code)})" if code else "is damaged or holds pickled code"
            advice = "Save the state dict alone, best as .safetensors"
            if path.suffix == ".ckpt":
                advice += (
                    ": where these classes are installed, and if you trust the file, by "
                    'torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW)'
                )
            raise UsageError(f"{path} {problem}, which is never run. {advice}.") from None
        except Exception as error:
            # Only the first sentence: then torch advises to unpickle everything.
            problem = reason(error).partition(". ")[0]
            raise UsageError(f"{path} is damaged or no torch checkpoint: {problem}") from None


def _check_size(path: Path) -> None:
    """Refuse a small file that would fill the memory.

    Raises:
        UsageError: it is a zip file whose entries unpack to far more than its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile):  # torch's older format, or damaged
        return
    size = path.stat().st_size
    if unpacked > max(_LARGE, _USUAL_RATIO * size):
        raise UsageError(
            f"{path} has {size:,} bytes and unpacks to {unpacked:,}, which no honest checkpoint does"
        )


def _pickled_code(path: Path) -> list[str]:
    """What unpickling a checkpoint would import besides tensors; empty if that cannot be read."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a bare pickle, or a damaged one
        return []


def _network(model: nn.Module, content: Any, key: str | None, where: str) -> tuple[dict[str, Tensor], str]:
    """The state dict of the network inside a checkpoint, without the prefix of its names, and its place.

    Raises:
        UsageError: there are no tensors, no such key, or see `_inside`.
    """
    if not isinstance(content, Mapping):
        raise UsageError(f"{where} holds {type(content).__name__}, not a state dict")
    has = _listed(list(map(str, content)))
    found = list(_tensors(_of_lightning(content, where) if key is None else content))
    if key is not None:
        place = _place(key, found)
        if place is None:
            raise UsageError(f"{where} has no state dict {key!r}; it has: {has}")
        found = [each for each in found if each[1].startswith(place)]
    if not found:
        holds = f"entries that are no named tensors: {has}" if has else "nothing"
        raise UsageError(f"{where} is not a state dict; it holds {holds}")
    # Prefixes that the network declares (`registry.wrap`) separate its weights from others in an entry.
    prefixes = getattr(model, "checkpoint_prefixes", ("",))
    own = {name for entry, name, _ in found if name.startswith(tuple(entry + start for start in prefixes))}
    declared = {entry for entry, name, _ in found if name in own}
    found = [each for each in found if each[0] not in declared or each[1] in own]
    state = {name: tensor for _, name, tensor in _unwrapped(model, found)}
    return _inside(model, state, {entry for entry, _, tensor in found if tensor.dim()}, where)


def _tensors(content: Any, entry: str = "") -> Iterator[tuple[str, str, Tensor]]:
    """All tensors of a checkpoint but those of optimizers: (prefix of the entry, name with it, tensor).

    Positions in a list, and other keys that are no text, are in brackets: they are no parameter's name.
    """
    for key, value in content.items() if isinstance(content, Mapping) else enumerate(content):
        name = f"{entry}{key}" if isinstance(key, str) else f"{entry}[{key}]"
        if isinstance(value, Tensor):
            yield entry, name, value
        elif isinstance(value, list | tuple) or (isinstance(value, Mapping) and "param_groups" not in value):
            yield from _tensors(value, f"{name}.")


def _place(key: str, found: list[tuple[str, str, Tensor]]) -> str | None:
    """The prefix that a key names, in an entry at any depth; None if there is none, or one elsewhere too."""
    starts = {start for entry, _, _ in found for start in _prefixes(entry)}
    places = [s for s in starts if any(name.startswith(f"{s}{key}.") for _, name, _ in found)]
    start = min(places, key=len, default=None)
    return None if start is None or not all(s.startswith(start) for s in places) else f"{start}{key}."


def _behind(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names start with a prefix, without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _of_lightning(content: Mapping[Any, Any], where: str) -> Mapping[Any, Any]:
    """A checkpoint of Lightning with the states of its callbacks as entries, since one may hold averages.

    After Lightning's own `WeightAveraging`, `state_dict` is the average.

    Raises:
        UsageError: the averages are a list of tensors in the optimizer's state, as with NeMo and FlowDCN.
    """
    if "pytorch-lightning_version" not in content:
        return content
    if any("ema" in state for state in content.get("optimizer_states", ())):
        raise UsageError(
            f"{where} keeps its averaged weights without names, in optimizer_states: save them as a state "
            "dict with the program that wrote it, or take the last weights by the key state_dict (--weights "
            "of `bench sample`)"
        )
    callbacks = content.get("callbacks") or {}
    kept = {name: v for name, v in content.items() if name not in ("callbacks", "current_model_state")}
    return callbacks | kept


def _inside(
    model: nn.Module, state: dict[str, Tensor], entries: Collection[str], where: str
) -> tuple[dict[str, Tensor], str]:
    """The network's weights in a state dict, with any prefix and among any other entries, and their place.

    If none fit, what is behind the prefix with the most of the network's names, for the message.

    Args:
        entries: prefixes of what the checkpoint holds as entries of their own.

    Raises:
        UsageError: several fit, or one fits and there is an average of it that cannot be read.
    """
    fixed: Collection[str] = getattr(model, "fixed_parameters", ())
    own = {name for name in model.state_dict() if name not in fixed}
    counts = Counter(prefix for name in state for prefix in _prefixes(name))
    found: list[str] = []
    parts: list[str] = []  # prefixes of parts of the network, where it is not searched for
    closest, most = "", -1
    for prefix in sorted(counts, key=lambda prefix: prefix.count(".")):
        if 2 * counts[prefix] < len(own) or prefix.startswith((*found, *parts)):
            continue
        behind = _behind(prefix, state)
        matched, problems = _matched(model, dict(behind))
        if not problems:
            found.append(prefix)
        elif own <= behind.keys():
            parts += [f"{prefix}{name.partition('.')[0]}." for name in own]
        if len(own & matched.keys()) > most:
            closest, most = prefix, len(own & matched.keys())
    places = [p for p in found if not any(_averages(other, p, entries) for other in found)]
    if len(places) > 1:
        raise UsageError(
            f"{where} holds several sets of weights, {_listed([repr(place[:-1]) for place in places])}, and "
            f"{len(places)} of them fit {_title(model)}: name one by key (--weights of `bench sample`)"
        )
    (place,) = places or [closest]
    weights = _behind(place, state)
    for prefix in counts if found else ():
        named = _AVERAGED.search(prefix[:-1].rpartition(".")[2]) and _averages(prefix, place, entries)
        if named and (2 * counts[prefix] >= len(own) or any(entry.startswith(prefix) for entry in entries)):
            average = _undotted(state, prefix, place)
            if average is None:
                raise UsageError(
                    f"{where} has averaged weights {prefix[:-1]!r} that do not fit {_title(model)}, beside "
                    f"{place[:-1]!r}, which do: name one by key (--weights of `bench sample`)"
                )
            weights |= average
            break
    return weights, f"{where}, entry {place[:-1]!r}," if place else where


def _prefixes(name: str) -> list[str]:
    """All prefixes of a name: for `a.b.weight` the empty prefix, `a.` and `a.b.`."""
    return ["", *(name[: match.end()] for match in re.finditer(r"\.", name))]


def _averages(one: str, other: str, entries: Collection[str]) -> bool:
    """Whether of two places, none inside the other, the first is named as an average and the second is not.

    The first part in which they differ counts if it is an entry of the checkpoint, else all from there on.
    """
    if one.startswith(other) or other.startswith(one):
        return False
    differs = next(i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    shared = one.rfind(".", 0, differs) + 1
    first = [place[: place.index(".", shared) + 1] for place in (one, other)]
    behind = first if any(entry.startswith(tuple(first)) for entry in entries) else [one, other]
    averaged, plain = (_AVERAGED.search(place[shared:]) for place in behind)
    return bool(averaged) and not plain


def _undotted(state: dict[str, Tensor], average: str, place: str) -> dict[str, Tensor] | None:
    """Averages whose names are stored without dots, as latent diffusion's `LitEma` does.

    Args:
        average: prefix of the averages.
        place: prefix of the weights that were averaged.

    Returns:
        The averages under the names of these weights, without `place`; None if the names do not match.
    """
    averages = _behind(average, state)
    averages = {name: tensor for name, tensor in averages.items() if name not in ("decay", "num_updates")}
    names = [name for name in state if name.startswith(place)]
    for start in _prefixes(place):
        dotted = {name.removeprefix(start).replace(".", ""): name.removeprefix(place) for name in names}
        if averages.keys() <= dotted.keys():
            return {dotted[name]: tensor for name, tensor in averages.items()}
    return None


def _unwrapped(model: nn.Module, found: list[tuple[str, str, Tensor]]) -> list[tuple[str, str, Tensor]]:
    """`_tensors` without `_WRAPPERS` in their names, unless the model's own names have them."""
    if any(not _WRAPPERS.isdisjoint(name.split(".")) for name in model.state_dict()):
        return found
    plain = [
        (entry, entry + ".".join(p for p in name[len(entry) :].split(".") if p not in _WRAPPERS), tensor)
        for entry, name, tensor in found
    ]
    return plain if len({name for _, name, _ in plain}) == len(found) else found


def _listed(names: list[str]) -> str:
    """The first few of `names`, for a message."""
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _translate(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate names of the authors' layout to ours; names that are already ours stay."""
    own = set(model.state_dict())
    rules: list[Rule] = getattr(model, "checkpoint_names", [])
    if own & set(state) == set(state) or not rules:
        return state
    # Modules of which the authors' layout stores one part under the module's own name.
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
    # If translating does not help, keep the names as they came, so that messages show the file's names.
    return translated if len(own & set(translated)) >= len(own & set(state)) else state


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """A weight's shape without the trailing 1×1 of a pointwise convolution."""
    shape = tuple(tensor.shape)
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
