"""How fast a network runs, and where its time goes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench.records.schema.base import Dtype, Finite, Model, Request, Result, Size
from bench.utils.frames import Row


class SpeedSettings(Model):
    """How networks are timed, the same for all that are compared.

    Attributes:
        dtype: tf32 is float32 whose products are rounded to TF32, on CUDA.
        batch_size: images a call, or `auto`: the largest of 1, 2, 3, 4, 6, 8, 12, … that fits.
        mode: forward passes of the deployed network, or training steps.
        compile: whether torch.compile's version is timed.
        channels_last: convolutional weights and inputs in channels-last memory format.
        num_inference_steps: of whole denoising loops that are timed too; None: none are.
    """

    dtype: Dtype = "fp32"
    batch_size: int | Literal["auto"] = 8
    mode: Literal["inference", "training"] = "inference"
    compile: bool = False
    channels_last: bool = False
    num_inference_steps: int | None = None


class DeviceRequest(Request):
    """What makes a number that belongs to a device.

    Attributes:
        device_name: of the processor or GPU.
    """

    device_name: str


class SpeedRequest(SpeedSettings, DeviceRequest):
    """How fast a network runs on a device; attributes as of both bases."""

    kind: Literal["speed"] = "speed"


class Device(Model):
    """The machine as it was during a measurement of speed.

    Attributes:
        name: of the processor.
        threads: PyTorch's on the CPU.
        clock_mhz: after the last round, of a GPU at work, of a CPU while it is still warm; None where the
            system does not tell (of a GPU: without the extra `gpu`).
        peak_flops: FLOP/s of a square matrix product in the run's dtype, the fastest of many.
        bandwidth: bytes/s read and written by a copy, the fastest of many.
        sustained_flops, sustained_bandwidth: the same for seconds on end; None in older records.
        nominal_flops: FLOP/s that its maker prints for dense products in the run's dtype; None where
            `bench.speed.nominal` does not know them.
        other_load: cores that other processes kept busy during the rounds, mean; None where it is not known.
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
        batch_size, batch_reason: images a call, and why so many.
        images_per_second, quartiles: median over the rounds, and the middle half of them.
        latency_ms: p50 and p95 of single images; None in training.
        peak_bytes: most memory in use during a step: weights, gradients, optimizer, activations; the inputs,
            which are prepared before, left out.
        macs: multiply-accumulates of one deployed forward pass at batch 1.
        flops_per_second: 2·MACs of the images in a second, three times that in training.
        peak_share: of the device's peak.
        intensity, ridge: FLOP/byte, of the network and where the device turns compute-bound.
        bound: what limits it: launching operators on a GPU, or else `memory` or `compute` by the roofline.
        launch_share: time in which the processor launches the operators of a call, over the time of a call;
            near 1 the GPU waits for it, and other kernels would gain nothing. None on a CPU, where nothing is
            launched, and in older records.
        ratio, interval: images per second over those of the network it was timed against (the record's
            context), and the 95% interval of that; None for the first network of a run.
        compiled: `no`, `yes`, or why it was timed eager.
        compile_seconds: the first compiled call at `batch_size`, in no other number; None if eager.
        sampling: whole denoising loops, plain and guided; None unless asked for.
        training: the parts of a training step; None for inference.
        seconds_per_image: of every round.
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
    """Where the time of a forward pass goes on a device; attributes as of `SpeedRequest`."""

    kind: Literal["profile"] = "profile"
    dtype: Dtype = "fp32"
    batch_size: int = 8


class Share(Model):
    """Time and multiply-accumulates of a stage or of a class of operators.

    Attributes:
        seconds: of one forward pass of the batch, median.
        time_share: of the sum over all parts.
        macs: of one sample, as `bench.cost` counts them.
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


DEPTHWISE = "depthwise convolution"  # a class of operators
IDLE = "idle"  # in the place of one: a GPU that waits for the next operator to be launched


class Depthwise(Model):
    """The depthwise convolutions of a forward pass without the rest of it.

    Attributes:
        count: how many there are.
        memory_format: in which they are fastest, `contiguous` or `channels-last`.
        seconds: of all of them in that format, those of one shape in a row; median, by the profiler.
        copy_seconds: the time in which a copy moves as many bytes as their inputs, weights and outputs have.
    """

    count: int
    memory_format: str
    seconds: Finite
    copy_seconds: Finite


class Profile(Result):
    """Time beside multiply-accumulates of one network on one device.

    Attributes:
        input_size: side of the input grid, or (H, W).
        threads: PyTorch's on the CPU; None on a GPU.
        seconds: one whole forward pass of the batch, neither hooked nor profiled; median.
        overhead: how much longer the stages took together, as a fraction of that.
        stages: in order of execution; what runs in no stage is "(between)".
        operators: by time, on the device; of a GPU, `idle` is what is left of the time.
        depthwise: its depthwise convolutions alone; None if it has none.
        other_load: cores that other processes kept busy meanwhile, mean; None where it is not known.
    """

    request: ProfileRequest
    input_size: Size
    threads: int | None
    seconds: Finite
    overhead: Finite
    stages: tuple[Share, ...] = Field(repr=False)
    operators: tuple[Share, ...] = Field(repr=False)
    depthwise: Depthwise | None
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
