"""How good a trained network is, and how it was trained and sampled."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from bench.records.schema.base import Finite, Model, Request, Result
from bench.utils.frames import Row
from registry.values import join_options, split_options

# Options of objectives that have fields: names of records hang on them. Others stand behind the name.
OBJECTIVE_FIELDS = ("beta_schedule", "prediction_type", "min_snr_gamma", "zero_terminal_snr")
_Beta = Annotated[float, Field(ge=0, lt=1)]
_Width = Annotated[float, Field(gt=0, lt=0.28)]  # √(1/12) is a mean over all steps


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
        learning_rate, weight_decay, betas: of AdamW; without weight decay it is Adam.
        warmup: steps over which the rate rises from zero.
        learning_rate_schedule: what the rate is multiplied by at step s, besides the warm-up: 1 (constant);
            (1 + cos(π·s/steps))/2 (cosine); 1 − s/steps (linear); 1/√max(s/decay_steps, 1) (inverse-sqrt;
            EDM2, arXiv 2312.02696).
        decay_steps: of inverse-sqrt, and needed there: the steps after which the rate falls.
        clip: largest gradient norm; none where it is left out.
        ema_decay: of the exponential moving average of the weights; not with `ema_width`.
        ema_width: relative width (σ_rel) of a power-function average in its place (EDM2, Eq. 4): how far the
            steps that it weighs are spread, over the length of the training.
        finite_gradients: put 0 in the place of numbers of the gradient that are not finite, as EDM2 does.
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
        sampler: see `bench.diffusion`, options of its own behind the name or not: `ddim eta=0.5`.
        steps: how many, or a respacing such as `"ddim50"`.
        cfg_scale: guidance; 1 is none.
        guided_channels: how many leading channels are guided, 0 for all; None: as the backbone declares, 3 as
            in the published numbers of DiT and U-DiT.
        guidance_interval: (lowest, highest) time at which is guided, as the objective has it; None: always.
        encoder_every: evaluations for which the encoder of a network such as DDT runs once; None: 1.
        num: how many images.
        labels: uniformly random, or each class equally often.
        batch_size: images at once; another one changes results by rounding alone.
        tf32: on CUDA, TF32 in matrix products and cuDNN, as the released programs sample and decode.
    """

    sampler: str
    steps: str
    cfg_scale: Finite = Field(default=1.0, ge=0)
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
    data_options: dict[str, Any] = Field(default={})
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
    paper_gflops: Finite


class Seconds(Model):
    """What a cell took; None where an earlier process did the work."""

    train: Finite
    sample: Finite | None
    eval: Finite


class Rates(Model):
    """Images per second, the median in training; None where an earlier process did the work."""

    train: Finite
    sample: Finite | None


class BandLoss(Model):
    """Held-out loss in a band of noise levels.

    Attributes:
        log_snr: (lowest, highest) ln SNR of the band; None where it is open, and the end of the objective's
            schedule where that does not reach all levels of the band: those beyond are not scored.
        share: of all levels that are scored, which are DDPM's training steps under the linear schedule.
        loss: mean over images.
        groups: means over 64 groups of images, the same ones for every network, for errors over images; None
            where `bench.records.read` left them out.
    """

    log_snr: tuple[Finite | None, Finite | None]
    share: Finite
    loss: Finite
    groups: tuple[float, ...] | None = Field(
        default=None, repr=False, exclude_if=lambda groups: groups is None
    )


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
        scores: by the names of `bench.metrics`; None where one could not be computed; empty without images.
        loss: of training, mean of the last steps logged.
        sample_count, reference_count: images scored, and those they are compared with; None where the
            reference has statistics alone, or without images.
        held_out: at each checkpoint until the step that is asked for; empty where it is not measured.
        network: what the network costs as it was trained.
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
