"""Devices by name, and the names of devices. Importing this module imports no torch."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import UsageError

if TYPE_CHECKING:
    import torch


def find_device(name: str) -> torch.device:
    """The device of that name, a GPU with its number.

    Args:
        name: `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: no such device, here or anywhere, or one on which nothing is measured.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"no device {name!r}: it is cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"measurements run on cpu or cuda, not on {name!r}")
    if on_cuda(device):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(f"no device {name!r} here: PyTorch sees {count} CUDA devices")
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    return device


def on_cuda(device: torch.device) -> bool:
    """Whether it is an NVIDIA (or ROCm) GPU."""
    return device.type == "cuda"


def device_name(device: torch.device | str) -> str:
    """Name of the GPU or of the processor."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return cpu_name()


def cpu_name() -> str:
    """Name of the processor, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use: fewer than there are in a container, under Slurm or `taskset`."""
    import joblib

    return joblib.cpu_count()


def available_memory() -> int:
    """Bytes of main memory that a new tensor could take."""
    import psutil

    return psutil.virtual_memory().available
