"""The machine during a measurement of speed: clock, memory, arithmetic, timing, peak rates."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from bench.records.schema import Dtype
from bench.utils.device import on_cuda
from registry.errors import UsageError

TORCH_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # float32 whose products are rounded, on CUDA
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# How long a peak is measured (on a GPU until its power settles), and in how many calls at a time. On a GPU
# the next call is queued before the last has ended; otherwise each would begin with a gap.
LIMIT_SECONDS = {"cpu": 0.5, "cuda": 3.0}
LIMIT_CALLS = {"cpu": 1, "cuda": 20}


def check_dtype(dtype: str, device: torch.device) -> None:
    """Check that the arithmetic is known and that the device supports it.

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


def cast(network: nn.Module, device: torch.device, dtype: Dtype) -> Any:
    """The network on a device, with its real numbers in a dtype.

    Complex ones stay as they are: PyTorch would drop their imaginary parts.
    """
    network.to(device)
    tensors = [*network.parameters(), *network.buffers()]
    if not any(tensor.is_complex() for tensor in tensors):
        return network.to(TORCH_DTYPES[dtype])
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(TORCH_DTYPES[dtype])
    return network


def channels_last(network: nn.Module) -> None:
    """Give the network's weights of two-dimensional convolutions the channels-last memory format."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


@contextlib.contextmanager
def out_of_memory(message: str) -> Iterator[None]:
    """Within this context, raise `UsageError(message)` if a GPU's memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if not of_memory(error):
            raise
        raise UsageError(message) from None


def of_memory(error: RuntimeError) -> bool:
    """Whether an error means that memory ran out, in PyTorch, cuBLAS or cuDNN."""
    return isinstance(error, torch.OutOfMemoryError) or "_STATUS_ALLOC_FAILED" in str(error)


def no_room(name: str, batch_size: int, device: torch.device) -> str:
    """The message that a network's batch does not fit."""
    hint = "; try a smaller --batch-size, or auto" if batch_size > 1 else ""
    return f"{name}: a batch of {batch_size} does not fit in the memory of {device}{hint}"


def mark(device: torch.device) -> Any:
    """A point in time. On CUDA it is an event in the stream, which nothing waits for until the end."""
    if not on_cuda(device):
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def between(marks: Sequence[Any]) -> list[float]:
    """Seconds from each mark to the next."""
    if isinstance(marks[0], torch.cuda.Event):
        marks[-1].synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairwise(marks)]
    return [end - start for start, end in pairwise(marks)]


def seconds(call: Callable[[], Any], times: int, device: torch.device) -> float:
    """Seconds of so many calls in a row: CUDA events on a GPU, the wall clock on a CPU."""
    if on_cuda(device):
        torch.cuda.synchronize(device)
    start = mark(device)
    for _ in range(times):
        call()
    return between([start, mark(device)])[0]


def enqueue_seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds until all operators of a call are launched on a GPU, whether or not it has run them."""
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Rate:
    """Operations or bytes of a device per second.

    Attributes:
        burst: rate of the fastest calls.
        sustained: median rate of the later half, when a GPU has lowered its clock to its power limit.
    """

    burst: float
    sustained: float


def limits(device: torch.device, dtype: str) -> tuple[Rate, Rate]:
    """FLOP/s of a matrix product and bytes/s of a copy; on a GPU measured once per process."""
    return _limits_of_gpu(device, dtype) if on_cuda(device) else _limits(device, dtype)


def _limits(device: torch.device, dtype: str) -> tuple[Rate, Rate]:
    side = 8192 if on_cuda(device) else 1024
    a, b = (torch.randn(side, side, device=device).to(TORCH_DTYPES[dtype]) for _ in range(2))
    length = 2**28 if on_cuda(device) else 2**27
    source = torch.ones(length, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    products = _rate(2 * side**3, lambda: a @ b, device)
    return products, _rate(2 * length, lambda: target.copy_(source), device)


_limits_of_gpu = functools.cache(_limits)


def _rate(work: float, call: Callable[[], Any], device: torch.device) -> Rate:
    """The rate of calls that each do `work` operations or bytes."""
    call()
    calls = LIMIT_CALLS[device.type]
    start, marks = time.perf_counter(), [mark(device)]
    while len(marks) < 2 or time.perf_counter() - start < LIMIT_SECONDS[device.type]:
        for _ in range(calls):
            call()
        marks.append(mark(device))
        if on_cuda(device):
            marks[-2].synchronize()  # the calls queued last run meanwhile
    spent = between(marks)
    later = spent[len(spent) // 2 :]
    return Rate(calls * work / min(spent), calls * work / statistics.median(later))


def clock_mhz(device: torch.device) -> float | None:
    """The clock in MHz now; None where the system does not report it."""
    if on_cuda(device):
        try:
            return float(torch.cuda.clock_rate(device))
        except Exception:  # needs NVML, which is not everywhere
            return None
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    clocks = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return statistics.median(clocks) if clocks else None
