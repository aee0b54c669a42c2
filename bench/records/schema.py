"""What a record holds: a request and a result for each kind of measurement. Nothing here imports torch.

A **request** is all that makes the number and nothing else; its hash names the record's file. What the
measurement was run beside, or how often, is **context** and enters no hash. A function that measures
returns a **result**, which knows its request; everything that prints, compares or draws reads these models.

The hash is taken over what differs from a field's default: a field that is added later, with a default that
means what was done before, leaves every name as it was.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property
from operator import mul
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from registry.values import join_options, split_options

Config = dict[str, Any]  # of a network: every option with its value, as `registry.canonical` makes it
Size = int | tuple[int, int]  # a square grid's side, or (height, width)
Dtype = Literal["fp32", "tf32", "bf16", "fp16"]
Convention = Literal["paper", "macs", "flops"]
By = Literal["stage", "module", "operator"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Model(BaseModel):
    """Base of all models: frozen, and without room for keys that are not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Request(Model):
    """What makes a number.

    Attributes:
        kind: of measurement.
        model: the registered backbone.
        config: all of its options, in canonical form.
    """

    kind: str
    model: str
    config: Config

    @cached_property
    def file(self) -> str:
        """Name of the record that answers this request."""
        identity = {"kind": self.kind, **self.model_dump(mode="json", exclude_defaults=True)}
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
        readable = re.sub(r"[^\w.-]+", "-", f"{self.kind}-{self.model}")
        return f"{readable}-{digest}.json"


class Result(Model):
    """What a measurement found."""

    excluded: ClassVar[set[str]] = set()  # what a record does not keep

    def record_values(self) -> dict[str, Any]:
        """The result as a record keeps it, as JSON can hold it."""
        return self.model_dump(mode="json", exclude={"request"} | self.excluded)


# ---- cost ----


class CostRequest(Request):
    """Cost of one forward pass of the deployed network, batch 1."""

    kind: Literal["cost"] = "cost"


class Part(Model):
    """Cost of a stage, a module or a kind of operator; what does not apply is None.

    Attributes:
        macs: multiply-accumulates.
        paper: operations in the convention of U-DiT's tables.
        parameters, parameters_deployed: scalars, trained and merged for inference.
        activation_bytes: peak while it runs, what waits for later stages included.
    """

    name: str
    macs: int
    paper: int
    parameters: int | None = None
    parameters_deployed: int | None = None
    activation_bytes: int | None = None

    def count(self, convention: Convention) -> int:
        """Operations in one convention."""
        return {"paper": self.paper, "macs": self.macs, "flops": 2 * self.macs}[convention]


class Cost(Result):
    """Cost of one forward pass at batch 1.

    Attributes:
        request: what was measured; of a module that was built by hand its class's name and no config.
        input_size: side of the input grid, or (H, W).
        parameters: scalars in the trained network, fixed tables included.
        parameters_deployed: the same after re-parameterised modules are merged for inference.
        macs: exact multiply-accumulates.
        flops: 2·macs.
        paper_gflops: 10⁹ operations in the convention of U-DiT's tables.
        activation_bytes: peak of live tensors besides the weights, float32, without gradients; the skips that
            wait for the decoder included.
        uncounted: operators that may cost something and are in no count -> how often.
        notes: what a reader must know of the counts, such as that they depend on values; sentences.
        stages, modules, operators: the same cost in parts; a record keeps the stages.
    """

    excluded: ClassVar[set[str]] = {"input_size", "modules", "operators"}

    request: CostRequest
    input_size: Size | None = None
    parameters: int
    parameters_deployed: int
    macs: int
    flops: int
    paper_gflops: float
    activation_bytes: int
    uncounted: dict[str, int]
    notes: tuple[str, ...] = Field(default=(), exclude_if=lambda notes: not notes)  # as records of before
    stages: tuple[Part, ...] = Field(repr=False)
    modules: tuple[Part, ...] = Field(default=(), repr=False)
    operators: tuple[Part, ...] = Field(default=(), repr=False)

    def count(self, convention: Convention) -> float:
        """Operations in one convention."""
        return {"paper": self.paper_gflops * 1e9, "macs": self.macs, "flops": self.flops}[convention]

    def parts(self, by: By) -> tuple[Part, ...]:
        """The breakdown by stage, by module or by operator."""
        return {"stage": self.stages, "module": self.modules, "operator": self.operators}[by]


# ---- speed ----


