"""Protocols: how quality is measured, as data. A protocol is a TOML file; those here are built in.

    protocol = bench.training.protocols.load("micro")            # or the path of a file

A protocol determines how a network is trained and sampled. Together with the data, the network and the seed
it determines every result.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

import registry
from bench.data import datasets
from bench.diffusion import canonical, objectives, sampler
from bench.metrics.scores import MEASURED, SCORES, select
from bench.records.quantities import HELD_OUT
from bench.records.schema import Finite, HeldOutSettings, Model, SamplingSettings, TrainingSettings
from bench.utils import toml
from registry.errors import UsageError, suggest
from registry.values import join_options, split_options


class Training(TrainingSettings):
    """Settings of the training, and those that change no result.

    Attributes:
        log_every: number of steps between two lines of the log; the training loss of a record is the mean
            over the last of them.
        checkpoint_every: number of steps between two checkpoints.
        keep: number of checkpoints kept, the newest; 0 keeps all.
        processes: number of processes that train and sample a cell of a study together, each with its own GPU
            if there are any. Gradients are summed in another order than in one process, so results differ by
            rounding; with dropout or batch norm by more, as each process has its own masks and statistics.
    """

    log_every: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(ge=1)
    keep: int = Field(default=2, ge=0)
    processes: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _equal_parts(self) -> Self:
        if self.batch_size % self.processes:
            raise ValueError(
                f"a batch of {self.batch_size} cannot be cut into {self.processes} equal parts: choose "
                "another number of processes"
            )
        return self


class Evaluation(Model):
    """How a trained network is scored.

    Attributes:
        samples: whether images are sampled and scored.
        held_out: how the held-out loss is measured; None: it is not.
        reference: file that samples are compared with, such as the ADM suite's .npz; a relative path starts
            at the protocol's folder. None: the dataset itself.
        extractor: extractor for scores that name none; default: `digits` for the dataset `digits`, else
            `inception`.
        scores: names or wildcards of the scores to compute, such as `fid` and `fd_dinov2`; default: those
            marked as recorded. No part of a request: scores can be added to records later.
        judged_by: names of the quantities by which the rows of a study are ordered; the first one ranks them.
            Default: FID and `held_out`, as far as they are measured. No part of a record.
    """

    samples: bool = True
    held_out: HeldOutSettings | None = None
    reference: str | None = None
    extractor: str | None = None
    scores: tuple[str, ...] = ()
    judged_by: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.samples and self.held_out is None:
            raise ValueError("samples = false leaves nothing to measure: add [evaluation.held_out]")
        return self

    @field_validator("scores")
    @classmethod
    def _known(cls, scores: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(score.name for score in select(scores)) if scores else ()

    @model_validator(mode="after")
    def _judged_by_measured(self) -> Self:
        for name in self.judged_by:
            if name not in self.measured:
                raise ValueError(
                    f"judged_by has {name!r}, which is not measured.{suggest(name, self.measured)} It takes "
                    f"any of {', '.join(self.measured)}"
                )
        return self

    @property
    def scored_by(self) -> list[str]:
        """Names of the scores that samples get."""
        return [
            name for name, score in SCORES.items() if (name in self.scores if self.scores else score.recorded)
        ]

    @property
    def measured(self) -> list[str]:
        """Names of the quantities that its records hold."""
        missing = set(SCORES) - set(self.scored_by if self.samples else ())
        missing |= set(() if self.held_out else HELD_OUT)
        return [name for name in MEASURED if name not in missing]

    @property
    def judges(self) -> tuple[str, ...]:
        """Names of the quantities that order rows, the first of which ranks them."""
        return self.judged_by or tuple(name for name in ("fid", "held_out") if name in self.measured)


class Protocol(Model):
    """A protocol: how networks are trained, sampled and scored.

    Attributes:
        name: name of the file, without its ending.
        title: description, as reports print it.
        data: name of the dataset.
        data_options: options of the dataset that determine results, such as `split`. A command cannot change
            them.
        training: the table `[training]`.
        sampling: the table `[sampling]`.
        evaluation: the table `[evaluation]`.
        scale: overrides of networks by wildcard of backbone names, for runs that cannot afford the published
            sizes. All patterns that match apply; later ones take precedence.
        learning_rates: learning rates by wildcard of backbone names, in place of the one in `training`; the
            last match applies.
    """

    name: str
    title: str
    data: str
    data_options: dict[str, Any] = Field(default={})
    training: Training
    sampling: SamplingSettings
    evaluation: Evaluation = Evaluation()
    scale: dict[str, dict[str, Any]] = Field(default={})
    learning_rates: dict[str, Annotated[Finite, Field(gt=0)]] = Field(default={})

    @field_validator("scale")
    @classmethod
    def _plain(cls, scale: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for pattern, overrides in scale.items():
            for option, value in overrides.items():
                if not toml.is_plain(value):
                    raise ValueError(f"{pattern}: {option} = {value} is no number, text, true, false or list")
        return scale

    @property
    def extractor(self) -> str:
        """The feature extractor of the scores that name none."""
        return self.evaluation.extractor or ("digits" if self.data == "digits" else "inception")

    @property
    def extractors(self) -> list[str]:
        """All feature extractors that images are scored with."""
        return list(
            dict.fromkeys(SCORES[name].extractor or self.extractor for name in self.evaluation.scored_by)
        )

    def dataset_options(self, given: Mapping[str, Any], data: str | None = None) -> dict[str, Any]:
        """Options of the dataset: the protocol's, and those that are given besides, such as where files lie.

        Args:
            data: the dataset where it is not the protocol's; it gets what is given alone.

        Raises:
            UsageError: an option is given that the protocol has fixed to something else.
        """
        if data is not None and datasets.find(data).name != datasets.find(self.data).name:
            return dict(given)
        for option in self.data_options.keys() & given.keys():
            if given[option] != self.data_options[option]:
                raise UsageError(
                    f"protocol {self.name} takes {self.data} with {option} = {self.data_options[option]}, "
                    f"not {given[option]}: leave the option out, or write a protocol of your own"
                )
        return self.data_options | dict(given)

    def training_of(self, model: str) -> TrainingSettings:
        """What makes the numbers of a backbone: with its objective and rate, without what changes none.

        Raises:
            UsageError: see `objective_of`.
        """
        table = self.training.model_dump(
            exclude=set(Training.model_fields) - set(TrainingSettings.model_fields)
        )
        name, options = split_options(self.training.objective or "")
        table["objective"] = canonical(objectives, join_options(objective_of(model, name or None), options))
        for pattern, rate in self.learning_rates.items():
            if fnmatch(model, pattern):
                table["learning_rate"] = rate
        return TrainingSettings(**table)

    def overrides(self, model: str) -> dict[str, Any]:
        """What the protocol changes about a backbone, by its registered name."""
        merged: dict[str, Any] = {}
        for pattern, values in self.scale.items():
            if fnmatch(model, pattern):
                merged |= values
        return merged


def names() -> list[str]:
    """Built-in protocols, from the smallest."""
    return list(_names())


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(toml.built_in(__name__), key=lambda name: load(name).training.steps))


def parse(table: dict[str, Any]) -> Protocol:
    """A protocol from a table, as TOML has it, with its `name`.

    Raises:
        UsageError: a key or value that is not right, named.
    """
    return toml.validated(Protocol, table)


def objective_of(model: str, wanted: str | None = None) -> str:
    """The objective that a backbone is trained by: the one asked for, else its natural one.

    Raises:
        UsageError: unknown names.
    """
    name = registry.backbones.find(model).name
    declared: str = registry.declared(name, "objective")
    return declared if wanted is None else objectives.find(wanted).name


def load(name: str | Path, beside: Path | None = None) -> Protocol:
    """A protocol by its built-in name or by the path of a TOML file.

    Args:
        beside: a folder where a relative path, or the name of a file without its ending, is looked for too;
            that of a study that names the protocol.

    Raises:
        UsageError: no such protocol, no valid TOML, a key or value that is not right, or a wildcard that
            fits no backbone, named.
    """
    path = _found(name, beside)
    table = toml.read("protocol", __name__, path)
    try:
        protocol = parse({"name": Path(name).stem, **table})
        if Path(path).suffix != ".toml":  # the checks need torch, and a built-in one has no mistake
            return protocol
        objectives.check(*split_options(protocol.training.objective or "ddpm"))
        sampler(protocol.sampling.sampler).evaluations(protocol.sampling.steps)
        _require_backbones("scale", protocol.scale)
        _require_backbones("learning_rates", protocol.learning_rates)
    except UsageError as error:
        raise UsageError(f"protocol {path}: {error}") from None
    reference = protocol.evaluation.reference
    if reference is None:
        return protocol
    inside = str(Path(path).parent / Path(reference).expanduser())
    return protocol.model_copy(
        update={"evaluation": protocol.evaluation.model_copy(update={"reference": inside})}
    )


def _require_backbones(table: str, patterns: Mapping[str, Any]) -> None:
    """Refuse a wildcard that matches no backbone: a typo would leave the network unchanged without an
    error."""
    known = registry.names()
    for pattern in patterns:
        own = ":" in pattern  # a network by the place of its code, which is registered when it is named
        if not own and not any(fnmatch(name, pattern) for name in known):
            raise UsageError(
                f"[{table}] {pattern} fits no backbone: `bench list` shows their names, --plugin adds yours."
                f"{suggest(pattern.rstrip('*'), known)}"
            )


def changed(settings: SamplingSettings, values: dict[str, Any]) -> SamplingSettings:
    """Settings with some values in the place of theirs.

    Raises:
        UsageError: a value that is not right.
    """
    return toml.validated(SamplingSettings, settings.model_dump() | values)


def _found(name: str | Path, beside: Path | None) -> str | Path:
    """The file of that name beside something, where there is one; else the name as it is."""
    if beside is None or Path(name).is_absolute():
        return name
    path = beside / (name if Path(name).suffix == ".toml" else f"{name}.toml")
    return path if path.is_file() else name
