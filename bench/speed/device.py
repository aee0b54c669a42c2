"""The machine under a measurement of speed: clock, memory, arithmetic, a stopwatch, what it does at most."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch

from bench.records.schema import Dtype
from bench.utils.device import on_cuda
from registry.errors import UsageError

TORCH_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # float32 whose products are rounded, on CUDA: see `precision`
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
LIMIT_SECONDS = 0.5  # how long a peak is looked for


def check_dtype(dtype: str, device: torch.device) -> None:
    """Make sure that there is such an arithmetic, and that the device has it.

    Raises:
        UsageError: it is none of `Dtype`, or the device lacks it.
    """
    if dtype not in get_args(Dtype):
        raise UsageError(f"dtype must be one of {', '.join(get_args(Dtype))}, not {dtype!r}")
    lacks = UsageError(f"the {device.type} has no {dtype}")
    if dtype == "tf32" and (not on_cuda(device) or torch.cuda.get_device_capability(device) < (8, 0)):
        raise lacks
    if dtype == "bf16" and on_cuda(device) and torch.cuda.get_device_capability(device) < (8, 0):
        raise lacks  # PyTorch would emulate it
    try:
        a = torch.ones(8, 8, device=device, dtype=TORCH_DTYPES[dtype])
        a @ a
    except RuntimeError:
        raise lacks from None


@contextlib.contextmanager
def precision(dtype: str, device: torch.device) -> Iterator[None]:
    """TF32 on for tf32 and off for fp32 (cuDNN's is on by default); restored afterwards."""
    if not on_cuda(device):
        yield
        return
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = dtype == "tf32"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


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
    side = 8192 if on_cuda(device) else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _least_seconds(lambda: a @ b, device), bandwidth(device)


def bandwidth(device: torch.device) -> float:
    """Bytes/s that a copy reads and writes, in the fastest of many."""
    length = 2**28 if on_cuda(device) else 2**27
    source = torch.ones(length, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * length / _least_seconds(lambda: target.copy_(source), device)


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
