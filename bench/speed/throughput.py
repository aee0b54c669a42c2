"""How fast backbones run: images per second, latency, memory, share of the device's peak, roofline.

    slow, fast = measure(["dit-s-2", "udit-t"], Settings(batch_size=8), repeats=30)
    fast.images_per_second, fast.ratio, fast.interval

Rounds are interleaved, so background load affects all networks equally; only ratios within a round are
compared. `bench.speed.runners` has what is timed.

Roofline: the arithmetic intensity is 2·MACs over the bytes that operators move (`bench.speed.traffic`),
counted on one eager call at the batch that is timed, so a compiled network moves less. Training counts three
times the multiply-accumulates of the deployed forward pass. The ridge is the peak (a matrix product) over
the bandwidth (a copy), both measured in the same run; below it a network is bound by memory. On a GPU small
batches are bound by neither: the GPU finishes an operator before the CPU has launched the next.
"""

from __future__ import annotations

import contextlib
import copy
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

import registry
from bench.cost import identity
from bench.records.schema import Device, SamplingSpeed, Speed, SpeedRequest, SpeedSettings
from bench.speed.batch import choose_batch
from bench.speed.device import check_dtype, clock_mhz, limits
from bench.speed.nominal import nominal_flops
from bench.speed.runners import InferenceRunner, Runner, TrainingRunner
from bench.speed.statistics import LEAST_ROUNDS, interleave, paired_ratio
from bench.utils.device import device_name, find_device, on_cuda
from bench.utils.load import other_load
from bench.utils.precision import check_precision, tf32
from bench.utils.progress import Progress, silent
from registry.errors import UsageError

LAUNCH_BOUND = 0.9  # share of the time in which operators are launched, from which on nothing else bounds it
Model = str | nn.Module | tuple[str, Mapping[str, Any]]  # a name, a network, or a name with overrides


class Settings(SpeedSettings):
    """How networks are timed, the same for all of them; see `SpeedSettings`.

    Attributes:
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: no such setting, or a value of another kind.
    """

    device: str = "cpu"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UsageError(f"{first['loc'][0]}: {first['msg']}, not {first['input']!r}") from None

    def request(self, network: nn.Module, device: torch.device) -> SpeedRequest:
        """What is measured of one network."""
        model, config = identity(network)
        how = self.model_dump(exclude={"device"})
        return SpeedRequest(model=model, config=config, device_name=device_name(device), **how)


def measure(
    models: Sequence[Model], settings: Settings, *, repeats: int, progress: Progress = silent
) -> list[Speed]:
    """Time backbones against each other. All are on the device at the same time.

    Args:
        models: registered names, names with overrides, or networks, which are not changed. The others are
            compared with the first. To see the noise floor, name one network twice.
        settings: how.
        repeats: rounds, at least 6; each times every network.

    Returns:
        One result for each model, in order.

    Raises:
        UsageError: unknown names or overrides, or a device, dtype or batch that is not available.
        Exception: any error of a network.
    """
    if not models:
        raise UsageError("name at least one model")
    device = _checked(settings, repeats)
    make = InferenceRunner if settings.mode == "inference" else TrainingRunner
    with _conditions(settings, device, len(models)):
        progress("peak and bandwidth of the device", 0, 0)
        peaks = [limits(device, settings.dtype)]
        runners: list[Runner] = []
        for i, model in enumerate(models):
            progress("building networks", i, len(models))
            network = _network(model)
            runners.append(make(network, settings.request(network, device), device))
        for i, runner in enumerate(runners):
            progress(f"first calls of {runner.name}", i, len(models))
            runner.prepare(*choose_batch(runner))
        with other_load() as found:
            rounds = interleave([runner.turn for runner in runners], repeats, progress)
        if on_cuda(device):
            runners[-1].queue()  # the clock of a GPU at rest is another
        clock = clock_mhz(device)
        # Again, for something else may have been running the first time; the larger is nearer the truth.
        peaks.append(limits(device, settings.dtype))
        products, copies = zip(*peaks, strict=True)
        loops: list[SamplingSpeed | None] = []
        for i, runner in enumerate(runners):
            if settings.num_inference_steps is None or not isinstance(runner, InferenceRunner):
                loops.append(None)
                continue
            progress(f"sampling with {runner.name}", i, len(models))
            loops.append(runner.sampling(settings.num_inference_steps))
    where = Device(
        name=device_name(device),
        threads=torch.get_num_threads(),
        clock_mhz=clock,
        peak_flops=max(rate.burst for rate in products),
        bandwidth=max(rate.burst for rate in copies),
        sustained_flops=max(rate.sustained for rate in products),
        sustained_bandwidth=max(rate.sustained for rate in copies),
        nominal_flops=nominal_flops(device_name(device), settings.dtype),
        other_load=found.cores,
    )
    first, *others = rounds
    ratios = [None, *(paired_ratio(first, other, len(models)) for other in others)]
    return [_speed(*parts, where) for parts in zip(runners, rounds, ratios, loops, strict=True)]


