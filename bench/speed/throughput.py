"""How fast backbones run: images per second, latency, memory, share of the device's peak, roofline.

    slow, fast = measure([("dit-s-2", {}), ("udit-t", {})], Settings(batch_size=8), repeats=30)
    fast.images_per_second, fast.ratio, fast.interval

Networks are timed in turns, round by round, so that whatever the machine does besides meets all of
them alike; only ratios within a round are compared. What is timed:

- **inference**: the deployed network under `torch.inference_mode`; for bf16 and fp16 its weights and
  inputs are cast, as one would deploy it;
- **training**: forward, backward and AdamW step on a mean-square loss, in train mode with the label
  dropout it has; for bf16 and fp16 under autocast with float32 weights. fp16 goes without loss scaling,
  which a timing does not need and which costs next to nothing.

Roofline: the arithmetic intensity is 2·MACs over the bytes that operators move, and an operator moves its
inputs (weights among them) and its outputs, each once; views move nothing. It is counted on one eager
step at the batch that is timed, so a compiled network moves less. Training counts three times the
multiply-accumulates of the deployed forward pass. The ridge is the peak (a matrix product) over the
bandwidth (a copy), both measured in the same run; below it a network is bound by memory.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import registry
from bench import cost
from bench.speed.device import (
    TORCH_DTYPES,
    Dtype,
    available_memory,
    check_dtype,
    clock_mhz,
    limits,
    precision,
    seconds,
)
from bench.utils.device import device_name, find_device, on_cuda
from registry.backbone import Size
from registry.errors import UsageError, reason

T = TypeVar("T")

LARGEST_BATCH = {"cpu": 256, "cuda": 8192}  # more gains nothing, and some kernels index with 32 bits
LEAST_ROUNDS = 6  # with fewer no interval of a median holds with 95 %
TURN_SECONDS = 0.05  # a turn repeats the call until it lasts this long, far beyond the clock's steps
LATENCY_CALLS = 3  # at batch 1, in each turn
DISTINCT_INPUTS = 4


@dataclass(frozen=True)
class Settings:
    """How networks are timed; the same for all of them.

    Attributes:
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: tf32 is float32 whose products are rounded to TF32, on CUDA.
        batch_size: images a call, or `auto`: the largest power of two that fits, for each network.
        compile: time the network as torch.compile makes it; eager where that fails.
        channels_last: convolutional weights and inputs in channels-last memory format.
        train: time training steps instead of inference.
        sampling: also time whole denoising loops, of `steps` steps.
    """

    device: str = "cpu"
    dtype: Dtype = "fp32"
    batch_size: int | Literal["auto"] = 8
    compile: bool = False
    channels_last: bool = False
    train: bool = False
    sampling: bool = False
    steps: int = 250


@dataclass(frozen=True)
class Device:
    """The machine as it was during the run.

    Attributes:
        name: of the processor.
        threads: PyTorch's on the CPU.
        clock_mhz: after the last round, while it is still warm; None where the system does not tell.
        peak_flops: FLOP/s of a square matrix product in the run's dtype, the fastest of many.
        bandwidth: bytes/s read and written by a copy, the fastest of many.
    """

    name: str
    threads: int
    clock_mhz: float | None
    peak_flops: float
    bandwidth: float


@dataclass(frozen=True)
class Throughput:
    """Speed of one backbone.

    Attributes:
        batch_size, batch_reason: images a call, and why so many.
        images_per_second, quartiles: median over the rounds, and the middle half of them.
        latency_ms: p50 and p95 of single images; None in training.
        peak_bytes: most memory in use during a step: weights, gradients, optimizer, activations; the inputs,
            which are prepared before, left out.
        macs: multiply-accumulates of one deployed forward pass at batch 1.
        flops_per_second: 2·MACs of the images in a second, three times that in training.
        peak_share: of the device's peak.
        intensity, ridge: FLOP/byte, of the network and where the device turns compute-bound.
        bound: what limits it under the roofline, `memory` or `compute`.
        ratio, interval: images per second over those of the first network, and its 95 % interval (see
            `paired_ratio`); None for the first.
        compiled: `no`, `yes`, or why it was timed eager.
        compile_seconds: the first compiled call at `batch_size`, in no other number; None if eager.
        sampling: images per second of whole loops, plain and guided; None unless asked for.
        seconds_per_image: of every round.
    """

    model: str
    overrides: dict[str, Any]
    input_size: Size
    batch_size: int
    batch_reason: str
    images_per_second: float
    quartiles: tuple[float, float]
    latency_ms: tuple[float, float] | None
    peak_bytes: int
    macs: int
    flops_per_second: float
    peak_share: float
    intensity: float
    ridge: float
    bound: Literal["memory", "compute"]
    ratio: float | None
    interval: tuple[float, float] | None
    compiled: str
    compile_seconds: float | None
    sampling: Sampling | None
    seconds_per_image: list[float]
    device: Device

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Sampling:
    """Images per second of whole denoising loops, from noise to latents.

    Guided loops make half as many images on a doubled batch, so that they fit where plain ones do.
    """

    steps: int
    images_per_second: float
    guided_images_per_second: float | None  # None for a network without a null class


def measure(
    models: Sequence[tuple[str, dict[str, Any]]],
    settings: Settings,
    *,
    repeats: int,
    progress: Callable[[str], None] | None = None,
) -> list[Throughput]:
    """Time backbones against each other; all of them are on the device at once.

    Args:
        models: name and overrides of each, as for `registry.create`. The first is what the others are
            compared with; the same one twice shows how far apart equals come out.
        settings: how.
        repeats: rounds, at least 6; each times every network.
        progress: called with a line on what is under way.

    Returns:
        One result for each model, in order.

    Raises:
        UsageError: unknown names or overrides, a device, dtype or batch that cannot be had, or a network
            that fails on its example inputs.
    """
    if not models:
        raise UsageError("name at least one model")
    device = _checked(settings, repeats)
    say = progress or (lambda _: None)
    with contextlib.ExitStack() as stack:
        if on_cuda(device):
            stack.enter_context(torch.cuda.device(device))
        stack.enter_context(precision(settings.dtype, device))
        stack.enter_context(torch.random.fork_rng([device] if on_cuda(device) else ()))
        torch.manual_seed(0)
        if settings.compile:
            # Networks of one class share their code, which is compiled for each of them and each shape.
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=8 * len(models)))
        say("peak and bandwidth of the device")
        peak, bandwidth = limits(device, TORCH_DTYPES[settings.dtype])
        runners = []
        for name, overrides in models:
            say(f"building {name}")
            runners.append(_Runner(name, overrides, settings, device))
        for runner in runners:
            say(f"{runner.name}: first calls")
            runner.prepare()
        found = interleave(
            [runner.turn for runner in runners], repeats, lambda i: say(f"round {i + 1} of {repeats}")
        )
        clock = clock_mhz(device)
        # Again, for something else may have been running the first time; the larger is nearer the truth.
        again = limits(device, TORCH_DTYPES[settings.dtype])
        peak, bandwidth = max(peak, again[0]), max(bandwidth, again[1])
        where = Device(device_name(device), torch.get_num_threads(), clock, peak, bandwidth)
        loops: list[Sampling | None] = [None] * len(runners)
        if settings.sampling:
            for i, runner in enumerate(runners):
                say(f"{runner.name}: sampling")
                with runner.room():
                    guidable = runner.network.null_class is not None
                    loops[i] = Sampling(
                        settings.steps,
                        _sampling_rate(runner, guided=False),
                        _sampling_rate(runner, guided=True) if guidable else None,
                    )
    first, *others = [[turn.seconds_per_image for turn in turns] for turns in found]
    ratios = [None, *(paired_ratio(first, other, len(models)) for other in others)]
    return [_result(*parts, where) for parts in zip(runners, found, ratios, loops, strict=True)]


# ---- statistics ----


def interleave(
    turns: Sequence[Callable[[], T]], rounds: int, progress: Callable[[int], None] = lambda _: None
) -> list[list[T]]:
    """What every turn returns in every round; each round begins one turn further than the last."""
    found: list[list[T]] = [[] for _ in turns]
    for round_ in range(rounds):
        progress(round_)
        for i in range(len(turns)):
            place = (round_ + i) % len(turns)
            found[place].append(turns[place]())
    return found


def paired_ratio(
    first: Sequence[float], other: Sequence[float], turn: int
) -> tuple[float, tuple[float, float]]:
    """How many times as fast `other` is as `first`, with an interval that holds with 95 %.

    Rounds are paired, and the geometric mean is taken over blocks of `turn` rounds, in which each network
    stood in each place. The ratio is the median over the blocks. Its interval spans the bootstrap's, and
    the sign test's, which assumes nothing of the distribution; and, because neighbouring rounds of a
    busy machine are alike, the sign test's over blocks twice as long, four times, and so on.

    Args:
        first, other: seconds of the same number of rounds, at least 6.
        turn: rounds until the order repeats; shorter blocks are taken where there would be too few.
    """
    logs = np.log(np.asarray(first, float) / np.asarray(other, float))
    length = max(1, min(turn, len(logs) // LEAST_ROUNDS))
    blocks = _means(logs, length)
    resampled = np.random.default_rng(0).choice(blocks, (4000, len(blocks)))
    bounds = [tuple(np.quantile(np.median(resampled, axis=1), (0.025, 0.975)))]
    while len(logs) // length >= LEAST_ROUNDS:
        bounds.append(_sign_interval(_means(logs, length)))
        length *= 2
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    return float(np.exp(np.median(blocks))), (float(np.exp(low)), float(np.exp(high)))


def _means(values: Any, length: int) -> Any:
    """Means of consecutive blocks; the rounds that fill no block are left out at the start."""
    return values[len(values) % length :].reshape(-1, length).mean(axis=1)


def _sign_interval(values: Any) -> tuple[float, float]:
    """The k-th smallest and k-th largest, with the largest k that holds the median with 95 %."""
    n, k, outside = len(values), 0, 0.0
    while outside + 2 * math.comb(n, k) / 2**n <= 0.05:
        outside += 2 * math.comb(n, k) / 2**n
        k += 1
    ordered = np.sort(values)
    return float(ordered[k - 1]), float(ordered[n - k])


# ---- one backbone, being timed ----


@dataclass(frozen=True)
class _Turn:
    """One round of one backbone, in seconds."""

    seconds_per_image: float
    latencies: list[float]


class _Runner:
    """One backbone on the device: `prepare` once, then `turn` in every round."""

    def __init__(
        self, name: str, overrides: dict[str, Any], settings: Settings, device: torch.device
    ) -> None:
        self.name, self.settings, self.device = name, settings, device
        created: Any = registry.create(name, **overrides)
        self.name, self.overrides, self.input_size = created.name, created.overrides, created.input_size
        if settings.sampling:
            _check_samples(created)
        counted = cost.measure(created)
        self.macs, self.activation_bytes = counted.macs, counted.activation_bytes
        _open(created)
        try:
            self.network: Any = created.train() if settings.train else created.deploy()
            self.network.to(device)
            if not settings.train:
                self.network.to(TORCH_DTYPES[settings.dtype])
            if settings.channels_last:
                self.network.to(memory_format=torch.channels_last)
        except torch.OutOfMemoryError:
            raise UsageError(f"the weights of {self.name} do not fit on {device}") from None
        self.optimizer: torch.optim.Optimizer | None = None
        if settings.train:
            try:
                self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)
            except ValueError as error:
                raise UsageError(f"{self.name} cannot be trained: {reason(error)}") from None
        self.total = torch.zeros((), device=device)  # what every output goes into, so that none is idle
        self.compile_seconds: float | None = None
        self.compiled = "no"

    def prepare(self) -> None:
        """Find the batch, count what a step moves and needs, compile, warm up.

        Raises:
            UsageError: the batch does not fit, or the network fails on its example inputs.
        """
        self.batch_size, self.batch_reason = self._batch()
        with self.room():
            self._inputs = {n: self._examples(n) for n in ({self.batch_size} | self._single())}
            self.moved, peak = self._observe()
            if self.settings.compile:
                self._compile()
            self.peak_bytes = self._cuda_peak() if on_cuda(self.device) else peak
            for n in self._inputs:
                self.step(n)
            one = seconds(lambda: self.step(self.batch_size), 1, self.device)
        self.calls = min(max(math.ceil(TURN_SECONDS / one), 1), 1000)

    def turn(self) -> _Turn:
        """One round; an untimed call before each timing brings the network back into the caches."""
        n, latencies = self.batch_size, []
        with self.room():
            self.step(n)
            whole = seconds(lambda: self.step(n), self.calls, self.device)
            if self._single():
                self.step(1)
                latencies = [seconds(lambda: self.step(1), 1, self.device) for _ in range(LATENCY_CALLS)]
        return _Turn(whole / self.calls / n, latencies)

    def step(self, n: int) -> None:
        """One call with the next of the prepared batches of n images."""
        inputs, target = next(self._inputs[n])
        if self.optimizer is None:
            with torch.inference_mode():
                self.total = self.total + self.network(*inputs).sum(dtype=torch.float32)
            return
        self.optimizer.zero_grad()
        with self._autocast():
            out = self.network(*inputs)
        assert target is not None
        loss = F.mse_loss(out.float(), target)
        loss.backward()
        self.optimizer.step()
        self.total = self.total + loss.detach()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = TORCH_DTYPES[self.settings.dtype]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def _single(self) -> set[int]:
        """The batch whose latency is told; a training step of one image tells nothing."""
        return set() if self.settings.train else {1}

    def _examples(self, n: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
        """Distinct batches of n images, with targets in training, over and over."""
        batches = []
        for _ in range(DISTINCT_INPUTS):
            inputs = self._layout(self.network.example_inputs(n))
            target = None
            if self.optimizer is not None:
                with torch.no_grad(), self._autocast():
                    target = torch.randn_like(self.network(*inputs), dtype=torch.float32)
            batches.append((inputs, target))
        return cycle(batches)

    def _layout(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if not self.settings.channels_last:
            return tuple(inputs)
        return tuple(a.to(memory_format=torch.channels_last) if a.dim() == 4 else a for a in inputs)

    # The batch

    def _batch(self) -> tuple[int, str]:
        fits = self._tried if on_cuda(self.device) else self._predicted
        asked = self.settings.batch_size
        if asked != "auto":
            if not fits(asked):
                raise self._no_room(asked)
            return asked, "as asked"
        batch, reason = largest_batch(fits, LARGEST_BATCH[self.device.type])
        if not batch:
            raise self._no_room(1)
        return batch, reason

    def _predicted(self, n: int) -> bool:
        """Whether a batch will fit in the machine's memory, where trying would end the process."""
        weights = self._own_bytes()
        activations = self.activation_bytes * n
        if self.optimizer is None:
            needed = weights + activations * TORCH_DTYPES[self.settings.dtype].itemsize / 4
        else:  # gradients and AdamW's two moments; what is kept for the backward pass
            needed = 4 * weights + 4 * activations
        return needed <= available_memory()

    def _tried(self, n: int) -> bool:
        """Whether a batch fits on the GPU, where one can try."""
        try:
            self._inputs = {n: self._examples(n)}
            self._guarded(lambda: self.step(n))
            torch.cuda.synchronize(self.device)
            fits = True
        except torch.OutOfMemoryError:
            fits = False
        # Outside the handler, whose traceback would keep the tensors of the failed step.
        self._inputs = {}
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        return fits

    def _no_room(self, n: int) -> UsageError:
        hint = "; try a smaller --batch-size, or auto" if n > 1 else ""
        return UsageError(f"{self.name}: a batch of {n} does not fit in the memory of {self.device}{hint}")

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Tell of memory that runs out in one line."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise self._no_room(self.batch_size) from None

    # The first calls

    def _guarded(self, call: Callable[[], T]) -> T:
        """Tell of a network that fails as the user's error, in one line."""
        try:
            return call()
        except (UsageError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            how = f"{'training' if self.settings.train else 'inference'} in {self.settings.dtype}"
            raise UsageError(f"{self.name} fails on its example inputs, {how}: {reason(error)}") from error

    def _own_bytes(self) -> int:
        """Weights, buffers and the optimizer's state."""
        states = self.optimizer.state.values() if self.optimizer else ()
        tensors = [*self.network.parameters(), *self.network.buffers()]
        tensors += [value for state in states for value in state.values() if isinstance(value, Tensor)]
        storages = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}
        return sum(storages.values())

    def _observe(self) -> tuple[int, int]:
        """Bytes moved and peak bytes of one eager step, the second of its kind."""
        step = lambda: self.step(self.batch_size)  # noqa: E731
        self._guarded(step)
        if self.optimizer:
            self.optimizer.zero_grad()
        with _Follower(self._own_bytes()) as follower:
            # Under inference mode the dispatcher shows composite operators whole, their inner ones not.
            if self.optimizer is None:
                inputs, _ = next(self._inputs[self.batch_size])
                with torch.no_grad():
                    self._guarded(lambda: self.network(*inputs))
            else:
                self._guarded(step)
        return follower.moved, follower.peak

    def _compile(self) -> None:
        """Compile, and time the first call; back to eager where that fails."""
        try:
            # In place, so that guidance, which calls the network, runs compiled too.
            self.network.compile(dynamic=False)
            self.compile_seconds = seconds(lambda: self.step(self.batch_size), 1, self.device)
            for n in self._inputs:  # every shape is compiled on its own
                self.step(n)
            self.compiled = "yes"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self.compiled = f"compile failed: {reason(error)}; timed eager"
            self.compile_seconds = None
            self.network._compiled_call_impl = None

    def _cuda_peak(self) -> int:
        """The allocator's peak during one step, without what other networks hold."""
        if self.optimizer:
            self.optimizer.zero_grad()
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.step(self.batch_size)
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before + self._own_bytes()