class SpeedRequest(Request):
    """How fast a network runs on a device.

    Attributes:
        device_name: of the processor or GPU; a speed is that of a device.
        dtype: tf32 is float32 whose products are rounded to TF32, on CUDA.
        batch_size: images a call, or `auto`: the largest power of two that fits.
        mode: forward passes of the deployed network, or training steps.
        compile: whether torch.compile's version is timed.
        channels_last: convolutional weights and inputs in channels-last memory format.
        num_inference_steps: of whole denoising loops that are timed too; None: none are.
    """

    kind: Literal["speed"] = "speed"
    device_name: str
    dtype: Dtype = "fp32"
    batch_size: int | Literal["auto"] = 8
    mode: Literal["inference", "training"] = "inference"
    compile: bool = False
    channels_last: bool = False
    num_inference_steps: int | None = None


class Device(Model):
    """The machine as it was during a measurement of speed.

    Attributes:
        name: of the processor.
        threads: PyTorch's on the CPU.
        clock_mhz: after the last round, while it is still warm; None where the system does not tell.
        peak_flops: FLOP/s of a square matrix product in the run's dtype, the fastest of many.
        bandwidth: bytes/s read and written by a copy, the fastest of many.
        other_load: cores that other processes kept busy during the rounds, mean; None where it is not known.
    """

    name: str
    threads: int
    clock_mhz: float | None
    peak_flops: float
    bandwidth: float
    other_load: float | None = None


class SamplingSpeed(Model):
    """Images per second of whole denoising loops, from noise to latents.

    Guided loops make half as many images on a doubled batch, so that they fit where plain ones do.
    """

    steps: int
    images_per_second: float
    guided_images_per_second: float | None  # None for a network without a null class


class TrainingTime(Model):
    """Seconds of the three parts of a training step, medians over the rounds.

    Attributes:
        forward: the network and the loss.
        backward: gradients.
        optimizer: gradient norm, AdamW, and the average of the weights.
    """

    forward: float
    backward: float
    optimizer: float


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
        bound: what limits it under the roofline.
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
    sampling: SamplingSpeed | None
    training: TrainingTime | None = None
    seconds_per_image: tuple[float, ...] = Field(repr=False)
    device: Device


# ---- profile ----


class ProfileRequest(Request):
    """Where the time of a forward pass goes on a device; attributes as of `SpeedRequest`."""

    kind: Literal["profile"] = "profile"
    device_name: str
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
    seconds: float
    time_share: float
    macs: int
    macs_share: float
    ratio: float | None

    @property
    def excess(self) -> float:
        """By how much the share of time is above the share of multiply-accumulates."""
        return self.time_share - self.macs_share


DEPTHWISE = "depthwise convolution"  # a class of operators


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
    seconds: float
    copy_seconds: float


class Profile(Result):
    """Time beside multiply-accumulates of one network on one device.

    Attributes:
        input_size: side of the input grid, or (H, W).
        threads: PyTorch's on the CPU; None on a GPU.
        seconds: one whole forward pass of the batch, neither hooked nor profiled; median.
        overhead: how much longer the stages took together, as a fraction of that.
        stages: in order of execution; what runs in no stage is "(between)".
        operators: by time, on the device: what waits for no operator is in none.
        depthwise: its depthwise convolutions alone; None if it has none.
        other_load: cores that other processes kept busy meanwhile, mean; None where it is not known.
    """

    request: ProfileRequest
    input_size: Size
    threads: int | None
    seconds: float
    overhead: float
    stages: tuple[Share, ...] = Field(repr=False)
    operators: tuple[Share, ...] = Field(repr=False)
    depthwise: Depthwise | None
    other_load: float | None = None

    @property
    def operator_seconds(self) -> float:
        """What all operators take together under the profiler."""
        return sum(share.seconds for share in self.operators)


# ---- quality ----


# Options of objectives that have fields: names of records hang on them. Others stand behind the name.
OBJECTIVE_FIELDS = ("beta_schedule", "prediction_type", "min_snr_gamma", "zero_terminal_snr")


