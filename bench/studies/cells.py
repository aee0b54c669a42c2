"""Cells: a study's rows under a protocol, once for each seed, and the requests that their records answer.

Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import registry
from bench import data, records
from bench.data import digests
from bench.diffusion import canonical, samplers
from bench.metrics.scores import SCORES
from bench.records.schema import (
    CostRequest,
    Quality,
    QualityRequest,
    Record,
)
from bench.studies import Study, StudyRow
from bench.training import protocols
from bench.training.protocols import Protocol
from registry.errors import UsageError

Records = Mapping[str, Record]  # by file
FROM_DATA = ("input_size", "in_channels", "num_classes")  # options of a network that its data decide


@dataclass(frozen=True)
class Cell:
    """One row under one protocol with one seed.

    Attributes:
        row: of the study.
        protocol: with what the row changes about it.
        seed: of training and of sampling.
        reference: digest of the file that samples are compared with; None: the dataset trained on.
    """

    row: StudyRow
    protocol: Protocol
    seed: int
    reference: str | None = None

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.row.label}, seed {self.seed}"

    @property
    def model(self) -> str:
        """The registered backbone; a row without one has no cells."""
        assert self.row.model is not None
        return self.row.model

    @property
    def step(self) -> int:
        """The step of the training run whose averaged weights are measured."""
        return self.row.step or self.protocol.training.steps

    @property
    def overrides(self) -> dict[str, Any]:
        """Of the network: the row's own over those of the protocol's scale."""
        own = (self.row.scale or {}).get(self.protocol.name, {})
        return self.protocol.overrides(self.model) | self.row.overrides | own

    @cached_property
    def request(self) -> QualityRequest:
        """What its record answers."""
        config = registry.canonical(self.model, self.overrides)
        settings = self.protocol.sampling
        images: dict[str, Any] = {
            "sampling": settings.model_copy(update={"sampler": canonical(samplers, settings.sampler)}),
            "extractor": self.protocol.extractor,
            "reference": self.reference,
        }
        return QualityRequest(
            model=self.model,
            config={option: value for option, value in config.items() if option not in FROM_DATA},
            data=data.datasets.find(self.protocol.data).name,
            data_options=self.protocol.data_options,
            training=self.protocol.training_of(self.model),
            step=self.step,
            seed=self.seed,
            held_out=self.protocol.evaluation.held_out,
            **(images if self.protocol.evaluation.samples else {}),
        )

    @property
    def file(self) -> str:
        """Name of its record."""
        return self.request.file

    @cached_property
    def run(self) -> str:
        """Name of the folder of its training run: cells that differ in nothing that trains share it."""
        request = self.request
        deciding = {
            **request.model_dump(mode="json", include={"model", "config", "data", "data_options", "seed"}),
            "training": request.training.trajectory(),
        }
        text = json.dumps(deciding, sort_keys=True, separators=(",", ":"))
        return f"{self.model}-{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def cells(study: Study, protocol: Protocol, seeds: Sequence[int], reference: str | None = None) -> list[Cell]:
    """All cells of a study under a protocol, seed by seed, so that an interrupted study has all rows.

    Rows that are not for this protocol have none.

    Args:
        study, protocol, seeds: what is measured.
        reference: digest of the file that samples are compared with; see `reference_digest`.

    Raises:
        UsageError: a row changes something of the protocol that is not there, or to a value that is not
            right.
    """
    changed = [(row, _changed(row, protocol)) for row in study.rows if row.measured_under(protocol.name)]
    return [Cell(row, own, seed, reference) for seed in seeds for row, own in changed]


def measured(records: Iterable[Record]) -> dict[str | None, set[tuple[int, str | None]]]:
    """Protocols under which quality was measured -> (seed, reference) of their records."""
    found: dict[str | None, set[tuple[int, str | None]]] = {}
    for record in records:
        if isinstance(request := record.request, QualityRequest):
            found.setdefault(record.context.protocol, set()).add((request.seed, request.reference))
    return found


def measured_cells(
    study: Study, measured: Mapping[str | None, set[tuple[int, str | None]]]
) -> Iterator[Cell]:
    """Cells of a study that records may answer; see `measured` and `known_protocols`.

    The file of a protocol of the study's own may have had another name when its records were made.
    """
    own = {Path(name).stem for name in (study.protocol, *study.protocols)}
    every = set[tuple[int, str | None]]().union(*measured.values())
    for protocol in known_protocols(study).values():
        if tried := every if protocol.name in own else measured.get(protocol.name):
            seeds = sorted({seed for seed, _ in tried})
            for reference in sorted({reference for _, reference in tried}, key=str):
                yield from cells(study, protocol, seeds, reference)


def known_protocols(study: Study) -> dict[str, Protocol]:
    """By name, the protocols that a study names, and the built-in ones of other names.

    Raises:
        UsageError: there is no such protocol, or two of the study's have one name, which records would share.
    """
    own: dict[str, Protocol] = {}
    for name in dict.fromkeys((study.protocol, *study.protocols)):
        protocol = protocols.load(name, study.folder)
        if own.setdefault(protocol.name, protocol) != protocol:
            raise UsageError(f"{study.name} names two protocols {protocol.name!r}: rename the file of one")
    return {name: protocols.load(name, study.folder) for name in protocols.names()} | own


def reference_digest(path: Path) -> str:
    """12 hexadecimal digits of a reference file's content; cheap on a second look.

    Raises:
        UsageError: no such file.
    """
    if not path.is_file():
        raise UsageError(f"no reference file {path}: it is an .npz such as the ADM suite's")
    return digests.files_digest(path.parent, [os.fsencode(path.name)])[:12]


def cost_request(row: StudyRow) -> CostRequest | None:
    """What the record of a row's cost at its published size answers; None of a row without a backbone."""
    if row.model is None:
        return None
    return CostRequest(model=row.model, config=registry.canonical(row.model, row.overrides))


