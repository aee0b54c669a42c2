"""Where the time of a forward pass goes, beside where its multiply-accumulates go.

The deployed network runs in inference mode. By stage, time is taken when a stage is entered and left; by
operator, from torch.profiler, in the classes in which `bench.cost` counts (`bench.speed.operators`). A part
with a larger share of the time than of the multiply-accumulates is slower than its FLOPs suggest.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity

from bench import cost
from bench.cost.stages import BETWEEN, around, stages
from bench.cost.trace import decomposed_attention
from bench.records.schema import IDLE, Profile, ProfileRequest, Share
from bench.speed.device import (
    Dtype,
    between,
    cast,
    check_dtype,
    mark,
    no_room,
    out_of_memory,
)
from bench.speed.operators import operator_class, operator_macs
from bench.utils.device import device_name, find_device, on_cuda
from bench.utils.files import write_whole
from bench.utils.load import other_load
from bench.utils.precision import tf32
from bench.utils.progress import Progress, silent
from registry.errors import UsageError

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler prints warnings without a GPU

WARM_UP = 2  # forward passes before any is timed


def measure(
    network: Any,
    *,
    device: str = "cpu",
    dtype: Dtype = "fp32",
    batch_size: int = 8,
    repeats: int = 10,
    trace: Path | None = None,
    progress: Progress = silent,
) -> Profile:
    """Profile the forward pass of a network's deployed form.

    Args:
        network: a network that fulfils the contract of `registry.Backbone`; not changed.
        device: `cpu`, `cuda`, `cuda:1`.
        dtype: type that weights and inputs are cast to; tf32 is float32 with products in TF32, on CUDA.
        batch_size: samples in one forward pass.
        repeats: how often each of three ways of running is timed: plain, by stage, by operator.
        trace: also write a Chrome trace of the last profiled pass here (`.json`, `.json.gz`).
        progress: see `bench.utils.progress`.

    Raises:
        UsageError: no such device, a dtype it lacks, a batch that does not fit, or an unwritable trace.
        Exception: any error of the network.
    """
    if batch_size < 1 or repeats < 1:
        raise UsageError(f"needs batch_size >= 1 and repeats >= 1, not {batch_size}, {repeats}")
    place = find_device(device)
    check_dtype(dtype, place)
    deployed = network.deploy()
    counted = cost.measure(deployed)
    model, config = counted.request.model, counted.request.config
    timed = {part.name for part in counted.stages}
    parts = {name: module for name, module in stages(deployed).items() if name in timed}
    with (
        torch.inference_mode(),
        decomposed_attention(),
        tf32(dtype == "tf32", place),
        out_of_memory(no_room(model, batch_size, place)),
    ):
        deployed = cast(deployed, place, dtype)
        passes = _Passes(deployed, deployed.example_inputs(batch_size), place)
        for _ in range(WARM_UP):
            passes.plain()
        passes.by_operator(parts)  # the first profiled pass waits for the profiler
        # Interleaved, so that background load affects all three equally.
        turns = []
        with other_load() as found:
            for i in range(repeats):
                progress(f"profiling {model}", i, repeats)
                turns.append((passes.plain(), passes.by_stage(parts), passes.by_operator(parts)))
    if trace is not None:
        write_whole(trace, lambda path: passes.profiler.export_chrome_trace(str(path)))
    whole = statistics.median(seconds for seconds, _, _ in turns)
    by_stage = dict.fromkeys((*parts, BETWEEN), 0.0) | _medians([seconds for _, seconds, _ in turns])
    by_operator = _medians([seconds for _, _, seconds in turns])
    macs, by_operator = operator_macs(counted, deployed, by_operator)
    if on_cuda(place):  # kernels of one stream, so that their times add up
        by_operator[IDLE] = max(whole - sum(by_operator.values()), 0.0)
    request = ProfileRequest(
        model=model, config=config, device_name=device_name(place), dtype=dtype, batch_size=batch_size
    )
    return Profile(
        request=request,
        input_size=deployed.input_size,
        threads=None if on_cuda(place) else torch.get_num_threads(),
        seconds=whole,
        overhead=sum(by_stage.values()) / whole - 1,
        stages=tuple(_shares(by_stage, {part.name: part.macs for part in counted.stages})),
        operators=tuple(sorted(_shares(by_operator, macs), key=lambda share: -share.seconds)),
        other_load=found.cores,
    )


def _medians(passes: list[dict[str, float]]) -> dict[str, float]:
    """Median of each part, over passes in some of which it may be missing."""
    names = dict.fromkeys(name for one in passes for name in one)
    return {name: statistics.median(one.get(name, 0.0) for one in passes) for name in names}


def _shares(seconds: dict[str, float], macs: dict[str, int]) -> list[Share]:
    all_time, all_macs = sum(seconds.values()) or 1.0, sum(macs.values()) or 1
    shares = []
    for name in dict.fromkeys((*seconds, *macs)):
        spent, work = seconds.get(name, 0.0), macs.get(name, 0)
        time_share, macs_share = spent / all_time, work / all_macs
        shares.append(
            Share(
                name=name,
                seconds=spent,
                time_share=time_share,
                macs=work,
                macs_share=macs_share,
                ratio=time_share / macs_share if work else None,
            )
        )
    return shares


# ---- one forward pass, timed ----


class _Passes:
    """Runs a network on its example inputs, in the three ways in which it is timed."""

    def __init__(self, network: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> None:
        self.network, self.inputs, self.device = network, inputs, device
        self.profiler: Any = None  # of the last pass by operator

    def plain(self) -> float:
        """Seconds of one forward pass."""
        start = mark(self.device)
        self.network(*self.inputs)
        return between([start, mark(self.device)])[0]

    def by_stage(self, parts: dict[str, nn.Module]) -> dict[str, float]:
        """Seconds of each stage, and of what is in none."""
        names: list[str] = []
        running = [BETWEEN]

        def enter(stage: str) -> None:
            marks.append(mark(self.device))
            names.append(running[-1])
            running.append(stage)

        def leave(stage: str) -> None:
            marks.append(mark(self.device))
            names.append(running.pop())

        with around(parts, enter, leave):
            marks = [mark(self.device)]
            self.network(*self.inputs)
            marks.append(mark(self.device))
        names.append(BETWEEN)
        seconds: dict[str, float] = dict.fromkeys(names, 0.0)
        for name, spent in zip(names, between(marks), strict=True):
            seconds[name] += spent
        return seconds

    def by_operator(self, parts: dict[str, nn.Module]) -> dict[str, float]:
        """Seconds of each class of operators on the device; the trace shows the stages too."""
        ranges: list[Any] = []

        def enter(stage: str) -> None:
            ranges.append(torch.profiler.record_function(stage))
            ranges[-1].__enter__()

        def leave(stage: str) -> None:
            ranges.pop().__exit__(None, None, None)

        with around(parts, enter, leave):
            seconds, self.profiler = profiled(lambda: self.network(*self.inputs), self.device)
        return seconds


def profiled(call: Callable[[], Any], device: torch.device) -> tuple[dict[str, float], Any]:
    """Seconds that each class of operators takes on the device in a call, and the profiler that saw it."""
    cuda = on_cuda(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    profiler = torch.profiler.profile(activities=activities, record_shapes=True, acc_events=True)
    with profiler:
        call()
        if cuda:
            torch.cuda.synchronize(device)  # or the last kernels would be missing
    seconds: dict[str, float] = {}
    for event in profiler.events():
        # Kernels are events of their own as well; they count where an operator started them.
        if event.device_type == torch.autograd.DeviceType.CPU and "::" in event.name:
            own = event.self_device_time_total if cuda else event.self_cpu_time_total
            kind = operator_class(event)
            seconds[kind] = seconds.get(kind, 0.0) + own / 1e6
    return seconds, profiler
