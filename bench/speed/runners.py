"""Runs a backbone on a device to time it: `InferenceRunner` forward passes, `TrainingRunner` training steps.

A training step is forward pass, mean-square loss, backward pass and `bench.training.step.Update` (gradient
norm, fused AdamW, average of the weights), as in `bench train` under the papers' protocol, in train mode with
the network's label dropout. The objective's arithmetic is left out, because it does not depend on the
network. Denoising loops are those of `bench sample`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import cost
from bench.cost.trace import decomposed_attention
from bench.diffusion import objective
from bench.records.schema import SamplingSettings, SamplingSpeed, SpeedRequest, TrainingTime
from bench.sampling import Plan
from bench.speed.device import (
    TORCH_DTYPES,
    between,
    cast,
    channels_last,
    enqueue_seconds,
    mark,
    no_room,
    out_of_memory,
    seconds,
)
from bench.speed.traffic import Traffic
from bench.training.step import Update
from bench.utils.compilation import compile_network
from bench.utils.device import on_cuda
from registry.backbone import is_denoiser
from registry.errors import UsageError, reason
from registry.training_output import prediction_of

# A turn repeats the call for at least this long: on a CPU far beyond the resolution of its clock, on a GPU
# beyond the duration of its boost.
TURN_SECONDS = {"cpu": 0.05, "cuda": 0.5}
LATENCY_CALLS = 3  # calls at batch 1 in each turn
DISTINCT_INPUTS = 4
WARM_UP_STEPS = 3  # steps of a denoising loop that show a network all kinds of its inputs
LEARNING_RATE = 1e-4  # of the papers' protocol, like the other arguments of `Update`


class Runner(ABC):
    """One backbone on the device: `prepare` once, then `turn` in every round.

    Args:
        network: fulfils the contract of `registry.Backbone`; it is changed.
        request: what to measure.
        device: the device.

    Attributes:
        macs: multiply-accumulates of one deployed forward pass at batch 1.
        batch_size, batch_reason: images per call, and the reason.
        few: images of the call that measures the launch time on a GPU; see `turn`.
        calls: number of calls in one turn.
        moved: bytes that one eager call moves.
        peak_bytes: largest memory in use during a call, in bytes.
        compiled: `no`, `yes`, or why it is not compiled.
        compile_seconds: of the first compiled call; None if eager.
        enqueue_seconds: launch time of a call, for each round; empty on a CPU.

    Raises:
        UsageError: the weights do not fit.
    """

    flops_per_mac: int  # FLOPs of a call per multiply-accumulate of a forward pass
    graphs: bool  # whether calls are replayed as CUDA graphs where they are compiled
    latency_ms: tuple[float, float] | None = None
    training_time: TrainingTime | None = None

    def __init__(self, network: Any, request: SpeedRequest, device: torch.device) -> None:
        self.name, self.request, self.device = request.model, request, device
        counted = cost.measure(network)
        self.macs, self.activation_bytes = counted.macs, counted.activation_bytes
        _open_branches(network)
        with out_of_memory(f"the weights of {self.name} do not fit on {device}"):
            self.network = self._placed(network)
            if request.channels_last:
                channels_last(self.network)
        self.total = torch.zeros((), device=device)  # every output is added to it, so none is optimised away
        self.compiled = "no"
        self.compile_seconds: float | None = None
        self.enqueue_seconds: list[float] = []
        self.inputs: dict[int, Iterator[tuple[Tensor, ...]]] = {}

    @abstractmethod
    def _placed(self, network: Any) -> Any:
        """The network in the form that is timed, on the device."""

    @abstractmethod
    def call(self, n: int) -> None:
        """The timed call, with the next of the prepared batches of n images."""

    @abstractmethod
    def own_tensors(self) -> list[Tensor]:
        """Weights, buffers, and what else stays in memory between calls."""

    @abstractmethod
    def bytes_needed(self, n: int) -> float:
        """Bytes that a call of n images will take at most."""

    @abstractmethod
    def _batch(self, n: int) -> tuple[Tensor, ...]:
        """Random arguments of a call with n images."""

    @property
    def few(self) -> int:
        """One image: as many operators with so little work that a GPU never falls behind.

        If a GPU falls behind, its queue fills up, and launching takes as long as the work.
        """
        return 1

    def widest(self, n: int) -> int:
        """Number of elements of the largest tensor that a forward pass of n images makes."""
        with torch.no_grad(), Traffic(0) as traffic:
            self.network(*self.network.example_inputs(n))
        return traffic.largest

    def make_inputs(self, n: int) -> None:
        """Prepare distinct batches of n images, which are used over and over."""
        self.inputs[n] = cycle([self._batch(n) for _ in range(DISTINCT_INPUTS)])

    def prepare(self, batch_size: int, batch_reason: str) -> None:
        """Count what a call moves and needs, compile, warm up.

        Raises:
            UsageError: the batch does not fit.
            Exception: any error of the network.
        """
        self.batch_size, self.batch_reason = batch_size, batch_reason
        with self._room():
            for n in (batch_size, self.few):
                self.make_inputs(n)
            self.call(batch_size)  # an optimizer's state is made by the first
            inputs = self._batch(batch_size)
            with Traffic(self.own_bytes()) as traffic:
                self._eager(inputs)
            del inputs
            self.moved, self.peak_bytes = traffic.moved, traffic.peak
            if self.request.compile:
                self._compile()
            if on_cuda(self.device) and self.compiled != "yes":
                self.peak_bytes = self._cuda_peak()
            for n in self.inputs:
                self.call(n)
            one = seconds(lambda: self.call(batch_size), 1, self.device)
        self.calls = min(max(math.ceil(TURN_SECONDS[self.device.type] / one), 1), 1000)

    def turn(self) -> float:
        """Seconds per image in one round. An untimed call first brings the network into the caches.

        Raises:
            UsageError: the batch no longer fits.
        """
        with self._room():
            self.call(self.batch_size)
            spent = seconds(lambda: self.call(self.batch_size), self.calls, self.device)
            if on_cuda(self.device):
                self.call(self.few)
                self.enqueue_seconds.append(enqueue_seconds(lambda: self.call(self.few), self.device))
            self._turn_more()
        return spent / self.calls / self.batch_size

    def queue(self) -> None:
        """Have a GPU work for as long as a turn, and do not wait for it."""
        for _ in range(self.calls):
            self.call(self.batch_size)

    @abstractmethod
    def _turn_more(self) -> None:
        """What a round times besides."""

    @abstractmethod
    def finish(self) -> None:
        """Sum up what the rounds timed besides, in `latency_ms` or `training_time`."""

    def own_bytes(self) -> int:
        """Bytes of `own_tensors`."""
        storages = (tensor.untyped_storage() for tensor in self.own_tensors())
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def release(self) -> None:
        """Free the inputs, and what a failed call may have left."""
        self.inputs = {}
        gc.collect()
        torch.cuda.empty_cache()

    def layout(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Inputs in the memory format that was requested."""
        if not self.request.channels_last:
            return tuple(inputs)
        return tuple(a.to(memory_format=torch.channels_last) if a.dim() == 4 else a for a in inputs)

    def _room(self) -> contextlib.AbstractContextManager[None]:
        return out_of_memory(no_room(self.name, self.batch_size, self.device))

    @abstractmethod
    def _eager(self, inputs: tuple[Tensor, ...]) -> None:
        """A call whose operators the dispatcher shows."""

    def _compile(self) -> None:
        """Compile, and time the first call; back to eager where that fails."""
        try:
            # In place, so that guidance, which calls the network, runs compiled too.
            compile_network(self.network, dynamic=False, graphs=self.graphs and on_cuda(self.device))
            self.compile_seconds = seconds(lambda: self.call(self.batch_size), 1, self.device)
            if on_cuda(self.device):
                # The second call records a CUDA graph; those after it replay it, and allocate nothing.
                self.peak_bytes = self._cuda_peak()
            self.call(self.few)  # every shape is compiled on its own
            self.compiled = "yes"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # an error of the compiler, as the same call worked without it
            self.compiled = f"compile failed: {reason(error)}; timed eager"
            self.compile_seconds = None
            self.network._compiled_call_impl = None

    def _cuda_peak(self) -> int:
        """The allocator's peak during one call, without what other networks hold."""
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.call(self.batch_size)
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before + self.own_bytes()


