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
from collections.abc import Callable, Collection, Iterable, Mapping
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
        UsageError: there is none, or there are several and the choice is not clear.
    """
    if not isinstance(content, Mapping):
        raise UsageError(f"{where} holds {type(content).__name__}, not a state dict")
    if key is not None:
        entry = _entry(content, key)
        if entry is None:
            raise UsageError(f"{where} has no state dict {key!r}; it has: {_listed(list(map(str, content)))}")
        return _network(model, entry, None, f"{where}, entry {key!r},")
    if "pytorch-lightning_version" in content:
        content = _of_lightning(content, where)
    state = {n: value for n, value in content.items() if isinstance(n, str) and isinstance(value, Tensor)}
    if state and len(state) == len(content):
        # A prefix that the network declares (`registry.wrap`) separates its weights from others in the file.
        prefix = getattr(model, "checkpoint_prefix", "")
        state = (_behind(prefix, state) if prefix else {}) or state
        if (inside := _inside(model, state, where)) is not None:
            return inside, where
        state = _without_prefix(model, state)
        parts = _parts(state)
        if not any(map(_AVERAGED.search, parts)):
            return state, where
        content = parts  # one state dict with `online_model.…` and `ema_model.…`
    sets = [name for name, value in content.items() if isinstance(name, str) and _holds_weights(value)]
    sets = [name for name in sets if _AVERAGED.search(name)] or sets
    if not sets:
        others = [str(name) for name in content if name not in state]
        found = f"entries that are no named tensors: {_listed(others)}" if others else "nothing"
        raise UsageError(f"{where} is not a state dict; it holds {found}")
    if len(sets) > 1:
        fitting = [name for name in sets if _fits(model, content[name])]
        if len(fitting) != 1:
            which = f"{len(fitting)} of them fit" if fitting else "none of them fits"
            raise _ambiguous(model, where, fitting or sets, which)
        sets = fitting
    return _network(model, content[sets[0]], None, f"{where}, entry {sets[0]!r},")


def _ambiguous(model: nn.Module, where: str, sets: list[str], which: str) -> UsageError:
    return UsageError(
        f"{where} holds several sets of weights, {_listed(list(map(repr, sets)))}, and {which} "
        f"{_title(model)}: name one by key (--weights of `bench sample`)"
    )


def _entry(content: Mapping[Any, Any], key: str) -> Mapping[Any, Any] | None:
    """The entry with this name, or the entries with this prefix, at any depth; None unless it is unique."""
    if isinstance(content.get(key), Mapping):
        return content[key]
    if part := _behind(f"{key}.", content):
        return part
    inner = [_entry(value, key) for value in content.values() if isinstance(value, Mapping)]
    found = [entry for entry in inner if entry is not None]
    return found[0] if len(found) == 1 else None


def _behind(prefix: str, content: Mapping[Any, Any]) -> dict[str, Any]:
    """Entries whose names start with a prefix, without the prefix."""
    return {
        name.removeprefix(prefix): value
        for name, value in content.items()
        if isinstance(name, str) and name.startswith(prefix)
    }


def _of_lightning(content: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    """A checkpoint of Lightning with the states of its callbacks as entries, since one may hold averages.

    After Lightning's own `WeightAveraging`, `state_dict` is the average.

    Raises:
        UsageError: the averages are a list of tensors in the optimizer's state, as with NeMo and FlowDCN.
    """
    if any("ema" in state for state in content.get("optimizer_states", ())):
        raise UsageError(
            f"{where} keeps its averaged weights without names, in optimizer_states: save them as a state "
            "dict with the program that wrote it, or take the last weights by the key state_dict (--weights "
            "of `bench sample`)"
        )
    callbacks = content.get("callbacks") or {}
    kept = {name: v for name, v in content.items() if name not in ("callbacks", "current_model_state")}
    return callbacks | kept


def _inside(model: nn.Module, state: dict[str, Tensor], where: str) -> dict[str, Tensor] | None:
    """The network's weights in a state dict, with any prefix and among any other entries.

    Returns:
        A state dict that fits; None if there is none.

    Raises:
        UsageError: several fit, or one fits and there is an average of it that cannot be read.
    """
    state = _unwrapped(model, state)
    fixed: Collection[str] = getattr(model, "fixed_parameters", ())
    own = {name for name in model.state_dict() if name not in fixed}
    parts = {name.partition(".")[0] for name in own} if own <= state.keys() else set()
    counts = Counter(prefix for name in state for prefix in _prefixes(name))
    found: dict[str, dict[str, Tensor]] = {}
    for prefix in sorted(counts, key=len):
        inner = prefix.startswith(tuple(found)) or prefix.partition(".")[0] in parts
        if counts[prefix] >= len(own) and not inner:
            part = _behind(prefix, state)
            if not _matched(model, dict(part))[1]:
                found[prefix] = part
    if not found:
        return None
    chosen = _averaged(list(found))
    if len(chosen) > 1:
        names = [prefix.removesuffix(".") for prefix in chosen]
        raise _ambiguous(model, where, names, f"{len(names)} of them fit")
    (place,) = chosen
    if _AVERAGED.search(place):
        return found[place]
    for prefix in counts:
        apart = not prefix.startswith(place) and not place.startswith(prefix)
        if apart and 2 * counts[prefix] >= len(own) and _AVERAGED.search(prefix.split(".")[-2]):
            average = _undotted(state, prefix, place)
            if average is None:
                raise UsageError(
                    f"{where} has averaged weights {prefix.removesuffix('.')!r} that do not fit "
                    f"{_title(model)}, beside {place.removesuffix('.')!r}, which do: name one by key "
                    "(--weights of `bench sample`)"
                )
            return found[place] | average
    return found[place]


def _prefixes(name: str) -> list[str]:
    """All prefixes of a name: for `a.b.weight` the empty prefix, `a.` and `a.b.`."""
    return ["", *(name[: match.end()] for match in re.finditer(r"\.", name))]


def _averaged(places: list[str]) -> list[str]:
    """Of several places of weights, those named as averages in the parts that differ; else all of them."""
    while len(places) > 1:
        parts = [place.split(".") for place in places]  # none is a prefix of another
        shared = next(i for i, column in enumerate(zip(*parts, strict=False)) if len(set(column)) > 1)
        averaged = [
            place
            for place, part in zip(places, parts, strict=True)
            if _AVERAGED.search(".".join(part[shared:]))
        ]
        if len(averaged) in (0, len(places)):
            break
        places = averaged
    return places


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


def _unwrapped(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without `_WRAPPERS` in its names, unless the model's own names have them."""
    if any(not _WRAPPERS.isdisjoint(name.split(".")) for name in model.state_dict()):
        return state
    plain = {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): t for name, t in state.items()
    }
    return plain if len(plain) == len(state) else state