class TrainingSettings(Model):
    """How a network is trained: AdamW, a linear warm-up, a schedule of the rate, and averages of the weights.

    Attributes:
        objective: see `bench.diffusion`, options of its own behind the name or not: `my-flow shift=3`; None:
            the one that the backbone declares.
        beta_schedule, prediction_type, min_snr_gamma, zero_terminal_snr: options with a field of their own,
            of objectives that have them; see `bench.diffusion.ddpm.DDPM`. `ddpm beta_schedule=cosine` sets
            the field.
        steps: optimizer steps.
        batch_size: images a step, over all processes and accumulated parts together.
        learning_rate, weight_decay: of AdamW, whose betas are 0.9 and 0.999.
        warmup: steps over which the rate rises from zero.
        learning_rate_schedule: what the rate is multiplied by at step s, besides the warm-up: 1 (constant);
            (1 + cos(π·s/steps))/2 (cosine); 1 − s/steps (linear); 1/√max(s/decay_steps, 1) (inverse-sqrt;
            EDM2, arXiv 2312.02696).
        decay_steps: of inverse-sqrt, and needed there: the steps after which the rate falls.
        clip: largest gradient norm; none where it is left out.
        ema_decay: of the exponential moving average of the weights.
        posthoc_ema: relative widths (σ_rel) of power-function averages that are stored beside it, from which
            an average of any width is reconstructed after training; EDM2 stores (0.05, 0.1).
        flip: whether half of the images are mirrored.
        precision: bf16 and fp16 run the network under autocast, weights stay float32; fp16, for CUDA alone,
            scales the loss (PyTorch's GradScaler).
        tf32: on CUDA, TF32 in matrix products and cuDNN, as the released programs train.
        deterministic: on CUDA, kernels that add up in one order, so that a resumed run equals one never
            stopped bit for bit; slower.
    """

    objective: str | None = None
    beta_schedule: Literal["linear", "scaled_linear", "cosine"] = "linear"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    min_snr_gamma: Finite | None = Field(default=None, gt=0)
    zero_terminal_snr: bool = False
    steps: int = Field(ge=1, lt=2**31)
    batch_size: int = Field(ge=1, lt=2**31)
    learning_rate: Finite = Field(gt=0)
    weight_decay: Finite = Field(default=0.0, ge=0)
    warmup: int = Field(default=0, ge=0, lt=2**31)
    learning_rate_schedule: Literal["constant", "cosine", "linear", "inverse-sqrt"] = "constant"
    decay_steps: int | None = Field(default=None, ge=1, lt=2**31)
    clip: Finite | None = Field(default=None, gt=0)
    ema_decay: float = Field(ge=0, lt=1)
    posthoc_ema: tuple[Annotated[float, Field(gt=0, lt=0.28)], ...] = ()  # √(1/12) is a mean over all steps
    flip: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    tf32: bool = False
    deterministic: bool = False

    @model_validator(mode="before")
    @classmethod
    def _options_with_fields(cls, table: Any) -> Any:
        if not isinstance(table, dict) or not isinstance(table.get("objective"), str):
            return table
        name, options = split_options(table["objective"])
        fields = {field: options.pop(field) for field in OBJECTIVE_FIELDS if field in options}
        return {**table, **fields, "objective": join_options(name, options)}

    @property
    def objective_options(self) -> dict[str, Any]:
        """The options with a field of their own that are not their defaults."""
        fields = type(self).model_fields
        values = {field: getattr(self, field) for field in OBJECTIVE_FIELDS}
        return {field: value for field, value in values.items() if value != fields[field].default}

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if (self.learning_rate_schedule == "inverse-sqrt") != (self.decay_steps is not None):
            raise ValueError("decay_steps belongs to learning_rate_schedule = 'inverse-sqrt', which needs it")
        if len(set(self.posthoc_ema)) != len(self.posthoc_ema):
            raise ValueError("posthoc_ema names a width twice")
        return self

    def trajectory(self) -> dict[str, Any]:
        """What decides the weights at any one step, as JSON can hold it.

        All of the settings, but `steps` only where the rate depends on it: otherwise a longer run begins with
        a shorter one.
        """
        free = {"steps"} if self.learning_rate_schedule in ("constant", "inverse-sqrt") else set()
        return self.model_dump(mode="json", exclude=free)


class SamplingSettings(Model):
    """How images are made from a trained network.

    Attributes:
        sampler: see `bench.diffusion`, options of its own behind the name or not: `ddim eta=0.5`.
        steps: how many, or a respacing such as `"ddim50"`.
        cfg_scale: guidance; 1 is none.
        guided_channels: how many leading channels are guided, 0 for all; None: as the backbone declares, 3 as
            in the published numbers of DiT and U-DiT.
        guidance_interval: (lowest, highest) time at which is guided, as the network sees it; None: always.
        num: how many images.
        labels: uniformly random, or each class equally often.
        batch_size: images at once; another one changes results by rounding alone.
        tf32: on CUDA, TF32 in matrix products and cuDNN, as the released programs sample.
    """

    sampler: str
    steps: str
    cfg_scale: Finite = Field(default=1.0, ge=0)
    guided_channels: int | None = Field(default=None, ge=0)
    guidance_interval: tuple[Finite, Finite] | None = None
    num: int = Field(ge=1, lt=2**31)
    labels: Literal["uniform", "balanced"] = "uniform"
    batch_size: int = Field(default=64, ge=1, lt=2**31)
    tf32: bool = False

    @model_validator(mode="before")
    @classmethod
    def _steps_as_text(cls, table: Any) -> Any:
        if isinstance(table, dict) and type(table.get("steps")) is int:
            return {**table, "steps": str(table["steps"])}
        return table