@torch.no_grad()
def _open(network: nn.Module) -> None:
    """Give closed branches (adaLN-Zero) some weight: products with zeros draw less power, and run faster."""
    for parameter in network.parameters():
        if parameter.is_floating_point() and not parameter.any():
            parameter.normal_(std=0.02)


class _Follower(TorchDispatchMode):
    """Bytes that operators read and write, and the peak of live bytes, weights (`own`) included."""

    def __init__(self, own: int) -> None:
        super().__init__()
        self.moved, self.live, self.peak = 0, own, own
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = _tensors((args, kwargs or {}))
        storages = {tensor.untyped_storage()._cdata for tensor in read}
        written = _tensors(out)
        made = [tensor for tensor in written if tensor.untyped_storage()._cdata not in storages]
        if made or not written or func._schema.is_mutable:  # else a view
            self.moved += sum(map(_bytes, read)) + sum(map(_bytes, written))
        for tensor in made:
            self._own(tensor.untyped_storage())
        return out

    def _own(self, storage: Any) -> None:
        if storage not in self._known:
            self._known.add(storage)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, storage.nbytes())

    def _freed(self, size: int) -> None:
        self.live -= size


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in nested arguments or results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, (tuple, list)) else []


def _bytes(tensor: Tensor) -> int:
    """What an operator touches of a tensor: of an expanded one, only what is stored."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def largest_batch(fits: Callable[[int], bool], cap: int) -> tuple[int, str]:
    """The largest power of two up to `cap` that fits, 0 if none does, and why the search stopped there."""
    batch = 0
    while (larger := max(2 * batch, 1)) <= cap and fits(larger):
        batch = larger
    return batch, f"{larger} does not fit in memory" if larger <= cap else f"the search ends at {cap}"


def _result(
    runner: _Runner,
    turns: list[_Turn],
    ratio: tuple[float, tuple[float, float]] | None,
    loop: Sampling | None,
    where: Device,
) -> Throughput:
    """What the rounds of one backbone say."""
    spent = [turn.seconds_per_image for turn in turns]
    low, middle, high = np.quantile(1 / np.asarray(spent), (0.25, 0.5, 0.75)).tolist()
    latencies = [1e3 * value for turn in turns for value in turn.latencies]
    p50, p95 = np.quantile(latencies, (0.5, 0.95)).tolist() if latencies else (0.0, 0.0)
    flops = 2 * runner.macs * (3 if runner.settings.train else 1)
    intensity = flops * runner.batch_size / runner.moved
    ridge = where.peak_flops / where.bandwidth
    return Throughput(
        model=runner.name,
        overrides={k: v for k, v in runner.overrides.items() if k != "input_size"},
        input_size=runner.input_size,
        batch_size=runner.batch_size,
        batch_reason=runner.batch_reason,
        images_per_second=middle,
        quartiles=(low, high),
        latency_ms=(p50, p95) if latencies else None,
        peak_bytes=runner.peak_bytes,
        macs=runner.macs,
        flops_per_second=flops * middle,
        peak_share=flops * middle / where.peak_flops,
        intensity=intensity,
        ridge=ridge,
        bound="compute" if intensity >= ridge else "memory",
        ratio=ratio[0] if ratio else None,
        interval=ratio[1] if ratio else None,
        compiled=runner.compiled,
        compile_seconds=runner.compile_seconds,
        sampling=loop,
        seconds_per_image=spent,
        device=where,
    )


# ---- sampling ----


def _check_samples(network: Any) -> None:
    """Refuse networks that no loop here can sample from."""
    inputs = network.example_inputs(1)
    if len(inputs) != 3 or not inputs[0].is_floating_point() or inputs[0].dim() != 4:
        raise UsageError(f"{network.name} cannot be sampled from: its inputs are not x (N, C, H, W), t, y")


def _sampling_rate(runner: _Runner, guided: bool) -> float:
    """Images per second of whole loops: the median of three, or one where a loop takes 10 s or more."""
    from bench.diffusion import objective, sampler
    from bench.diffusion.guidance import guided as with_guidance

    network, device = runner.network, runner.device
    dtype = next(network.parameters()).dtype
    ddpm, ancestral = objective("ddpm"), sampler("ancestral")
    steps = str(runner.settings.steps)
    images = max(runner.batch_size // 2, 1) if guided else runner.batch_size
    x, _, y = network.example_inputs(images)
    noise = torch.randn((images, *x.shape[1:]), device=device)

    called = with_guidance(network, y, 1.5 if guided else 1.0)

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        (x,) = runner._layout([x.to(dtype)])
        return called(x, t).float()

    @torch.inference_mode()
    def loop() -> None:
        runner.total = (
            runner.total
            + ancestral.sample(ddpm, denoiser, noise, lambda _: torch.randn_like(noise), steps).sum()
        )

    with torch.inference_mode():
        denoiser(noise, torch.zeros(images, device=device))  # a doubled batch may need a warm-up
    spent = [seconds(loop, 1, device)]
    while spent[0] < 10 and len(spent) < 3:
        spent.append(seconds(loop, 1, device))
    return images / statistics.median(spent)


# ---- the device ----


def _checked(settings: Settings, repeats: int) -> torch.device:
    """The device, if settings make sense and it can do what they ask for."""
    if repeats < LEAST_ROUNDS:
        raise UsageError(f"repeats must be at least {LEAST_ROUNDS}, not {repeats}: fewer give no interval")
    if settings.batch_size != "auto" and settings.batch_size < 1:
        raise UsageError(f"batch size must be at least 1, or auto, not {settings.batch_size}")
    if settings.sampling and settings.train:
        raise UsageError("sampling times a network for inference: leave train out")
    if settings.sampling and not 1 <= settings.steps <= 1000:
        raise UsageError(f"a loop has 1 to 1000 steps, not {settings.steps}")
    device = find_device(settings.device)
    check_dtype(settings.dtype, device)
    return device
