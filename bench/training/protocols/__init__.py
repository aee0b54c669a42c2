"""Protocols: how quality is measured, as data. A protocol is a TOML file; those here are built in.

    protocol = bench.training.protocols.load("micro")            # or the path of a file

What a protocol says, and nothing else, decides how a network is trained and sampled; with the data, the
network and the seed it decides every number that follows.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.diffusion import check_sampler
from bench.utils import toml
from registry.errors import UsageError, suggest


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(_Table):
    """How a network is trained: AdamW at a constant rate after a linear warm-up, and an average of weights.

    Attributes:
        objective: see `bench.diffusion`.
        steps: optimizer steps.
        batch_size: images a step, over all processes and accumulated parts together.
        learning_rate, weight_decay: of AdamW, whose betas are 0.9 and 0.999.
        warmup: steps over which the rate rises from zero.
        clip: largest gradient norm; none where it is left out.
        ema_decay: of the exponential moving average of the weights.
        flip: whether half of the images are mirrored.
        precision: bf16 runs the network under autocast; weights stay float32.
        log_every, checkpoint_every: steps.
        keep: how many checkpoints are kept, the newest; 0 keeps all.
    """

    objective: Literal["ddpm", "flow"] = "ddpm"
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=0, ge=0)
    clip: float | None = Field(default=None, gt=0)
    ema_decay: float = Field(ge=0, lt=1)
    flip: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(ge=1)
    keep: int = Field(default=2, ge=0)


class Sampling(_Table):
    """How images are made from a trained network.

    Attributes:
        sampler, steps: see `bench.diffusion`; steps may be a respacing such as `"ddim50"`.
        cfg_scale: guidance; 1 is none.
        guided_channels: how many leading channels are guided, 0 for all; 3 as in the published numbers.
        num: how many images.
        labels: uniformly random, or each class equally often.
        batch_size: images at once; another one changes results by rounding alone.
    """

    sampler: str
    steps: str
    cfg_scale: float = Field(default=1.0, ge=0)
    guided_channels: int = Field(default=3, ge=0)
    num: int = Field(ge=1)
    labels: Literal["uniform", "balanced"] = "uniform"
    batch_size: int = Field(default=64, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _steps_as_text(cls, table: Any) -> Any:
        if isinstance(table, dict) and type(table.get("steps")) is int:
            return {**table, "steps": str(table["steps"])}
        return table


class Evaluation(_Table):
    """How images are scored.

    Attributes:
        extractor: see `bench.metrics`; by default `digits` for the dataset of that name, else `inception`.
    """

    extractor: str | None = None


class Protocol(_Table):
    """A whole protocol.

    Attributes:
        name: of the file, without its ending.
        title: in words, as reports print it.
        data: the dataset that it is meant for.
        scale: overrides by wildcard of backbone names, for runs that cannot afford the published sizes;
            every pattern that fits adds its overrides, later ones over earlier.
    """

    name: str
    title: str
    data: str
    training: Training
    sampling: Sampling
    evaluation: Evaluation = Evaluation()
    scale: dict[str, dict[str, Any]] = {}

    @property
    def extractor(self) -> str:
        """The feature extractor that images are scored with."""
        return self.evaluation.extractor or ("digits" if self.data == "digits" else "inception")

    def overrides(self, model: str) -> dict[str, Any]:
        """What the protocol changes about a backbone, by its registered name."""
        merged: dict[str, Any] = {}
        for pattern, values in self.scale.items():
            if fnmatch(model, pattern):
                merged |= values
        return merged


def names() -> list[str]:
    """Built-in protocols, from the smallest."""
    return sorted(toml.built_in(__name__), key=lambda name: load(name).training.steps)


def load(name: str | Path) -> Protocol:
    """A protocol by its built-in name or by the path of a TOML file.

    Raises:
        UsageError: no such protocol, no valid TOML, or a key or value that is not right, named.
    """
    table = toml.read("protocol", __name__, name)
    try:
        protocol = Protocol.model_validate({"name": Path(name).stem, **table})
    except ValidationError as error:
        raise UsageError(f"protocol {name}: {_first(error)}") from None
    if (
        Path(name).suffix != ".toml"
    ):  # needs torch for its check, and a built-in one has no mistake to be found
        return protocol
    try:
        images = protocol.sampling
        check_sampler(protocol.training.objective, images.sampler, images.steps)
    except UsageError as error:
        raise UsageError(f"protocol {name}: {error}") from None
    return protocol


def _first(error: ValidationError) -> str:
    """The first complaint in one line, with the key it is about."""
    # A key that is not known explains why another is missing.
    complaint = min(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
    *tables, key = [str(part) for part in complaint["loc"]]
    where = f"[{'.'.join(tables)}] " if tables else ""
    if complaint["type"] == "extra_forbidden":
        inner = {"training": Training, "sampling": Sampling, "evaluation": Evaluation}
        known: Any = inner.get(tables[0] if tables else "", Protocol)
        return f"{where}has no key {key!r}.{suggest(key, list(known.model_fields))}"
    if complaint["type"] == "missing":
        return f"{where}needs the key {key!r}"
    return f"{where}{key} = {complaint['input']!r}: {complaint['msg'][0].lower() + complaint['msg'][1:]}"
