"""The folder of a training run: its request, its log, its checkpoints and their pictures.

    run.json                          the request, the protocol, and where the data lie
    log.jsonl                         a line every few steps
    checkpoints/00000500/             model, ema, optimizer (safetensors), and state.json with their checksums
    posthoc/00000500/                 power-function averages, where the protocol asks for them; all are kept
    samples/00000500.png              the same noise at every checkpoint, if the protocol makes samples

A process that trains in it holds its lock (`bench.utils.locks`).

A checkpoint is a folder that appears whole or not at all, so the newest one is always good.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from torch import Tensor

import registry
from bench.diffusion import objective
from bench.diffusion.base import Objective
from bench.records.schema import Config, Model, TrainingSettings
from bench.training.protocols import Protocol
from bench.training.step import places
from bench.utils import distributed, locks
from bench.utils.files import write_text
from registry.backbone import height_width, is_denoiser
from registry.errors import CodeError, UsageError, reason

PARTS = ("model", "ema", "optimizer")
STATE = "state.json"
Tensors = dict[str, Tensor]


class RunRequest(Model):
    """Everything that determines the weights of a run.

    Attributes:
        model: the registered backbone.
        config: all of its options, with those that the data decide, in canonical form.
        fingerprint: of the code that the backbone is made of.
        plugins: fingerprints of the objective's and the dataset's code, where they are a user's own.
        versions: versions of the trainer and of the objective.
        data, data_digest: the dataset by name and by content.
        shape: (C, H, W) of its grids.
        num_classes: of its labels.
        training: settings, with the backbone's objective.
        seed: seed of the initial weights, the order of the data, and the noise.
    """

    model: str
    config: Config
    fingerprint: str
    plugins: dict[str, str] = Field(default={})
    versions: dict[str, int] = Field(default={"trainer": 1, "objective": 1})
    data: str
    data_digest: str
    shape: tuple[int, int, int]
    num_classes: int = Field(ge=0)
    training: TrainingSettings
    seed: int = Field(ge=0, lt=2**64)

    def build(self) -> Any:
        """The backbone, randomly initialised; raises as `build` does."""
        options = registry.backbones.options(self.model)
        needed = {key for key, option in options.items() if option.default is option.empty}
        defaults = registry.canonical(self.model, {k: v for k, v in self.config.items() if k in needed})
        # A default may be what JSON cannot hold, such as a class; it is left to the network.
        changed = {k: v for k, v in self.config.items() if k in needed or defaults.get(k, ...) != v}
        return build(self.model, changed, self.shape, self.num_classes, self.data)


class Manifest(Model):
    """What `run.json` holds.

    Attributes:
        request: what determines the weights; a run resumes only with the same request.
        protocol: the protocol of the last call; samples are made by it unless others are requested.
        data_options: of the dataset, such as where its files lie.
        threads: of one operator on the CPU, when the run was begun; None where it was not recorded.
    """

    request: RunRequest
    protocol: Protocol
    data_options: dict[str, Any] = Field(default={})
    threads: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Checkpoint:
    """A run after so many steps.

    Attributes:
        step: steps done.
        model, ema, optimizer: the weights, their moving average, and the optimizer's tensors.
        scaler: state of the scaling of the loss; empty where it is not scaled.
    """

    step: int
    model: Tensors
    ema: Tensors
    optimizer: Tensors
    scaler: dict[str, float] = field(default_factory=dict)


class Run:
    """A run on disk.

    Args:
        folder: that of the run; nothing is read or made yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def manifest(self) -> Manifest:
        """What the run was begun with.

        Raises:
            UsageError: this is no folder of a run, or its `run.json` is damaged.
        """
        path = self.folder / "run.json"
        try:
            return Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UsageError(f"{self.folder} is not the folder of a run: it has no run.json") from None
        except ValidationError as error:
            complaint = error.errors()[0]
            place = ".".join(map(str, complaint["loc"])) or "the whole"
            raise UsageError(f"{path} is not of a run: {place}: {complaint['msg']}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"cannot read {path}: {reason(error)}") from None

    def begin(self, manifest: Manifest) -> None:
        """Write `run.json`."""
        write_text(self.folder / "run.json", manifest.model_dump_json(indent=2) + "\n")

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of the folder, so that no other job trains in it. Of several processes of one job the
        first holds it.

        Raises:
            InUseError: another job trains in it, named.
        """
        held = locks.held(self.folder, seconds=locks.PATIENCE)
        return held if distributed.is_main() else contextlib.nullcontext()

    # ---- checkpoints ----

    def checkpoints(self) -> list[Path]:
        """Folders of all checkpoints, oldest first."""
        return _numbered(self.folder / "checkpoints")

    def snapshots(self) -> list[Path]:
        """Folders of all power-function averages, oldest first."""
        return _numbered(self.folder / "posthoc")

    def checkpoint(self, step: int | None = None) -> Path:
        """The folder of the checkpoint at a step, or of the newest.

        Raises:
            UsageError: there is none.
        """
        found = {int(path.name): path for path in self.checkpoints()}
        if not found:
            raise UsageError(f"{self.folder} has no checkpoint yet")
        if step is not None and step not in found:
            raise UsageError(
                f"{self.folder} has no checkpoint of step {step}; it has {', '.join(map(str, found))}"
            )
        return found[max(found) if step is None else step]

    def save(self, checkpoint: Checkpoint, keep: int, posthoc: Mapping[str, Tensors] | None = None) -> Path:
        """Write a checkpoint, then remove all but the newest `keep` (0 keeps all).

        Args:
            posthoc: power-function averages at this step, by their widths; written before it, and kept.

        Raises:
            UsageError: it cannot be written; those before it are as they were.
        """
        from safetensors import SafetensorError

        name = f"{checkpoint.step:08d}"
        folder = self.folder / "checkpoints" / name
        try:
            if posthoc:
                _write(self.folder / "posthoc" / name, posthoc, {"step": checkpoint.step})
            parts = {part: getattr(checkpoint, part) for part in PARTS}
            _write(folder, parts, {"step": checkpoint.step, "scaler": checkpoint.scaler})
        except (OSError, SafetensorError) as error:
            before = [int(path.name) for path in self.checkpoints()]
            last = f"the last good one is that of step {before[-1]}" if before else "there is none before it"
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot write the checkpoint {folder}: {why}; {last}") from None
        for old in self.checkpoints()[:-keep] if keep else []:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    # ---- log ----

    def log(self, entry: dict[str, Any]) -> None:
        """Append a line to the log."""
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def rewind_log(self, step: int) -> None:
        """Drop lines of steps after `step`: a run that resumes there writes them again."""
        path = self.folder / "log.jsonl"
        if path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
            write_text(path, "".join(line + "\n" for line in lines))


def fitted(
    model: str, overrides: Mapping[str, Any], shape: Sequence[int], num_classes: int
) -> dict[str, Any]:
    """Overrides of a backbone, completed by what the data determine, such as its input size.

    Args:
        shape: (C, H, W) of the grids.
    """
    channels, height, width = shape
    fit = {
        "input_size": height if height == width else (height, width),
        "in_channels": channels,
        "num_classes": num_classes,
    }
    options = registry.backbones.options(model)
    return {key: value for key, value in fit.items() if key in options} | dict(overrides)


def build(model: str, overrides: Mapping[str, Any], shape: Sequence[int], num_classes: int, data: str) -> Any:
    """The backbone of a run, built for the grids and classes of its data, randomly initialised.

    Args:
        model: registered name of the backbone.
        overrides: options of the network.
        shape: (C, H, W) of the grids.
        num_classes: number of classes of the dataset.
        data: name of the dataset, for messages.

    Raises:
        UsageError: an unknown option, or a network that does not fit the grids and classes.
    """
    network: Any = registry.create(model, **fitted(model, overrides, shape, num_classes))
    size = height_width(network.input_size)
    takes = (network.in_channels, *size)
    wrong = {"in_channels": takes[0] != shape[0], "input_size": size != tuple(shape[1:])}
    problem = f"takes grids of {takes}, but those of {data} are {tuple(shape)}" if any(wrong.values()) else ""
    if not problem and network.num_classes not in (0, num_classes):
        wrong = {"num_classes": True}
        problem = f"has {network.num_classes} classes, but {data} has {num_classes}"
    if problem:
        options = registry.backbones.options(model)
        lacking = [name for name, differs in wrong.items() if differs and name not in options]
        hint = f": a network that is to fit any takes the option {' and '.join(lacking)}" if lacking else ""
        raise UsageError(f"{network.name} {problem}{hint}")
    return network


def objective_with(settings: TrainingSettings) -> Objective:
    """The objective of a run's settings.

    Raises:
        UsageError: no such objective, or an option that it does not take.
    """
    assert settings.objective is not None  # see `Training.settings`
    return objective(settings.objective, **settings.objective_options)


def load(folder: Path, parts: tuple[str, ...] = PARTS) -> Checkpoint:
    """Read a checkpoint from its folder, or only some parts of it.

    Raises:
        UsageError: a file is missing or is not what was written, named.
    """
    tensors, state = read(folder, parts)
    whole: dict[str, Tensors] = {part: {} for part in PARTS}
    return Checkpoint(int(folder.name), **whole | tensors, scaler=state.get("scaler", {}))


def read(folder: Path, parts: Iterable[str]) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Files of tensors of a folder that `Run.save` has written, checked, and its state.

    Raises:
        UsageError: a file is missing or is not what was written, named.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Tensors] = {}
    path = folder / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        for part in parts:
            path = folder / f"{part}.safetensors"
            if _checksum(path) != state["sha256"][path.name]:
                raise ValueError(f"its content is not that of its checksum in {STATE}")
            tensors[part] = load_file(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        why = error if type(error) is ValueError else reason(error)
        raise UsageError(
            f"the checkpoint {path} is damaged ({why}): delete {folder} to resume from the one before it"
        ) from None
    return tensors, state


def _write(folder: Path, parts: Mapping[str, Tensors], state: dict[str, Any]) -> None:
    """Write files of tensors and their checksums to a folder, on the disk whole or not at all."""
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(".bench-*"):  # of a process that was killed while writing
        shutil.rmtree(left, ignore_errors=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".bench-"))
    try:
        files = [beside / f"{part}.safetensors" for part in parts]
        for file, tensors in zip(files, parts.values(), strict=True):
            save_file(_apart(tensors), file)
            _to_disk(file)
        state = {**state, "sha256": {file.name: _checksum(file) for file in files}}
        (beside / STATE).write_text(json.dumps(state, indent=2) + "\n")
        _to_disk(beside / STATE)
        if folder.exists():
            shutil.rmtree(folder)
        beside.rename(folder)
        _to_disk(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_trainable(network: Any) -> None:
    """Check that a network can be trained, saved and restored.

    Raises:
        UsageError: the network takes other inputs than x, t and y.
        CodeError: no parameter is trainable, or an entry of the state dict is not a tensor, is an expanded
            tensor, which cannot be written to, or is made by a hook, so that no average of it can be kept.
    """
    if not is_denoiser(network, network.example_inputs(1)):
        raise UsageError(
            f"{network.name} takes other inputs than x (N, C, H, W), t (N,) and y (N,): it can be counted "
            "and timed, not trained"
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise CodeError("the network has no trainable parameter", network)
    own = places(network)
    for name, value in network.state_dict().items():
        problem = ""
        if not isinstance(value, Tensor):
            problem = f"{type(value).__name__}, and checkpoints hold tensors alone"
        elif any(stride == 0 and size > 1 for size, stride in zip(value.shape, value.stride(), strict=True)):
            problem = "an expanded tensor, whose numbers share memory: make it .contiguous()"
        elif name not in own:
            problem = "no parameter or buffer, but made by a hook: no average of it can be kept in training"
        if problem:
            raise CodeError(f"{name} of the network's state dict is {problem}", network)


def _apart(tensors: Tensors) -> Tensors:
    """The tensors as safetensors takes them: in row-major order, none sharing memory with another.

    Networks tie weights, share a buffer between blocks, or keep weights channels-last.
    """
    apart: Tensors = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        apart[name] = tensor.contiguous()
        memory = apart[name].untyped_storage().data_ptr()
        if memory in seen:
            apart[name] = apart[name].clone()
        seen.add(memory)
    return apart


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _numbered(folder: Path) -> list[Path]:
    """Folders whose names are steps, in their order."""
    return sorted(path for path in folder.glob("*") if path.name.isdecimal())


def _step(line: str) -> float:
    """The step of a line of the log; infinite for a line cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that no rename precedes the content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
