"""Devices by name, and the names of devices. Importing this module imports no torch."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
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
    """Bytes of main memory that a new tensor could take, in a container or under Slurm too."""
    return min([_free_memory(), *_left_to_groups()])


def _free_memory() -> int:
    """Bytes that the machine has left."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_to_groups(
    told: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """Bytes that each control group of this process that has a limit leaves it, of version 1 and 2."""
    for line in told.read_text().splitlines() if told.exists() else ():
        _, controllers, group = line.split(":", 2)
        if controllers == "memory":
            root, names = mounted / "memory", ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")
        elif not controllers:
            root, names = mounted, ("max", "current", "inactive_file")
        else:
            continue
        limit, usage, cache = names
        folder = root / group.lstrip("/")
        for place in (folder, *folder.parents):  # a limit holds for the groups within
            if not place.is_relative_to(root):
                break
            with contextlib.suppress(OSError, ValueError, KeyError):  # no such group, or "max": no limit
                statistics = dict(each.split() for each in (place / "memory.stat").read_text().splitlines())
                used = int((place / f"memory.{usage}").read_text()) - int(statistics[cache])
                yield int((place / f"memory.{limit}").read_text()) - used