GROUPS = 64  # of held-out images, whose mean losses are recorded


class HeldOutSettings(Model):
    """How the loss on images that were not trained on is measured; see `bench.metrics.held_out`.

    Attributes:
        images: how many, the first of the dataset's split `test`; a multiple of 64.
    """

    images: int = Field(ge=GROUPS, multiple_of=GROUPS, lt=2**31)


class QualityRequest(Request):
    """How good a network is that was trained with one seed: its images, its loss on held-out ones, or both.

    Attributes:
        config: what the data decides (`input_size`, `in_channels`, `num_classes`) is left out.
        data: name of the dataset.
        data_options: that the protocol gives it.
        step: of the training run, the checkpoint whose averaged weights are measured.
        seed: of training and of sampling.
        sampling: how images are made; None: none are.
        extractor: of their features; None without images.
        reference: digest of the file that samples are compared with; None: the dataset trained on.
        held_out: how the held-out loss is measured; None: it is not.
    """

    kind: Literal["quality"] = "quality"
    data: str
    data_options: dict[str, Any] = {}
    training: TrainingSettings
    sampling: SamplingSettings | None = None
    step: int = Field(ge=1)
    seed: int = Field(ge=0)
    extractor: str | None = None
    reference: str | None = None
    held_out: HeldOutSettings | None = None


class Network(Model):
    """Cost of a network at the size in which a protocol trains it; see `Cost`."""

    parameters: int
    parameters_deployed: int
    macs: int
    paper_gflops: float


class Seconds(Model):
    """What a cell took; None where an earlier process did the work."""

    train: float
    sample: float | None
    eval: float


class Rates(Model):
    """Images per second, the median in training; None where an earlier process did the work."""

    train: float
    sample: float | None


class BandLoss(Model):
    """Held-out loss in a band of noise levels.

    Attributes:
        log_snr: (lowest, highest) ln SNR of the band; None where it is open, and the end of the objective's
            schedule where that does not reach all levels of the band: those beyond are not scored.
        share: of all levels that are scored, which are DDPM's training steps under the linear schedule.
        loss: mean over images.
        groups: means over 64 groups of images, the same ones for every network.
    """

    log_snr: tuple[Finite | None, Finite | None]
    share: float
    loss: float
    groups: tuple[float, ...] = Field(repr=False)


class HeldOutLoss(Model):
    """Mean squared error of the noise prediction on held-out images, averaged weights.

    Attributes:
        step: of the training run.
        bands: from the least noise to the most.
        training_error: mean squared error of the prediction in training, over the steps since the checkpoint
            before; None in older records.
        seconds: of training until then, as logged.
        eval_seconds: of the measurement.
    """

    step: int
    bands: tuple[BandLoss, ...]
    training_error: Finite | None = Field(default=None, exclude_if=lambda loss: loss is None)
    seconds: float
    eval_seconds: float

    @property
    def log_snr(self) -> tuple[float | None, float | None]:
        """(lowest, highest) ln SNR scored; None: to the end of DDPM's linear schedule."""
        return self.bands[-1].log_snr[0], self.bands[0].log_snr[1]

    @property
    def loss(self) -> float:
        """Over all bands, each with its share: the expectation over DDPM's training steps that are scored."""
        return sum(band.share * band.loss for band in self.bands)

    def value(self, name: str) -> float | None:
        """The whole as `held_out`, a band as `held_out_1`, `held_out_2`, …"""
        number = name.removeprefix("held_out").removeprefix("_")
        if not number:
            return self.loss
        return self.bands[int(number) - 1].loss if int(number) <= len(self.bands) else None

    def groups(self, name: str) -> tuple[float, ...]:
        """Means over groups of images of the loss of that name."""
        number = name.removeprefix("held_out").removeprefix("_")
        if number:
            return self.bands[int(number) - 1].groups
        whole = zip(*(band.groups for band in self.bands), strict=True)
        shares = [band.share for band in self.bands]
        return tuple(sum(map(mul, shares, group)) for group in whole)


