"""How fast a network runs, and where its time goes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench.records.schema.base import Dtype, Finite, Model, NetworkRequest, Result, Size
from bench.utils.frames import Row


class SpeedSettings(Model):
    """How networks are timed, the same for all that are compared.

    Attributes:
        dtype: arithmetic. `tf32` is float32 with products rounded to TF32, on CUDA.
        batch_size: images per call, or `auto`: the largest of 1, 2, 3, 4, 6, 8, 12, … that fits in memory.
        mode: forward passes of the deployed network, or training steps.
        compile: whether the network is compiled by torch.compile.
        channels_last: whether convolution weights and inputs have the channels-last memory format.
        num_inference_steps: steps of denoising loops that are timed too; None: no loops.
    """

    dtype: Dtype = "fp32"
    batch_size: int | Literal["auto"] = 8
    mode: Literal["inference", "training"] = "inference"
    compile: bool = False
    channels_last: bool = False
    num_inference_steps: int | None = None


class DeviceRequest(NetworkRequest):
    """Everything that determines a number of one device.

    Attributes:
        device_name: name of the processor or GPU.
    """

    device_name: str


class SpeedRequest(SpeedSettings, DeviceRequest):
    """How fast a network runs on a device; attributes as of both bases."""

    kind: Literal["speed"] = "speed"


class Device(Model):
    """The machine during a measurement of speed.

    Attributes:
        name: name of the processor.
        threads: PyTorch's threads on the CPU.
        clock_mhz: clock after the last round; None where the system does not report it (on a GPU: without the
            extra `gpu`).
        peak_flops: FLOP/s of a square matrix product in the run's dtype, the best of many.
        bandwidth: bytes/s read and written by a copy, the best of many.
        sustained_flops: FLOP/s of the same product over some seconds; None in older records.
        sustained_bandwidth: bytes/s of the same copy over some seconds; None in older records.
        nominal_flops: the maker's figure of FLOP/s for dense products in the run's dtype; None where
            `bench.speed.nominal` has none.
        other_load: mean number of cores that other processes used during the rounds; None: unknown.
    """

    name: str
    threads: int
    clock_mhz: Finite | None
    peak_flops: Finite
    bandwidth: Finite
    sustained_flops: Finite | None = None
    sustained_bandwidth: Finite | None = None
    nominal_flops: Finite | None = None
    other_load: Finite | None = None


class SamplingSpeed(Model):
    """Images per second of whole denoising loops, from noise to latents.

    Guided loops make half as many images on a doubled batch, so that they fit where plain ones do.

    Attributes:
        steps: number of steps of a loop.
        images_per_second: without guidance.
        guided_images_per_second: with guidance; None for a network without a null class.
    """

    steps: int
    images_per_second: Finite
    guided_images_per_second: Finite | None  # None for a network without a null class


class TrainingTime(Model):
    """Seconds of the three parts of a training step, medians over the rounds.

    Attributes:
        forward: the network and the loss.
        backward: gradients.
        optimizer: gradient norm, AdamW, and the average of the weights.
    """

    forward: Finite
    backward: Finite
    optimizer: Finite


class Speed(Result):
    """Speed of one backbone.

    Attributes:
        request: what was measured.
        batch_size: images per call.
        batch_reason: why this batch size.
        images_per_second: median over the rounds.
        quartiles: first and third quartile over the rounds.
        latency_ms: median and 95th percentile of the time of a single image; None in training.
        peak_bytes: largest memory during a step: weights, gradients, optimizer and activations, without the
            inputs.
        macs: multiply-accumulates of one deployed forward pass at batch 1.
        flops_per_second: 2·MACs times images per second, 3 times that in training.
        peak_share: `flops_per_second` over the device's `peak_flops`.
        intensity: FLOP/byte of the network.
        ridge: FLOP/byte above which the device is limited by arithmetic.
        bound: what limits the network: `launch`, launching operators on a GPU; otherwise `memory` or
            `compute`, by the roofline.
        launch_share: time in which the CPU launches the operators of a call, over the time of a call. Near 1
            the GPU waits for the CPU. None on a CPU, and in older records.
        ratio: images per second over those of the first network of the run (`against` in the context); None
            for the first.
        interval: 95% interval of `ratio`.
        compiled: `no`, `yes`, or why the network was not compiled.
        compile_seconds: time of the first compiled call at `batch_size`, which is in no other figure; None if
            not compiled.
        sampling: speed of denoising loops; None unless requested.
        training: time of the parts of a training step; None for inference.
        seconds_per_image: of every round.
        device: the machine.
    """

    request: SpeedRequest
    batch_size: int
    batch_reason: str
    images_per_second: Finite
    quartiles: tuple[Finite, Finite]
    latency_ms: tuple[Finite, Finite] | None
    peak_bytes: int
    macs: int
    flops_per_second: Finite
    peak_share: Finite
    intensity: Finite
    ridge: Finite
    bound: Literal["launch", "memory", "compute"]
    launch_share: Finite | None = None
    ratio: Finite | None
    interval: tuple[Finite, Finite] | None
    compiled: str
    compile_seconds: Finite | None
    sampling: SamplingSpeed | None
    training: TrainingTime | None = None
    seconds_per_image: tuple[Finite, ...] = Field(repr=False)
    device: Device

    def columns(self) -> Row:
        """See `Result.columns`."""
        low, high = self.interval or (None, None)
        return {
            "Mode": self.request.mode,
            "Number format": self.request.dtype,
            "Batch": self.batch_size,
            "Images/s": self.images_per_second,
            "Times as fast": self.ratio,
            "95% low": low,
            "95% high": high,
            "Peak (MiB)": self.peak_bytes / 2**20,
            "GFLOP/s": self.flops_per_second / 1e9,
            "Of peak FLOP/s (%)": 100 * self.peak_share,
            "Limited by": self.bound,
        }

    @property
    def nominal_share(self) -> float | None:
        """Of the peak that the device's maker prints; None where it is not known."""
        nominal = self.device.nominal_flops
        return None if nominal is None else self.flops_per_second / nominal


