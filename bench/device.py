"""The machine under a measurement: its name, clock and memory, a stopwatch, and what it does at most."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.records import cpu_name
from registry.errors import UsageError

LIMIT_SECONDS = 0.5  # how long a peak is looked for


def find_device(name: str) -> torch.device:
    """The device of that name, a GPU with its number.

    Args:
        name: `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: no such device, here or anywhere, or one on which nothing is timed.
    """
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


def seconds(call: Callable[[], Any], times: int, device: torch.device) -> float:
    """Seconds of so many calls in a row: CUDA events on a GPU, the wall clock on a CPU."""
    if on_cuda(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - began


def limits(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a matrix product and bytes/s of a copy, each the fastest of many."""
    side, length = (8192, 2**28) if on_cuda(device) else (1024, 2**27)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.ones(length, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _least_seconds(lambda: a @ b, device)
    copy = _least_seconds(lambda: target.copy_(source), device)
    return 2 * side**3 / product, 2 * length / copy


def _least_seconds(call: Callable[[], Any], device: torch.device) -> float:
    """The fastest of as many calls as fit in `LIMIT_SECONDS`, after the first."""
    call()
    spent = [seconds(call, 1, device)]
    while sum(spent) < LIMIT_SECONDS:
        spent.append(seconds(call, 1, device))
    return min(spent)


def available_memory() -> int:
    """Bytes of main memory that a new tensor could take."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_name(device: torch.device) -> str:
    """Name of the GPU or of the processor."""
    return torch.cuda.get_device_name(device) if on_cuda(device) else cpu_name()


def clock_mhz(device: torch.device) -> float | None:
    """The clock right now; None where the system does not tell."""
    if on_cuda(device):
        try:
            return float(torch.cuda.clock_rate(device))
        except Exception:  # needs NVML, which is not everywhere
            return None
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    clocks = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return statistics.median(clocks) if clocks else None