class InferenceRunner(Runner):
    """Calls the deployed network under `torch.inference_mode`; for bf16 and fp16 it is cast, inputs too.

    Attributes:
        latency_ms: p50 and p95 of single images, after `finish`.

    Raises:
        UsageError: whole denoising loops are requested of a network that cannot be sampled from.
    """

    flops_per_mac, graphs = 2, True  # `bench sample` replays graphs

    def __init__(self, network: Any, request: SpeedRequest, device: torch.device) -> None:
        if request.num_inference_steps is not None:
            _check_samples(network)
        super().__init__(network, request, device)
        self._latencies: list[float] = []

    def _placed(self, network: Any) -> Any:
        self._trained = network
        return cast(network.deploy(), self.device, self.request.dtype)

    def make_inputs(self, n: int) -> None:
        """See `Runner.make_inputs`; what is compiled for them serves denoising loops too."""
        with torch.inference_mode():
            super().make_inputs(n)

    def call(self, n: int) -> None:
        """One forward pass."""
        with torch.inference_mode(), decomposed_attention():
            self.total = self.total + self.network(*next(self.inputs[n])).sum(dtype=torch.float32)

    def _batch(self, n: int) -> tuple[Tensor, ...]:
        return self.layout(self.network.example_inputs(n))

    def own_tensors(self) -> list[Tensor]:
        """Weights and buffers."""
        return [*self.network.parameters(), *self.network.buffers()]

    def bytes_needed(self, n: int) -> float:
        """Weights and activations in the dtype that is timed."""
        share = TORCH_DTYPES[self.request.dtype].itemsize / torch.float32.itemsize
        return self.own_bytes() + n * self.activation_bytes * share

    def _eager(self, inputs: tuple[Tensor, ...]) -> None:
        # Under inference mode the dispatcher shows composite operators whole, their inner ones not.
        with torch.no_grad(), decomposed_attention():
            self.network(*inputs)

    def _turn_more(self) -> None:
        self.call(1)
        self._latencies += [seconds(lambda: self.call(1), 1, self.device) for _ in range(LATENCY_CALLS)]

    def finish(self) -> None:
        """Sum up the latencies."""
        p50, p95 = (1e3 * np.quantile(self._latencies, (0.5, 0.95))).tolist()
        self.latency_ms = p50, p95

    def sampling(self, steps: int) -> SamplingSpeed:
        """Images per second of whole denoising loops of so many steps, guided where the network can be.

        They are those of `bench sample`, random numbers included: in bf16 and fp16 under autocast.
        """
        with self._room():
            plan = self._plan(steps, self.batch_size, 1.0)
            network = self.network
            if plan.precision != "fp32":
                network = plan.deployed(self._trained, self.device)
                if self.request.channels_last:
                    channels_last(network)
                if self.compiled == "yes":
                    compile_network(network, dynamic=False, graphs=on_cuda(self.device))
            plain, guided = self._loops(network, plan), None
            if network.null_class is not None:
                guided = self._loops(network, self._plan(steps, max(self.batch_size // 2, 1), 1.5))
        return SamplingSpeed(steps=steps, images_per_second=plain, guided_images_per_second=guided)

    def _plan(self, steps: int, images: int, cfg_scale: float) -> Plan:
        dtype = self.request.dtype
        settings = SamplingSettings(
            sampler="ancestral", steps=str(steps), cfg_scale=cfg_scale, num=images, tf32=dtype == "tf32"
        )
        return Plan(objective("ddpm"), settings, precision="fp32" if dtype == "tf32" else dtype)

    def _loops(self, network: Any, plan: Plan) -> float:
        """Images per second: the median of three loops, or one where a loop takes 10 s or more."""
        images, few = plan.settings.num, min(int(plan.settings.steps), WARM_UP_STEPS)
        short = plan.settings.model_copy(update={"steps": str(few)})

        def loop(plan: Plan) -> None:
            made = plan.grids(network, torch.arange(images, device=self.device))
            self.total = self.total + made.sum()

        for _ in range(2):
            loop(dataclasses.replace(plan, settings=short))
        spent = [seconds(lambda: loop(plan), 1, self.device)]
        while spent[0] < 10 and len(spent) < 3:
            spent.append(seconds(lambda: loop(plan), 1, self.device))
        return images / statistics.median(spent)


class TrainingRunner(Runner):
    """Takes training steps; for bf16 and fp16 under autocast with float32 weights, as `bench train` does.

    Attributes:
        training_time: the parts of a step, after `finish`.

    Raises:
        UsageError: the network has no weights to train.
    """

    flops_per_mac, graphs = 6, False  # the backward pass takes two products for each of the forward pass

    def __init__(self, network: Any, request: SpeedRequest, device: torch.device) -> None:
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise UsageError(f"{request.model} cannot be trained: it has no trainable parameters")
        super().__init__(network, request, device)
        self.scaler = torch.amp.GradScaler(device.type) if request.dtype == "fp16" else None
        self.update = Update(
            self.network,
            learning_rate=LEARNING_RATE,
            weight_decay=0.0,
            ema_decay=0.9999,
            clip=None,
            scaler=self.scaler,
        )
        self._parts: list[list[float]] = []

    def _placed(self, network: Any) -> Any:
        return network.train().to(self.device)

    @property
    def few(self) -> int:
        """See `Runner.few`; the batch itself if another size would not help or would have to be compiled."""
        return self.batch_size if self.request.compile or not on_cuda(self.device) else 1

    def call(self, n: int) -> None:
        """One training step."""
        self._eager(next(self.inputs[n]))

    def _eager(self, inputs: tuple[Tensor, ...], at_part: Callable[[], object] = lambda: None) -> None:
        """One training step; `at_part` is called before, between and after its three parts."""
        *arguments, target = inputs
        at_part()
        with self._autocast():
            out = prediction_of(self.network(*arguments))
        loss = F.mse_loss(out.float(), target)
        at_part()
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        at_part()
        self.update.step(LEARNING_RATE)
        self.total = self.total + loss.detach()
        at_part()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = TORCH_DTYPES[self.request.dtype]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def _batch(self, n: int) -> tuple[Tensor, ...]:
        inputs = self.layout(self.network.example_inputs(n))
        with torch.no_grad(), self._autocast():
            target = torch.randn_like(prediction_of(self.network(*inputs)), dtype=torch.float32)
        return *inputs, target

    def own_tensors(self) -> list[Tensor]:
        """Weights, buffers, AdamW's moments, and the average of the weights."""
        states = [value for state in self.update.optimizer.state.values() for value in state.values()]
        tensors = [value for value in states if isinstance(value, Tensor)]
        return [*self.network.parameters(), *self.network.buffers(), *self.update.averages.values(), *tensors]

    def bytes_needed(self, n: int) -> float:
        """Weights, their average, gradients and AdamW's two moments, and what waits for the backward pass."""
        weights = sum(tensor.nbytes for tensor in (*self.network.parameters(), *self.network.buffers()))
        return 5 * weights + 4 * n * self.activation_bytes

    def release(self) -> None:
        """Free the inputs and the gradients."""
        self.update.optimizer.zero_grad()
        super().release()

    def _turn_more(self) -> None:
        marks: list[Any] = []
        self._eager(next(self.inputs[self.batch_size]), lambda: marks.append(mark(self.device)))
        self._parts.append(between(marks))

    def finish(self) -> None:
        """Sum up the parts of the steps."""
        forward, backward, optimizer = np.median(self._parts, axis=0).tolist()
        self.training_time = TrainingTime(forward=forward, backward=backward, optimizer=optimizer)


@torch.no_grad()
def _open_branches(network: nn.Module) -> None:
    """Give zero gates (adaLN-Zero) some weight: products with zeros draw less power and run faster."""
    for parameter in network.parameters():
        if parameter.is_floating_point() and not parameter.any():
            parameter.normal_(std=0.02)


def _check_samples(network: Any) -> None:
    """Raise `UsageError` for networks that no sampling loop supports."""
    if not is_denoiser(network, network.example_inputs(1)):
        name = network.name or type(network).__name__
        raise UsageError(f"{name} cannot be sampled from: its inputs are not x (N, C, H, W), t, y")