def _network(model: Model) -> nn.Module:
    """A network that may be changed."""
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    name, overrides = (model, {}) if isinstance(model, str) else model
    return registry.create(name, **overrides)


@contextlib.contextmanager
def _conditions(settings: Settings, device: torch.device, count: int) -> Iterator[None]:
    """The device, its arithmetic and fixed random numbers, for so many networks; all is restored."""
    cuda = on_cuda(device)
    if settings.compile:
        torch._dynamo.reset()  # what was compiled before would count towards the limit below
    with (
        torch.cuda.device(device) if cuda else contextlib.nullcontext(),
        tf32(settings.dtype == "tf32", device),
        torch.random.fork_rng([device] if cuda else ()),
        # Networks of one class share their code, which is compiled for each of them and each shape.
        torch._dynamo.config.patch(recompile_limit=8 * count)
        if settings.compile
        else contextlib.nullcontext(),
    ):
        torch.manual_seed(0)
        yield


def _speed(
    runner: Runner,
    seconds_per_image: list[float],
    ratio: tuple[float, tuple[float, float]] | None,
    sampling: SamplingSpeed | None,
    device: Device,
) -> Speed:
    """The result of one backbone from its rounds."""
    runner.finish()
    low, middle, high = np.quantile(1 / np.asarray(seconds_per_image), (0.25, 0.5, 0.75)).tolist()
    flops = runner.flops_per_mac * runner.macs  # of one image
    intensity = flops * runner.batch_size / runner.moved
    ridge = device.peak_flops / device.bandwidth
    share = None
    if runner.enqueue_seconds:
        share = statistics.median(runner.enqueue_seconds) * middle / runner.batch_size
    bound: Literal["launch", "memory", "compute"] = "compute" if intensity >= ridge else "memory"
    if share is not None and share >= LAUNCH_BOUND:
        bound = "launch"
    return Speed(
        request=runner.request,
        batch_size=runner.batch_size,
        batch_reason=runner.batch_reason,
        images_per_second=middle,
        quartiles=(low, high),
        latency_ms=runner.latency_ms,
        peak_bytes=runner.peak_bytes,
        macs=runner.macs,
        flops_per_second=flops * middle,
        peak_share=flops * middle / device.peak_flops,
        intensity=intensity,
        ridge=ridge,
        bound=bound,
        launch_share=share,
        ratio=ratio[0] if ratio else None,
        interval=ratio[1] if ratio else None,
        compiled=runner.compiled,
        compile_seconds=runner.compile_seconds,
        sampling=sampling,
        training=runner.training_time,
        seconds_per_image=tuple(seconds_per_image),
        device=device,
    )


def _checked(settings: Settings, repeats: int) -> torch.device:
    """The device, if settings make sense and it can do what they ask for."""
    steps = settings.num_inference_steps
    if repeats < LEAST_ROUNDS:
        raise UsageError(f"repeats must be at least {LEAST_ROUNDS}, not {repeats}: fewer give no interval")
    if settings.batch_size != "auto" and settings.batch_size < 1:
        raise UsageError(f"batch size must be at least 1, or auto, not {settings.batch_size}")
    if steps is not None and settings.mode == "training":
        raise UsageError("sampling times a network for inference: leave training out")
    if steps is not None and not 1 <= steps <= 1000:
        raise UsageError(f"a loop has 1 to 1000 steps, not {steps}")
    device = find_device(settings.device)
    check_dtype(settings.dtype, device)
    if settings.mode == "training" and settings.dtype in ("bf16", "fp16"):
        check_precision(settings.dtype, device)
    return device