def known(results: Path, files: Iterable[str] | None = None) -> dict[str, Record]:
    """Records in a folder, by file name; none where there is no folder.

    Args:
        results: the folder.
        files: names of those that are wanted; by default all.

    Warns:
        UserWarning: names each damaged record; it is left out.

    Raises:
        NewerRecordError: one that is wanted is of a newer version of this program, and not to be replaced.
    """
    if files is None:
        return {record.file: record for record in (records.read(results) if results.is_dir() else [])}
    found = {}
    for file in files:
        try:
            if (results / file).exists():
                found[file] = records.read_file(results / file)
        except records.NewerRecordError:
            raise
        except UsageError as error:
            warnings.warn(f"skipped {error}", stacklevel=2)
    return found


def _changed(row: StudyRow, protocol: Protocol) -> Protocol:
    """The protocol with what a row changes about it."""
    table = protocol.model_dump()
    table["training"] |= row.training or {}
    if "learning_rate" in (row.training or {}):
        table["learning_rates"] = {}  # the row's stands above those of the backbones
    table["sampling"] |= row.sampling or {}
    if row.cfg_scale is not None:
        table["sampling"]["cfg_scale"] = row.cfg_scale
    try:
        changed = protocols.parse(table)
        assert row.model is not None
        changed.training_of(row.model)  # with an objective that the backbone can have
    except UsageError as error:
        raise UsageError(f"row {row.label!r}: {error}") from None
    return changed


# ---- what is left to measure, and how long it takes ----


def has_scores(record: Record, study: Study, protocol: Protocol) -> bool:
    """Whether a record of quality tells the scores of a protocol that it names or that a study shows.

    Older records may not. Scores that the protocol does not compute are in none.
    """
    if not isinstance(record.result, Quality) or record.result.request.sampling is None:
        return True
    evaluation = protocol.evaluation
    wanted = {*evaluation.scores, *(set(study.columns) & set(evaluation.scored_by))}
    return wanted <= record.result.scores.keys()


