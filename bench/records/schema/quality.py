"""How good a trained network is, and how it was trained and sampled."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from bench.records.schema.base import Finite, Model, NetworkRequest, NotNegative, Result
from bench.utils.frames import Row
from registry.values import join_options, split_options

# Options of objectives that have fields: names of records hang on them. Others stand behind the name.
OBJECTIVE_FIELDS = ("beta_schedule", "prediction_type", "min_snr_gamma", "zero_terminal_snr")
_Beta = Annotated[float, Field(ge=0, lt=1)]
_Width = Annotated[float, Field(gt=0, lt=0.28)]  # √(1/12) is a mean over all steps


class TrainingSettings(Model):
    """How a network is trained: AdamW, a linear warm-up, a schedule of the rate, and averages of the weights.

    Attributes:
        objective: name of the objective, with its options behind it where it has no key for them here, as in
            `my-flow shift=3`; None: the backbone's own. See `bench list --kind objective`.
        beta_schedule: β schedule of the objective `ddpm`.
        prediction_type: what the objective `ddpm` has the network predict.
        min_snr_gamma: γ of the Min-SNR weighting of the objective `ddpm` (arXiv 2303.09556); None: no
            weighting.
        zero_terminal_snr: whether `ddpm` rescales the β schedule so that the last step is pure noise (arXiv
            2305.08891).
        steps: number of optimizer steps.
        batch_size: images per step, the sum over all processes and accumulated parts.
        learning_rate: learning rate of AdamW after the warm-up.
        weight_decay: weight decay of AdamW; with 0 it is Adam.
        betas: β₁ and β₂ of AdamW.
        warmup: number of steps over which the learning rate rises linearly from 0.
        learning_rate_schedule: factor of the learning rate at step s: 1 (constant); (1 + cos(π·s/steps))/2
            (cosine); 1 − s/steps (linear); 1/√max(s/decay_steps, 1) (inverse-sqrt; EDM2, arXiv 2312.02696).
        decay_steps: number of steps after which the inverse-sqrt schedule falls; required by it.
        clip: largest gradient norm; None: gradients are not clipped.
        ema_decay: decay of the exponential moving average (EMA) of the weights. Either this or `ema_width` is
            required.
        ema_width: relative width σ_rel of a power-function EMA instead (EDM2, Eq. 4): the spread of the steps
            that are averaged, as a fraction of the training.
        finite_gradients: whether NaN and infinity in gradients are replaced by 0, as in EDM2. In fp16 such a
            step is skipped instead.
        posthoc_ema: relative widths σ_rel of further power-function EMAs that are stored, from which an EMA
            of any width can be reconstructed after training; EDM2 stores (0.05, 0.1).
        flip: whether half of the images are mirrored.
        precision: arithmetic of the network. In bf16 and fp16 it runs under autocast and the weights stay
            float32. fp16 needs CUDA and scales the loss (PyTorch's GradScaler).
        tf32: whether matrix products and cuDNN use TF32 on CUDA, as the authors' programs do in training.
        deterministic: whether CUDA kernels sum in a fixed order, so that a resumed run equals one that was
            never stopped, bit for bit. Slower.
    """

    objective: str | None = None
    beta_schedule: Literal["linear", "scaled_linear", "cosine"] = "linear"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    min_snr_gamma: Finite | None = Field(default=None, gt=0)
    zero_terminal_snr: bool = False
    steps: int = Field(ge=1, lt=2**31)
    batch_size: int = Field(ge=1, lt=2**31)
    learning_rate: Finite = Field(gt=0)
    weight_decay: NotNegative = 0.0
    # Left out where it is as it always was, so that records and names of runs stay as they are.
    betas: tuple[_Beta, _Beta] = Field(default=(0.9, 0.999), exclude_if=lambda betas: betas == (0.9, 0.999))
    warmup: int = Field(default=0, ge=0, lt=2**31)
    learning_rate_schedule: Literal["constant", "cosine", "linear", "inverse-sqrt"] = "constant"
    decay_steps: int | None = Field(default=None, ge=1, lt=2**31)
    clip: Finite | None = Field(default=None, gt=0)
    ema_decay: float | None = Field(default=None, ge=0, lt=1)
    ema_width: _Width | None = Field(default=None, exclude_if=lambda width: width is None)
    finite_gradients: bool = Field(default=False, exclude_if=lambda finite: not finite)
    posthoc_ema: tuple[_Width, ...] = ()
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
        if (self.ema_decay is None) == (self.ema_width is None):
            raise ValueError("needs the key 'ema_decay', or ema_width in its place")
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
        sampler: name of the sampler with its options, as in `ddim eta=0.5`; see `bench list --kind sampler`.
        steps: number of steps, or a respacing such as `"ddim50"`.
        cfg_scale: scale of classifier-free guidance; 1 is no guidance.
        guided_channels: number of leading channels that are guided, 0 for all; None: as the backbone declares
            (3 in the published figures of DiT and U-DiT).
        guidance_interval: (lowest, highest) time of the objective between which guidance is on; None: always.
        encoder_every: for networks with an encoder of their own, such as DDT: number of evaluations that
            share one run of it; None: 1.
        num: number of images.
        labels: class labels: drawn at random (`uniform`), or each class equally often (`balanced`).
        batch_size: images sampled at once; changes results by rounding only.
        tf32: whether matrix products and cuDNN use TF32 on CUDA, as the authors' programs do in sampling and
            decoding.
    """

    sampler: str
    steps: str
    cfg_scale: NotNegative = 1.0
    guided_channels: int | None = Field(default=None, ge=0)
    guidance_interval: tuple[Finite, Finite] | None = None
    encoder_every: int | None = Field(default=None, ge=1)
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
        images: number of images, the first of the dataset's split `test`; a multiple of 64.
    """

    images: int = Field(ge=GROUPS, multiple_of=GROUPS, lt=2**31)


class QualityRequest(NetworkRequest):
    """Quality of a network trained with one seed: scores of its images, its held-out loss, or both.

    Attributes:
        config: options of the network in canonical form, without those that the data determines
            (`input_size`, `in_channels`, `num_classes`).
        data: name of the dataset.
        data_options: options of the dataset that the protocol sets.
        training: how the network is trained.
        sampling: how images are sampled; None: no images.
        step: training step of the checkpoint whose averaged weights are measured.
        seed: seed of training and of sampling.
        extractor: extractor of the features; None without images.
        reference: digest of the file that samples are compared with; None: the dataset trained on.
        held_out: how the held-out loss is measured; None: it is not.
    """

    kind: Literal["quality"] = "quality"
    data: str
    data_options: dict[str, Any] = Field(default={})
    training: TrainingSettings
    sampling: SamplingSettings | None = None
    step: int = Field(ge=1)
    seed: int = Field(ge=0)
    extractor: str | None = None
    reference: str | None = None
    held_out: HeldOutSettings | None = None


class Network(Model):
    """Cost of a network at the size in which the protocol trains it; see `Cost`.

    Attributes:
        parameters: scalars in the network, fixed tables included.
        parameters_deployed: the same after merging for inference.
        macs: multiply-accumulates of one forward pass.
        paper_gflops: 10⁹ operations as the U-DiT paper counts them.
    """

    parameters: int
    parameters_deployed: int
    macs: int
    paper_gflops: Finite


class Seconds(Model):
    """Time that a cell took.

    Attributes:
        train: seconds of training.
        sample: seconds of sampling; None where an earlier process sampled.
        eval: seconds of scoring.
    """

    train: Finite
    sample: Finite | None
    eval: Finite


class Rates(Model):
    """Images per second in training and in sampling.

    Attributes:
        train: median over the steps.
        sample: mean over all images; None where an earlier process sampled.
    """

    train: Finite
    sample: Finite | None


class BandLoss(Model):
    """Held-out loss in a band of noise levels.

    Attributes:
        log_snr: (lowest, highest) ln SNR of the band; None: the band is open on that side. Where the
            objective's schedule ends inside the band, its end is given, and levels beyond it are not scored.
        share: weight of the band in the whole: its share of all levels that are scored. These are DDPM's
            training steps under the linear schedule.
        loss: mean over images.
        groups: means over 64 groups of images, the same groups for every network, for standard errors; None
            where `bench.records.read` left them out.
    """

    log_snr: tuple[Finite | None, Finite | None]
    share: Finite
    loss: Finite
    groups: tuple[float, ...] | None = Field(
        default=None, repr=False, exclude_if=lambda groups: groups is None
    )


class HeldOutLoss(Model):
    """Mean squared error of the predicted noise on held-out images, with averaged weights.

    Attributes:
        step: step of the training run.
        bands: losses by band, from the least noise to the most.
        training_error: mean squared error of the prediction in training, since the previous checkpoint; None
            in older records.
        seconds: seconds of training up to this step, from the log.
        eval_seconds: seconds that this measurement took.
    """

    step: int
    bands: tuple[BandLoss, ...]
    training_error: Finite | None = Field(default=None, exclude_if=lambda loss: loss is None)
    seconds: Finite
    eval_seconds: Finite

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


class Quality(Result):
    """Scores of one cell.

    Attributes:
        request: what was measured.
        scores: value of each score by name; None where a score could not be computed; empty without images.
        loss: training loss, mean over the last logged steps.
        sample_count: number of images scored; None without images.
        reference_count: number of images they are compared with; None where the reference has statistics
            only, or without images.
        held_out: held-out loss at each checkpoint up to the requested step; empty where it is not measured.
        network: cost of the network as it was trained.
        seconds: time that the cell took.
        images_per_second: speed of training and sampling.
    """

    request: QualityRequest
    scores: dict[str, Finite | None]
    loss: Finite
    sample_count: int | None
    reference_count: int | None
    held_out: tuple[HeldOutLoss, ...] = ()
    network: Network
    seconds: Seconds
    images_per_second: Rates

    def columns(self) -> Row:
        """See `Result.columns`; scores by the names that `--score` takes."""
        return {
            "Params (M)": self.network.parameters / 1e6,
            **self.scores,
            "Held-out loss": self.value("held_out"),
            "Training loss": self.loss,
            "Training (min)": self.seconds.train / 60,
        }

    def value(self, name: str) -> float | None:
        """A score, the training loss, or a held-out loss (see `bench.records.quantities`), by its name."""
        if name == "loss":
            return self.loss
        if name.startswith("held_out"):
            return self.held_out[-1].value(name) if self.held_out else None
        return self.scores.get(name)
