"""The folder of a training run: what was asked, its log, its checkpoints and their pictures.

    run.json                          what was asked
    log.jsonl                         a line every few steps
    checkpoints/00000500/             model, ema, optimizer (safetensors) and state.json
    samples/00000500.png              the same noise at every checkpoint

A checkpoint is a folder that appears whole or not at all, so the newest one is always good.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import registry
from bench.utils.files import write_text
from registry.backbone import height_width
from registry.errors import UsageError, reason

PARTS = ("model", "ema", "optimizer")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A run after so many steps: the weights, their moving average, and the optimizer's tensors."""

    step: int
    model: Tensors
    ema: Tensors
    optimizer: Tensors


class Run:
    """A run on disk.

    Args:
        folder: that of the run; nothing is read or made yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    # ---- what was asked ----

    @property
    def asked(self) -> dict[str, Any]:
        """What the run was begun with.

        Raises:
            UsageError: this is no folder of a run.
        """
        path = self.folder / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{self.folder} is not the folder of a run: it has no run.json") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read {path}: {reason(error)}") from None

    def begin(self, asked: dict[str, Any]) -> None:
        """Write what is asked."""
        write_text(self.folder / "run.json", json.dumps(asked, indent=2, ensure_ascii=False) + "\n")

    # ---- checkpoints ----

    def checkpoints(self) -> list[Path]:
        """Folders of all checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("checkpoints/*") if p.name.isdecimal())

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

    def save(self, checkpoint: Checkpoint, keep: int) -> Path:
        """Write a checkpoint, then remove all but the newest `keep` (0 keeps all).

        Raises:
            UsageError: it cannot be written; those before it are as they were.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        folder = self.folder / "checkpoints" / f"{checkpoint.step:08d}"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            for left in folder.parent.glob(".bench-*"):  # of a process that was killed while writing
                shutil.rmtree(left, ignore_errors=True)
            beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".bench-"))
            try:
                for part in PARTS:
                    save_file(getattr(checkpoint, part), beside / f"{part}.safetensors")
                    _to_disk(beside / f"{part}.safetensors")
                (beside / "state.json").write_text(json.dumps({"step": checkpoint.step}) + "\n")
                if folder.exists():
                    shutil.rmtree(folder)
                beside.rename(folder)
                _to_disk(folder.parent)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
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


def build(asked: Mapping[str, Any]) -> Any:
    """The backbone of a run, built for the grids and classes of its data, randomly initialised.

    Args:
        asked: `model`, `overrides`, `data` (its name), `shape` (C, H, W) and `num_classes`.

    Raises:
        UsageError: overrides it does not take, or a network that does not fit the grids and classes.
    """
    options = registry.backbones.options(asked["model"])
    channels, height, width = asked["shape"]
    fit = {
        "input_size": height if height == width else (height, width),
        "in_channels": channels,
        "num_classes": asked["num_classes"],
    }
    fit = {key: value for key, value in fit.items() if key in options}
    network: Any = registry.create(asked["model"], **fit | dict(asked["overrides"]))
    takes = (network.in_channels, *height_width(network.input_size))
    if takes != (channels, height, width):
        raise UsageError(
            f"{network.name} takes grids of {takes}, but those of {asked['data']} are "
            f"{channels, height, width}"
        )
    if network.num_classes not in (0, asked["num_classes"]):
        raise UsageError(
            f"{network.name} has {network.num_classes} classes, but {asked['data']} has "
            f"{asked['num_classes']}"
        )
    return network


def load(folder: Path, parts: tuple[str, ...] = PARTS) -> Checkpoint:
    """Read a checkpoint from its folder, or only some parts of it.

    Raises:
        UsageError: a file is missing or damaged, named.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read: dict[str, Tensors] = {part: {} for part in PARTS}
    for part in parts:
        path = folder / f"{part}.safetensors"
        try:
            read[part] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UsageError(
                f"the checkpoint {path} is damaged ({reason(error)}): delete {folder} to go on from the one "
                "before it"
            ) from None
    return Checkpoint(int(folder.name), **read)


def _step(line: str) -> float:
    """The step of a line of the log; infinite for a line cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _to_disk(path: Path) -> None:
    """Return when the file or folder is on the disk, so that a rename never outruns what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