def keeping_scores(cell: Cell, record: Record | None) -> Cell:
    """The cell with the scores that its record has from another protocol, so that none is lost."""
    known = record.result.scores if record and isinstance(record.result, Quality) else {}
    wanted = cell.protocol.evaluation.scored_by
    kept = [name for name in known if name in SCORES and name not in wanted]
    if not kept:
        return cell
    evaluation = cell.protocol.evaluation.model_copy(update={"scores": (*wanted, *kept)})
    return replace(cell, protocol=cell.protocol.model_copy(update={"evaluation": evaluation}))


def missing(cells: Iterable[Cell], known: Records) -> list[Cell]:
    """The cells that have no record; of those with one request the first."""
    found = {cell.file: cell for cell in reversed(list(cells)) if cell.file not in known}
    return list(reversed(found.values()))


def missing_costs(study: Study, known: Records) -> dict[str, CostRequest]:
    """Requests for the cost of a study's backbones that have no record, by label."""
    found: dict[str, tuple[str, CostRequest]] = {}
    for row in study.rows:
        if (request := cost_request(row)) and request.file not in known:
            found.setdefault(request.file, (row.label, request))
    return dict(found.values())


def by_run(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells in their order, but those of one training run together, the earliest checkpoint first."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.run, []).append(cell)
    return [sorted(group, key=lambda cell: cell.step) for group in groups.values()]


def shard(cells: Sequence[Cell], part: int, parts: int) -> list[Cell]:
    """The cells that are one machine's of several, which need not know of each other.

    Training runs are dealt out in the order of their hash, each whole. Records have no part in it, so that it
    is the same whenever a machine begins.

    Args:
        cells: all of them, the same on every machine.
        part: the machine's number, from 1.
        parts: how many there are.
    """
    runs = sorted({cell.run for cell in cells}, key=lambda run: (run.rpartition("-")[2], run))
    own = set(runs[part - 1 :: parts])
    return [cell for cell in cells if cell.run in own]


def expected_seconds(
    cells: Iterable[Cell], known: Records, macs: Callable[[Cell], int | None] = lambda cell: None
) -> dict[str, float | None]:
    """How long each cell is likely to take, by file, from records of like cells; None where there are none.

    A record of the same network counts alone; else the mean over those of other networks under the same
    protocol, in proportion to their multiply-accumulates. Cells that share a training run pay for the steps
    since the cell before.

    Args:
        cells: to be measured.
        known: records.
        macs: of a cell's network, asked for where only records of other networks are known; where it is
            None, these count as they are.
    """
    groups: dict[str, list[Quality]] = {}
    for record in known.values():
        if isinstance(record.result, Quality):
            for key in _alike(record.result.request):
                groups.setdefault(key, []).append(record.result)
    expected: dict[str, float | None] = {}
    counted: dict[str, int | None] = {}  # by network
    for group in by_run(cells):
        trained = 0
        for cell in group:
            same, other = _alike(cell.request)
            size = None
            if same not in groups and other in groups:
                if same not in counted:
                    counted[same] = macs(cell)
                size = counted[same]
            found = groups.get(same) or groups.get(other, [])
            times = [_seconds(result, cell.step - trained, size) for result in found]
            trained = cell.step
            expected[cell.file] = mean(times) if times else None
    return expected


def _seconds(result: Quality, steps: int, macs: int | None) -> float:
    """What a cell of so many steps takes, by the record of another; `macs`: of a network that is not its."""
    spent = result.seconds
    of_network = spent.train / result.request.step * steps + (spent.sample or 0)
    return of_network * (macs / result.network.macs if macs else 1) + spent.eval


def _alike(request: QualityRequest) -> Iterator[str]:
    """Keys of measurements that take about as long, the closest first."""
    table = request.model_dump(mode="json")
    del table["training"]["objective"]
    if table["sampling"]:
        del table["sampling"]["cfg_scale"]
    protocol = [
        table[key] for key in ("training", "sampling", "held_out", "data", "data_options", "extractor")
    ]
    for key in ([request.model, request.config, protocol], protocol):
        yield json.dumps(key, sort_keys=True)
