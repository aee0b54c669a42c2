"""Several processes of one job (`accelerate launch`, `torchrun`): their number, index and barrier.

A process alone needs nothing here to be set up.
"""

from __future__ import annotations

import os
from typing import Any


def count() -> int:
    """How many processes share the work."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process is the one that prints and finishes files."""
    return index() == 0


def share(items: list[Any]) -> list[Any]:
    """This process's part of a list that every process has: every count-th item from its number on."""
    return items[index() :: count()]


def wait() -> None:
    """Wait until every process has reached this call."""
    if count() > 1:
        _state().wait_for_everyone()


def device() -> str:
    """This process's device: its own GPU where there are any."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return str(_state().device) if count() > 1 else "cuda:0"


def _state() -> Any:
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())