class Quality(Result):
    """Scores of one cell.

    Attributes:
        scores: by the names of `bench.metrics`; None where one could not be computed; empty without images.
        loss: of training, mean of the last steps logged.
        sample_count, reference_count: images scored, and those they are compared with; None where the
            reference has statistics alone, or without images.
        held_out: at each checkpoint until the step that is asked for; empty where it is not measured.
        network: what the network costs as it was trained.
    """

    request: QualityRequest
    scores: dict[str, float | None]
    loss: float
    sample_count: int | None
    reference_count: int | None
    held_out: tuple[HeldOutLoss, ...] = ()
    network: Network
    seconds: Seconds
    images_per_second: Rates

    def value(self, name: str) -> float | None:
        """A score, the training loss, or a held-out loss (see `bench.records.quantities`), by its name."""
        if name == "loss":
            return self.loss
        if name.startswith("held_out"):
            return self.held_out[-1].value(name) if self.held_out else None
        return self.scores.get(name)


# ---- a record ----

AnyRequest = Annotated[
    CostRequest | SpeedRequest | ProfileRequest | QualityRequest, Field(discriminator="kind")
]
REQUESTS: dict[str, type[Request]] = {
    "cost": CostRequest,
    "speed": SpeedRequest,
    "profile": ProfileRequest,
    "quality": QualityRequest,
}
RESULTS: dict[str, type[Result]] = {"cost": Cost, "speed": Speed, "profile": Profile, "quality": Quality}


class Context(Model):
    """What a measurement was run beside; it makes no number of its own.

    Attributes:
        protocol: name of the protocol that training and sampling settings come from.
        flipped: whether images were mirrored in training, which a protocol wants and a dataset may not allow.
        against: label of the network that ratios are to.
        repeats: rounds.
        processes: that trained and sampled together; None: one.
        left_out: how many files of which kind the dataset left out of its folder; None: none.
    """

    protocol: str | None = None
    flipped: bool | None = None
    against: str | None = None
    repeats: int | None = None
    processes: int | None = None
    left_out: dict[str, int] | None = None


class Environment(Model):
    """Where and with what something was measured.

    Attributes:
        device: name of the GPU or of the processor.
        commit, clean: of this code's checkout, and whether its files were as committed; None outside one.
        date: ISO 8601, UTC.
    """

    model_config = ConfigDict(populate_by_name=True)

    device: str
    cpu: str
    cores: int | None
    threads: int
    python: str
    torch: str
    diffusers: str | None
    version: str = Field(alias="denoiser-bench")
    commit: str | None
    clean: bool | None
    date: str


class Fingerprints(Model):
    """What made a number besides its request: contents that a name alone does not pin down.

    Attributes:
        code: of the backbone.
        reader: of the dataset, with those of its options that name no place.
        data: digest of the dataset's content.
        scorer: of the extractor.
        extractor: digest of the extractor's weights.
        versions: of the harness's own code that made the number, by what it does: `trainer`, `sampling`,
            `held_out`, `cost`, `objective ddpm`, `sampler ddim`, `score fid`, …; of a user's own objective,
            sampler or score the fingerprint of its code. See `bench.studies.staleness`.
    """

    code: str | None = None
    reader: str | None = None
    data: str | None = None
    scorer: str | None = None
    extractor: str | None = None
    versions: dict[str, int | str] = {}


class Record(Model):
    """One measurement as it lies on disk."""

    request: AnyRequest
    result: Cost | Speed | Profile | Quality
    context: Context = Context()
    fingerprints: Fingerprints = Fingerprints()
    environment: Environment

    @property
    def file(self) -> str:
        """Name of its file."""
        return self.request.file

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, table: Any) -> Any:
        """Give the result the request that it answers, by whose kind its model is chosen."""
        if not isinstance(table, dict) or not isinstance(table.get("result"), dict):
            return table
        request = table.get("request")
        kind = request.get("kind") if isinstance(request, dict) else getattr(request, "kind", None)
        model = RESULTS.get(kind) if isinstance(kind, str) else None
        if model is None:
            return table
        return {**table, "result": model.model_validate({**table["result"], "request": request})}

    def dump(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "request": self.request.model_dump(mode="json"),
            "result": self.result.record_values(),
            "context": self.context.model_dump(mode="json", exclude_defaults=True),
            "fingerprints": self.fingerprints.model_dump(mode="json", exclude_defaults=True),
            "environment": self.environment.model_dump(mode="json", by_alias=True),
        }