# ---- profile ----


class ProfileRequest(DeviceRequest):
    """Where the time of a forward pass goes on a device.

    Attributes:
        dtype: arithmetic; see `SpeedRequest`.
        batch_size: images per forward pass.
    """

    kind: Literal["profile"] = "profile"
    dtype: Dtype = "fp32"
    batch_size: int = 8


class Share(Model):
    """Time and multiply-accumulates of a stage or of a class of operators.

    Attributes:
        name: name of the stage or class of operators.
        seconds: time within one forward pass of the batch, median.
        time_share: share of the sum over all parts.
        macs: multiply-accumulates of one sample; see `bench.cost`.
        macs_share: share of all multiply-accumulates.
        ratio: time_share / macs_share; None without multiply-accumulates.
    """

    name: str
    seconds: Finite
    time_share: Finite
    macs: int
    macs_share: Finite
    ratio: Finite | None

    @property
    def excess(self) -> float:
        """By how much the share of time is above the share of multiply-accumulates."""
        return self.time_share - self.macs_share


IDLE = "idle"  # in the place of a class of operators: a GPU that waits for the next operator to be launched


class Profile(Result):
    """Time beside multiply-accumulates of one network on one device.

    Attributes:
        request: what was measured.
        input_size: side of the input grid, or (H, W).
        threads: PyTorch's threads on the CPU; None on a GPU.
        seconds: time of one forward pass of the batch, without profiler; median.
        overhead: how much longer the stages took in sum, as a fraction of `seconds`.
        stages: shares of the stages, in order of execution; "(between)" is what runs in none.
        operators: shares by class of operator, the slowest first. On a GPU `idle` is the rest of the time.
        other_load: mean number of cores that other processes used; None: unknown.
    """

    request: ProfileRequest
    input_size: Size
    threads: int | None
    seconds: Finite
    overhead: Finite
    stages: tuple[Share, ...] = Field(repr=False)
    operators: tuple[Share, ...] = Field(repr=False)
    other_load: Finite | None = None

    def columns(self) -> Row:
        """See `Result.columns`."""
        return {"Batch": self.request.batch_size, "Forward pass (ms)": 1e3 * self.seconds}

    def rows(self) -> list[Row]:
        """A row for each stage, then one for each class of operators."""
        parts = [("stage", share) for share in self.stages]
        parts += [("operator", share) for share in self.operators]
        return [
            {
                "Part": kind,
                "Name": share.name,
                "Time (ms)": 1e3 * share.seconds,
                "Time (%)": 100 * share.time_share,
                "GMACs": share.macs / 1e9,
                "MACs (%)": 100 * share.macs_share,
                "Time/MACs": share.ratio,
            }
            for kind, share in parts
        ]

    @property
    def operator_seconds(self) -> float:
        """What all operators take together under the profiler."""
        return sum(share.seconds for share in self.operators if share.name != IDLE)

    @property
    def idle(self) -> float:
        """Share of the time in which a GPU waits for operators to be launched; 0 on a CPU."""
        return sum(share.time_share for share in self.operators if share.name == IDLE)
