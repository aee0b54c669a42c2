"""Joins a study and a folder of records into lines: a row with its published figures and its records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import registry
from bench import records
from bench.records.quantities import Quantity
from bench.records.schema import (
    Config,
    Cost,
    Environment,
    Network,
    Quality,
    Record,
    Speed,
    SpeedRequest,
    TrainingSettings,
)
from bench.reports.statistics import Summary, summary
from bench.studies import Study, StudyRow
from bench.studies.cells import Cell, cost_request, measured, measured_cells
from bench.studies.staleness import outdated
from bench.training.protocols import Protocol


class Setting(NamedTuple):
    """How quality was measured. Scores of different settings are not comparable and never share a column."""

    protocol: str
    words: str  # the protocol's title
    extractor: str | None  # None, as everything about samples, if only the held-out loss is measured
    weights: str | None  # digest of the extractor's weights
    data: str | None  # digest of the data
    sample_count: int | None
    reference_count: int | None  # None for a file of statistics
    reference: str | None  # digest of the file; None: the dataset trained on
    sampler: str | None  # with its number of steps
    cfg_scale: float | None
    guided_channels: int | None
    guidance_interval: tuple[float, float] | None
    encoder_every: int  # evaluations that share one run of an encoder
    labels: str | None
    held_out: int | None  # number of held-out images
    log_snr: tuple[float | None, float | None]  # limits of the held-out loss, if the β schedule sets any
    ema: str  # decay or width of the average of the weights
    judges: tuple[str, ...]  # quantities that order rows; the first ranks them

    @property
    def levels(self) -> str:
        """The noise levels of the held-out loss in words, if the β schedule limits them; else empty."""
        bounds = zip(("above", "below"), self.log_snr, strict=True)
        words = [f"{word} {bound:.2f}".replace("-", "−") for word, bound in bounds if bound is not None]
        return f"ln SNR {' and '.join(words)}" if words else ""

    def distinctions(self, others: Sequence[Setting]) -> list[str]:
        """What distinguishes this setting from others of its protocol and extractor, in words."""
        interval = self.guidance_interval
        channels = {None: "guided channels as declared", 0: "all channels guided"}
        words = {
            "weights": f"weights {self.weights}",
            "data": f"data {self.data}",
            "sample_count": f"{self.sample_count or 0:,} samples",
            "sampler": self.sampler,
            "cfg_scale": "no guidance" if self.cfg_scale in (None, 1) else f"guidance {self.cfg_scale:g}",
            "guided_channels": channels.get(self.guided_channels, f"{self.guided_channels} channels guided"),
            "guidance_interval": "guided from {:g} to {:g}".format(*interval) if interval else "",
            "encoder_every": ""
            if self.encoder_every == 1
            else f"encoder every {self.encoder_every} evaluations",
            "labels": f"{self.labels} labels",
            "held_out": f"{self.held_out} held-out images" if self.held_out else "",
            "log_snr": self.levels,
            "reference": f"reference {self.reference}" if self.reference else "",
            "ema": f"EMA {self.ema}",
        }
        like = [o for o in others if (o.protocol, o.extractor) == (self.protocol, self.extractor)]
        return [text for name, text in words.items() if text and len({getattr(o, name) for o in like}) > 1]

    @classmethod
    def of(cls, record: Record, protocol: Protocol) -> Setting:
        """The setting of a record of quality."""
        result = record.result
        assert isinstance(result, Quality)
        request = result.request
        images = request.sampling
        return cls(
            protocol.name,
            protocol.title,
            request.extractor,
            record.fingerprints.extractor,
            record.fingerprints.data,
            result.sample_count,
            result.reference_count,
            request.reference,
            f"{images.sampler}, {images.steps} steps" if images else None,
            images.cfg_scale if images else None,
            images.guided_channels if images else None,
            images.guidance_interval if images else None,
            (images and images.encoder_every) or 1,
            images.labels if images else None,
            request.held_out.images if request.held_out else None,
            result.held_out[-1].log_snr if result.held_out else (None, None),
            _ema(request.training),
            protocol.evaluation.judges,
        )


def _ema(settings: TrainingSettings) -> str:
    if settings.ema_width is not None:
        return f"width {settings.ema_width:g}"
    return f"{settings.ema_decay:g}"


class Measured(NamedTuple):
    """A cost and the environment in which it was counted."""

    cost: Cost
    environment: Environment


@dataclass(frozen=True)
class Line:
    """A row of a study with its records.

    Attributes:
        row: the row.
        cost: its cost; None without a record.
        quality: records by setting, one for each seed.
        outdated: why some of the records are stale; see `bench.studies.staleness`.
    """

    row: StudyRow
    cost: Measured | None
    quality: dict[Setting, list[Record]]
    outdated: tuple[str, ...] = ()

    @property
    def variant(self) -> str:
        """Identifies its network; empty for a row without one."""
        if self.row.model is None:
            return ""
        return _variant(self.row.model, registry.canonical(self.row.model, self.row.overrides))

    def results(self, setting: Setting) -> dict[int, Quality]:
        """Results in a setting, by seed."""
        found = [record.result for record in self.quality.get(setting, [])]
        return {result.request.seed: result for result in found if isinstance(result, Quality)}

    def by_seed(self, setting: Setting, score: str) -> dict[int, float]:
        """Finite values of a score in a setting, by seed."""
        values = {seed: result.value(score) for seed, result in self.results(setting).items()}
        return {seed: value for seed, value in values.items() if value is not None and math.isfinite(value)}

    def better_is_lower(self, setting: Setting, quantity: Quantity) -> dict[int, float]:
        """`by_seed` of a quantity, negated if higher is better."""
        sign = -1 if quantity.higher_is_better else 1
        return {seed: sign * value for seed, value in self.by_seed(setting, quantity.name).items()}

    def files(self, setting: Setting) -> tuple[str, ...]:
        """Files of the records in a setting."""
        return tuple(record.file for record in self.quality.get(setting, []))

    def score(self, setting: Setting, score: str) -> Summary | None:
        """Mean and deviation of a score over the seeds in a setting; None without values."""
        return summary([*self.by_seed(setting, score).values()])

    def trained(self, setting: Setting) -> Network | None:
        """The cost of the network at the size that the setting's protocol trains."""
        return next((result.network for result in self.results(setting).values()), None)

    def trained_gflops(self, setting: Setting) -> float | None:
        """GFLOPs of `trained`."""
        network = self.trained(setting)
        return network.paper_gflops if network else None


