"""What would go wrong in a study, found before anything runs; needs the backbones' code and the dataset."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

import registry
from bench import cost, sampling
from bench import data as datasets
from bench.data import Dataset
from bench.metrics.extractors import create
from bench.metrics.features import check_fits
from bench.metrics.held_out import check_images
from bench.metrics.images import FeatureSet, open_set, size_text
from bench.metrics.scores import SCORES
from bench.studies import Study
from bench.studies.cells import Cell
from bench.training.protocols import Protocol
from bench.training.run import build, check_trainable, objective_with
from registry.errors import UsageError


class Checker:
    """Looks at the cells of a plan before they run. Their protocols have one dataset, which is loaded once.

    Args:
        data_options: of the dataset, beside those of the protocols.
    """

    def __init__(self, data_options: Mapping[str, Any]) -> None:
        self._options = data_options
        self._found: Dataset | None = None

    def check(self, study: Study, cells: Collection[Cell], reference: Path | None = None) -> None:
        """See that each row's network can be built and each cell be measured, to its last score.

        Args:
            study: whose rows are looked at.
            cells: to be measured.
            reference: file that samples are compared with; None: the dataset trained on.

        Raises:
            UsageError: an override that a backbone does not take; a dataset that is not to be had or smaller
                than the protocol's batch or than the images it measures a held-out loss on; a network that
                does not fit the dataset; a sampler that does not fit the objective; guidance that the
                network cannot have; a decoder or an extractor whose weights are not to be had; a reference
                that does not fit the samples. Where it is a row's, that is named.
            CodeError: a network that cannot be trained.
        """
        for row in study.rows:
            if row.model is None:
                continue
            try:
                registry.backbones.check(row.model, row.overrides)
            except UsageError as error:
                raise UsageError(f"row {row.label!r}: {error}") from None
        if not cells:
            return
        protocol = next(iter(cells)).protocol  # rows change training and sampling alone
        if (settings := protocol.evaluation.held_out) is not None:
            held_out = datasets.held_out(protocol.data, **protocol.dataset_options(self._options))
            check_images(held_out, settings)
        if protocol.evaluation.samples:
            for extractor in dict.fromkeys(name for cell in cells for name in cell.protocol.extractors):
                _check_scores(self._dataset(protocol), extractor, reference)
        rows: dict[str, Cell] = {}
        for cell in cells:
            rows.setdefault(cell.row.label, cell)
        for label, cell in rows.items():
            try:
                _check(cell, self._dataset(protocol))
            except UsageError as error:
                raise UsageError(f"row {label!r}: {error}") from None

    def macs(self, cell: Cell) -> int | None:
        """Multiply-accumulates of a cell's network on its grids; None where it cannot be traced."""
        try:
            return cost.measure(_network(cell, self._dataset(cell.protocol))).macs
        except Exception:  # whatever a network raises where its values are not known
            return None

    def _dataset(self, protocol: Protocol) -> Dataset:
        if self._found is None:
            self._found = datasets.load(protocol.data, **protocol.dataset_options(self._options))
        return self._found


def _check_number(protocol: Protocol) -> None:
    """See that each score gets as many samples as it needs."""
    num = protocol.sampling.num
    for name in protocol.evaluation.scored_by:
        if num < (least := SCORES[name].least):
            raise UsageError(
                f"protocol {protocol.name} samples {num}, but {name} needs {least}: raise num in [sampling], "
                f"or leave {name} out of scores in [evaluation]"
            )


def _check_scores(dataset: Dataset, extractor: str, reference: Path | None) -> None:
    """See that samples can be decoded, and compared by an extractor with a file."""
    image, made = dataset.to_images(torch.zeros(1, *dataset.shape)), create(extractor)
    if reference is None:
        return
    others = open_set(reference)
    if isinstance(others, FeatureSet):
        check_fits(others, made.name, made.digest, made.outputs)
    if others.size and others.size != image.shape[1:3]:
        raise UsageError(
            f"{reference} holds images of {size_text(others.size)}, but samples of {dataset.name} are of "
            f"{size_text(image.shape[1:3])}: scores compare images of one size"
        )


def _check(cell: Cell, dataset: Dataset) -> None:
    training, images = cell.protocol.training_of(cell.model), cell.protocol.sampling
    if cell.step > training.steps:
        raise UsageError(f"step = {cell.step}, but {cell.protocol.name} trains {training.steps} steps")
    if training.batch_size > len(dataset):
        raise UsageError(
            f"protocol {cell.protocol.name} takes batches of {training.batch_size}, but {dataset.name} has "
            f"{len(dataset)} images: choose a protocol with a smaller batch_size"
        )
    network = _network(cell, dataset)
    if cell.protocol.evaluation.samples:
        _check_number(cell.protocol)
        sampling.Plan(objective_with(training), images).check(network)
    check_trainable(network)


def _network(cell: Cell, dataset: Dataset) -> Any:
    """The network of a cell for the grids of its data; without weights where it can be built so."""
    network = (cell.model, cell.overrides, dataset.shape, dataset.num_classes, dataset.name)
    try:
        with torch.device("meta"):
            return build(*network)
    except Exception:  # a constructor that looks at numbers; if it is something else, it is wrong again
        return build(*network)