def _without_prefix(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a network inside other modules, for the message if nothing fits."""
    own = {name.partition(".")[0] for name in model.state_dict()}
    state = {name: tensor for name, tensor in state.items() if name != "n_averaged"}  # torch's AveragedModel
    while len(parts := _parts(state)) == 1 and sum(map(len, parts.values())) == len(state):
        if not own.isdisjoint(parts):
            break
        (state,) = parts.values()
    return state


def _parts(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A state dict split by the first part of its names; names without a dot are omitted."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        first, dot, rest = name.partition(".")
        if dot:
            parts.setdefault(first, {})[rest] = tensor
    return parts


def _holds_weights(value: Any) -> bool:
    """Whether an entry of a checkpoint holds weights: tensors by name, or in a list, as some averages are."""
    items: Iterable[Any] = value if isinstance(value, list | tuple) else ()
    if isinstance(value, Mapping) and "param_groups" not in value:  # optimizers have these
        items = value.values()
    return any(item.dim() > 0 if isinstance(item, Tensor) else _holds_weights(item) for item in items)


def _fits(model: nn.Module, content: Any) -> bool:
    """Whether an entry of a checkpoint has the model's names and shapes."""
    try:
        return not _matched(model, _network(model, content, None, "")[0])[1]
    except UsageError:
        return False


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