@dataclass(frozen=True)
class SpeedColumn:
    """Images per second of networks, all measured in the same setting on the same device.

    Attributes:
        words: mode, number format, batch and device, in words.
        figures: variant -> images per second.
        quartiles: variant -> quartiles over the rounds.
        records: variant -> the record.
    """

    words: str
    figures: dict[str, float] = field(default_factory=dict)
    quartiles: dict[str, tuple[float, float]] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)


class Selection:
    """The records of a folder, selected as reports need them.

    Args:
        folder: folder of records.
        data_options: options of the dataset, if known.
        found: the records, if they are read already.

    Raises:
        UsageError: there is no such folder.

    Warns:
        UserWarning: names each damaged record, which is left out.
    """

    def __init__(
        self,
        folder: Path,
        data_options: Mapping[str, Any] | None = None,
        found: Iterable[Record] | None = None,
    ) -> None:
        self.folder, self.data_options = folder, data_options
        self.records = records.read(folder) if found is None else list(found)
        self._by_file = {record.file: record for record in self.records}
        self.measured = measured(self.records)

    def cost(self, row: StudyRow) -> Measured | None:
        """The cost of a row's backbone at its published size."""
        record = self.cost_record(row)
        if record is None or not isinstance(record.result, Cost):
            return None
        return Measured(record.result, record.environment)

    def quality(self, cells: Iterable[Cell]) -> dict[str, dict[Setting, list[Record]]]:
        """Records of cells by row and setting, in the order of the cells."""
        found: dict[str, dict[Setting, list[Record]]] = {}
        for cell in cells:
            record = self._by_file.get(cell.file)
            if record and isinstance(record.result, Quality):
                setting = Setting.of(record, cell.protocol)
                found.setdefault(cell.row.label, {}).setdefault(setting, []).append(record)
        return found

    def cost_record(self, row: StudyRow) -> Record | None:
        """The record of a row's cost, if there is one."""
        request = cost_request(row)
        return self._by_file.get(request.file) if request else None

    def outdated(self, found: Sequence[Record]) -> tuple[str, ...]:
        """Why some of these records are stale."""
        reasons = (outdated(record, self.data_options) for record in found)
        return tuple(dict.fromkeys(filter(None, reasons)))

    @cached_property
    def speeds(self) -> list[SpeedColumn]:
        """Columns of speed, one for each setting; of several records of a network the newest."""
        found: dict[str, SpeedColumn] = {}
        for record in sorted(self.records, key=lambda each: each.environment.date):
            if isinstance(request := record.request, SpeedRequest):
                result = record.result
                assert isinstance(result, Speed)
                words, variant = speed_words(record), _variant(request.model, request.config)
                column = found.setdefault(words, SpeedColumn(words))
                column.figures[variant] = result.images_per_second
                column.quartiles[variant] = result.quartiles
                column.records[variant] = record
        return [found[words] for words in sorted(found)]


