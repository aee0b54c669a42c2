"""Training runs in a folder: how far each is, and whether a record still needs it. Reading imports torch."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import registry
from bench.records.schema import QualityRequest, Record, TrainingSettings
from bench.studies.cells import FROM_DATA
from bench.training.run import Run, RunRequest
from bench.utils import locks
from registry.errors import UsageError

State = Literal["in use", "unfinished", "finished", "recorded", "damaged"]


@dataclass(frozen=True)
class RunSummary:
    """A training run.

    Attributes:
        folder: of the run.
        title: the network, its data and its seed.
        step, steps: of the newest checkpoint, and of its protocol.
        size: bytes on disk.
        age: seconds since something was written.
        state: `in use` by a process; `unfinished`; `finished`, but of no record; `recorded`: its scores are
            in a record, so that it can be deleted; `damaged`.
    """

    folder: Path
    title: str
    step: int
    steps: int
    size: int
    age: float
    state: State


def summaries(folder: Path, records: Iterable[Record]) -> list[RunSummary]:
    """Every run below a folder, or the folder itself if it is one.

    Args:
        folder: of runs.
        records: that runs may have been made for.

    Raises:
        UsageError: no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder of runs at {folder}")
    scored = {_key(r.request) for r in records if isinstance(r.request, QualityRequest)}
    places = [folder, *(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())]
    found = sorted(path for path in places if os.path.exists(f"{path}/run.json"))  # noqa: PTH110 (of many)
    return [_summary(run, scored) for run in found]


def _summary(folder: Path, scored: set[str]) -> RunSummary:
    size, written = _content(str(folder))
    age = time.time() - written
    run = Run(folder)
    try:
        manifest = run.manifest
    except UsageError:
        return RunSummary(folder, folder.name, 0, 0, size, age, "damaged")
    request = manifest.request
    checkpoints = run.checkpoints()
    step, steps = int(checkpoints[-1].name) if checkpoints else 0, request.training.steps
    state: State = "unfinished" if step < steps else "finished"
    if locks.holder(folder):
        state = "in use"
    elif _key(request) in scored and step >= steps:
        state = "recorded"
    title = f"{_label(request.model, json.dumps(request.config))} on {request.data}, seed {request.seed}"
    return RunSummary(folder, title, step, steps, size, age, state)


def _content(folder: str) -> tuple[int, float]:
    """Bytes of all files below a folder, and when the last of them was written."""
    size, written = 0, 0.0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:  # what goes meanwhile
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner, last = _content(entry.path)
            else:
                found = entry.stat(follow_symlinks=False)
                inner, last = found.st_size, found.st_mtime
            size, written = size + inner, max(written, last)
    return size, written


@cache
def _label(model: str, config: str) -> str:
    """What a network is called; its configuration as JSON."""
    return registry.label(model, json.loads(config))


def _key(request: QualityRequest | RunRequest) -> str:
    """What a run and the records that it was made for have in common."""
    config = {option: value for option, value in request.config.items() if option not in FROM_DATA}
    training: TrainingSettings = request.training
    return json.dumps(
        [request.model, config, request.data, request.seed, training.trajectory()], sort_keys=True
    )