def lines(
    study: Study,
    selection: Selection | None,
    costs: Mapping[str, Measured] | None = None,
    cells: Iterable[Cell] | None = None,
) -> list[Line]:
    """The rows of a study with their records.

    Args:
        study: see `bench.studies`.
        selection: the records; None: none.
        costs: costs by the label of the row, in place of the records'.
        cells: the cells whose scores are wanted; default: all with records.
    """
    if selection is None:
        return [Line(row, costs.get(row.label) if costs else None, {}) for row in study.rows]
    quality = selection.quality(measured_cells(study, selection.measured) if cells is None else cells)
    made = []
    for row in study.rows:
        found = quality.get(row.label, {})
        shown = [record for records in found.values() for record in records]
        if costs is None and (record := selection.cost_record(row)):
            shown.append(record)
        cost = selection.cost(row) if costs is None else costs.get(row.label)
        made.append(Line(row, cost, found, selection.outdated(shown)))
    return made


def once(rows: Iterable[Line], setting: Setting) -> list[Line]:
    """Rows with records in a setting, one for each set of records: one with a published figure, if any.

    A network that is tested against itself has no residual of its own.
    """
    found: dict[tuple[str, ...], Line] = {}
    for line in rows:
        if files := line.files(setting):
            first = found.setdefault(files, line)
            found[files] = line if line.row.published and not first.row.published else first
    return [*found.values()]


def settings(rows: Sequence[Line]) -> list[Setting]:
    """All settings in which the quality of at least one row was measured."""
    return sorted({setting for line in rows for setting in line.quality}, key=str)


def published_conditions(rows: Sequence[Line]) -> list[str]:
    """The conditions of each row's published scores, in words, as far as the rows differ in them.

    Conditions are objective and guidance. Scores under different conditions never share a column. Empty if
    all rows have the same, and for rows without published scores.
    """
    found = [line.row.published.conditions if line.row.published else () for line in rows]
    differ = [len(set(words)) > 1 for words in zip(*filter(None, found), strict=True)]
    return [", ".join(compress(words, differ)) for words in found]


def speed_words(record: Record) -> str:
    """How a speed was measured, in words: mode, number format, batch, device."""
    result, environment = record.result, record.environment
    assert isinstance(result, Speed)
    request = result.request
    size = request.config.get("input_size", "?")
    height, width = size if isinstance(size, list) else (size, size)
    words = [request.mode, request.dtype, f"batch {result.batch_size} at {height}×{width}"]
    words += ["compiled"] * (result.compiled == "yes") + ["channels last"] * request.channels_last
    words.append(request.device_name)
    if request.device_name == environment.cpu:
        words.append(f"{environment.threads} threads")
    return ", ".join(words)


def _variant(model: str, config: Config) -> str:
    return json.dumps([model, config], sort_keys=True)
