"""Measures one cell: train, sample, score, record. It can be killed at any time and resumes.

    WORK/<model>-<seed>-<hash>/              a training run, shared by cells that train alike
        held-out/<step>-<images>-<their digest>.json   held-out loss at a checkpoint
        images-<hash>.npz, .grid.png         of one cell; the images are deleted once they are scored
    WORK/references/<data>-….npz             features of the images trained on, to compare with

Who calls holds the lock of the run's folder (`bench.studies.worker`): no second process is there.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from operator import mul
from pathlib import Path
from typing import Any

import registry
from bench import cost, records, sampling, studies
from bench import data as datasets
from bench.data.export import export
from bench.metrics.evaluation import Comparison, compare
from bench.metrics.extractors import extractors
from bench.metrics.features import make_file
from bench.metrics.held_out import held_out_loss
from bench.metrics.scores import SCORES
from bench.records.schema import (
    Context,
    Cost,
    CostRequest,
    Fingerprints,
    HeldOutLoss,
    Network,
    Quality,
    Rates,
    Seconds,
)
from bench.studies import StudyRow, processes
from bench.studies.cells import cost_request
from bench.studies.jobs import Job, Task
from bench.studies.published import field
from bench.studies.staleness import fingerprints
from bench.training.loop import versions
from bench.training.run import Run
from bench.training.trained import open_run
from bench.utils import distributed, locks
from bench.utils.files import delete_folder, write_text, write_whole
from bench.utils.precision import tf32
from bench.utils.progress import Progress, silent
from registry.errors import UsageError, reason


def measure_cost(job: Job) -> None:
    """Measure what a backbone costs and write the record."""
    request = job.request
    made = cost.measure(request.model, **request.config)
    records.write(made, job.results, fingerprints=fingerprints(request))


def count_costs(rows: Iterable[StudyRow], progress: Progress = silent) -> dict[str, Cost]:
    """The cost of rows that have a backbone by label, each network counted once; see `bench.cost.measure`."""
    known: dict[str, Cost] = {}
    found = {}
    rows = list(rows)
    for i, row in enumerate(rows):
        request = cost_request(row)
        if request is None:
            continue
        if request.file not in known:
            progress(row.label, i, len(rows))
            known[request.file] = cost.measure(request.model, **request.config)
        found[row.label] = known[request.file]
    return found


def record_costs(results: Path, progress: Progress = silent) -> None:
    """Count each network of the built-in studies and of the published rows of the field, and record its cost.

    Raises:
        UsageError: the folder cannot be written to.
    """
    rows = [row for name in studies.names() for row in studies.load(name).rows]
    requests = {request.file: (row.label, request) for row in rows if (request := cost_request(row))}
    for name in dict.fromkeys(row.backbone for row in field.rows() if row.backbone):
        request = CostRequest(model=name, config=registry.canonical(name, {}))
        requests.setdefault(request.file, (name, request))
    for i, (label, request) in enumerate(requests.values()):
        progress(label, i, len(requests))
        measure_cost(Job(title=label, request=request, results=results))


def measure_quality(task: Task, plugins: Sequence[str] = ()) -> None:
    """Measure a cell and write its record, unless another process has just done so.

    Args:
        task: the cell, and the places of all that is written.
        plugins: files and modules that each of several processes imports.

    Raises:
        UsageError: why the cell fails.
        Stopped: a signal arrived; training resumes from its checkpoint.
    """
    run = task.run
    if not task.done:
        if task.fresh:
            delete_folder(run)
        measurement = _Measurement(task, plugins)
        measurement.add() if task.add else measurement.measure()
    for left in run.glob(".bench-*"):  # of processes that were killed while writing
        shutil.rmtree(left, ignore_errors=True)
    for old in Run(run).checkpoints()[:-1] if task.last else []:
        shutil.rmtree(old, ignore_errors=True)


class _Measurement:
    """A cell while it is measured; see `measure_quality` for the arguments."""

    def __init__(self, task: Task, plugins: Sequence[str]) -> None:
        self.task, self.plugins = task, plugins
        self.request, self.run, self.protocol = task.request, task.run, task.protocol
        self.device = distributed.device()
        self.options = self.protocol.dataset_options(task.data_options)
        self.features = self.run / "features"
        self.images = self.run / f"images-{Path(self.request.file).stem[-12:]}.npz"

    def measure(self) -> None:
        """Train, sample, score, and write the record."""
        dataset = datasets.load(self.request.data, **self.options)
        if self.foreign(dataset):
            print(f"{self.run}: code or data have changed: training anew", file=sys.stderr)
            delete_folder(self.run)
        per_second, found, began = None, None, time.perf_counter()
        if not self.images.exists():  # else killed while it was scored
            self.train()
            per_second = self.sample() if self.request.sampling else None
        if self.request.sampling:
            began = time.perf_counter()
            found = self.score(dataset)
        scored = time.perf_counter() - began if found else 0.0
        held_out = self.held_out()
        log = self.log()
        network = Run(self.run).manifest.request.build()  # as it was trained, at the protocol's size
        counted = cost.measure(network)
        result = Quality(
            request=self.request,
            scores=found.scores if found else {},
            loss=log[-1]["loss"],
            sample_count=found.sample_count if found else None,
            reference_count=found.reference_count if found else None,
            held_out=held_out,
            network=Network(**{key: getattr(counted, key) for key in Network.model_fields}),
            seconds=Seconds(
                train=_seconds(log, self.request.training.batch_size),
                sample=found.sample_count / per_second if found and per_second else None,
                eval=scored + sum(loss.eval_seconds for loss in held_out),
            ),
            images_per_second=Rates(
                train=statistics.median(entry["images_per_second"] for entry in log), sample=per_second
            ),
        )
        if found:
            keep_samples(
                self.images.with_name(f"{self.images.stem}.grid.png"),
                sampling.columns(network.num_classes),
                self.task.record,
            )
        records.write(
            result,
            self.task.results,
            context=Context(
                protocol=self.protocol.name,
                flipped=Run(self.run).manifest.request.training.flip if self.request.training.flip else None,
                processes=self.protocol.training.processes if self.protocol.training.processes > 1 else None,
                left_out=getattr(dataset, "left_out", None) or None,
            ),
            fingerprints=self.fingerprints(dataset, found),
            device=self.device,
        )
        if found:
            self.tidy()

    def fingerprints(self, dataset: datasets.Dataset, found: Comparison | None) -> Fingerprints:
        """Of all that made the numbers."""
        scores = self.protocol.evaluation.scored_by
        made = fingerprints(self.request, self.task.data_options, scores)
        weights = dict(found.extractors) if found else {}
        own = weights.pop(self.request.extractor or "", None)
        named = {f"weights {name}": digest for name, digest in weights.items() if digest}
        digests = {
            "data": dataset.digest,
            "held_out_data": self.held_out_images.digest if self.request.held_out else None,
            "extractor": own,
        }
        return made.model_copy(update={**digests, "versions": made.versions | named})

    def add(self) -> None:
        """Add scores to the record, of the samples, or of those that the checkpoint makes again.

        Raises:
            UsageError: neither is there, or code or data are others than those of the record.
        """
        dataset = datasets.load(self.request.data, **self.options)
        if self.foreign(dataset):
            raise UsageError(f"{self.run} is of other code or data: measure the row again to score it")
        if not self.images.exists():
            Run(self.run).checkpoint(self.request.step)  # which tells where there is none
            self.sample()
        found = self.score(dataset)
        record = records.read_file(self.task.record)
        assert isinstance(record.result, Quality)
        scores = {**record.result.scores, **found.scores}
        ordered = {name: scores[name] for name in (*SCORES, *scores) if name in scores}
        kinds = ("score", "extractor", "weights")
        versions = {
            name: version
            for name, version in self.fingerprints(dataset, found).versions.items()
            if name.split()[0] in kinds
        }
        added = record.model_copy(
            update={
                "result": record.result.model_copy(update={"scores": ordered}),
                "fingerprints": record.fingerprints.model_copy(
                    update={"versions": {**versions, **record.fingerprints.versions}}
                ),
            }
        )
        write_text(self.task.record, records.dumps(added))
        self.tidy()

    def tidy(self) -> None:
        """Remove the images and their features, which the record now stands for."""
        self.images.unlink()
        shutil.rmtree(self.features, ignore_errors=True)

    def score(self, dataset: datasets.Dataset) -> Comparison:
        """Scores of the images."""
        references = (
            [self.task.reference]
            if self.task.reference
            else [self.reference(dataset, extractor) for extractor in self.protocol.extractors]
        )
        found = compare(
            self.images,
            references,
            scores=self.protocol.evaluation.scored_by,
            extractor=self.request.extractor,
            device=self.device,
            cache=self.features,
        )
        assert found is not None, "one process measures a cell"
        return found

    def foreign(self, dataset: datasets.Dataset) -> bool:
        """Whether the folder holds a run of other code, or on other data."""
        if not (self.run / "run.json").exists():
            return False
        begun = Run(self.run).manifest.request
        now = (
            registry.backbones.fingerprint(self.request.model),
            versions(self.request.training.objective or ""),
            dataset.digest,
        )
        return (begun.fingerprint, begun.versions, begun.data_digest) != now

    def train(self) -> None:
        """Train to the step that is requested, by way of the checkpoints whose held-out loss is wanted.

        A later call may train further.
        """
        step = self.request.step
        saved = [int(path.name) for path in Run(self.run).checkpoints()]
        wanted = [each for each in self.legs if not self.held_out_file(each).exists()]
        wanted += [step] * (step not in wanted)
        # One that is kept no longer is trained again; it comes out the same.
        if saved and saved[-1] > wanted[0] and wanted[0] not in saved:
            delete_folder(self.run)
            wanted = [*self.legs, *[step] * (step not in self.legs)]
        for leg in wanted:
            self.train_until(leg)
            if leg in self.legs:
                self.measure_held_out(leg)

    @property
    def legs(self) -> list[int]:
        """Steps at which the held-out loss is measured."""
        if self.request.held_out is None:
            return []
        every = range(0, self.request.step, self.protocol.training.checkpoint_every)
        return [*every[1:], self.request.step]

    def train_until(self, step: int) -> None:
        """Train to a checkpoint, unless it is there."""
        if step in [int(path.name) for path in Run(self.run).checkpoints()]:
            return
        processes.call("train", self.task, plugins=self.plugins, step=step)

    def held_out_file(self, step: int) -> Path:
        """Where the held-out loss at a checkpoint is kept."""
        assert self.request.held_out is not None
        name = f"{step:08d}-{self.request.held_out.images}-{self.held_out_images.digest}.json"
        return self.run / "held-out" / name

    @cached_property
    def held_out_images(self) -> datasets.Dataset:
        """The images that are not trained on."""
        return datasets.held_out(self.request.data, **self.options)

    def measure_held_out(self, step: int) -> None:
        """Measure the averaged weights of a checkpoint on images that were not trained on."""
        if self.held_out_file(step).exists():
            return
        assert self.request.held_out is not None
        source = open_run(Run(self.run).checkpoint(step))
        training = self.request.training
        log = self.log(step)
        before = max((leg for leg in self.legs if leg < step), default=0)
        with tf32(training.tf32, self.device):
            found = held_out_loss(
                source.network.to(self.device).deploy(),
                source.objective,
                self.held_out_images,
                self.request.held_out,
                step=step,
                training_error=_mean_error(log, before),
                seconds=_seconds(log, training.batch_size),
                precision=training.precision,
                device=self.device,
            )
        write_text(self.held_out_file(step), found.model_dump_json())

    def held_out(self) -> tuple[HeldOutLoss, ...]:
        """The held-out loss at each checkpoint.

        Raises:
            UsageError: a file is damaged.
        """
        found = []
        for step in self.legs:
            path = self.held_out_file(step)
            try:
                found.append(HeldOutLoss.model_validate_json(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise UsageError(f"{path} is damaged ({reason(error)}): delete it to measure again") from None
        return tuple(found)

    def sample(self) -> float | None:
        """Make the images; how many a second, None where all were there already."""
        settings = self.request.sampling
        assert settings is not None
        told: list[tuple[float, int]] = []  # when, and how many were there: processes take time to begin

        def progress(description: str, done: int, total: int) -> None:
            told.append((time.perf_counter(), done))

        processes.call("sample", self.task, plugins=self.plugins, progress=progress, images=str(self.images))
        (began, before), (ended, _) = told[0], told[-1]
        made = settings.num - before
        return made / (ended - began) if made else None

    def reference(self, dataset: datasets.Dataset, extractor: str) -> Path:
        """Features of the images trained on, made once for all cells."""
        folder = self.run.parent / "references"
        code = extractors.fingerprint(extractor)
        path = folder / f"{self.request.data}-{dataset.digest}-{extractor}-{code}.npz"
        with locks.held(path, seconds=-1):
            images = path.with_name(f"{path.stem}-images.npz")
            cache = folder / f"{path.stem}-features"
            if not path.exists():
                if not images.exists():
                    export(dataset, images)
                make = partial(make_file, images, extractor=extractor, device=self.device, cache=cache)
                write_whole(path, make)
            images.unlink(missing_ok=True)
            shutil.rmtree(cache, ignore_errors=True)
        return path

    def log(self, step: int | None = None) -> list[dict[str, Any]]:
        """Lines of the run's log up to a step, by default the requested one."""
        lines = (self.run / "log.jsonl").read_text(encoding="utf-8").splitlines()
        last = step or self.request.step
        entries = {entry["step"]: entry for entry in map(json.loads, lines)}
        found = [entry for _, entry in sorted(entries.items()) if entry["step"] <= last]
        if not found:
            raise UsageError(f"{self.run} has lost its log: delete the folder to train again")
        return found


def keep_samples(grid: Path, columns: int, record: Path) -> None:
    """Put the first two lines of a grid of samples beside a record, for reports, each at most 64 pixels.

    Args:
        grid: the picture that `bench.sampling` makes.
        columns: images in a line of it.
        record: the picture has its name, ending in .png.
    """
    from PIL import Image

    with Image.open(grid) as sheet:
        side = sheet.width // columns
        lines = sheet.crop((0, 0, sheet.width, min(2 * side, sheet.height))).reduce(max(1, side // 64))
    write_whole(record.with_suffix(".png"), lambda made: lines.save(made, optimize=True))


def _seconds(log: list[dict[str, Any]], batch_size: int) -> float:
    """Time of the training steps of a log, checkpoints left out."""
    steps = [entry["step"] for entry in log]
    return sum(
        (step - before) * batch_size / entry["images_per_second"]
        for step, before, entry in zip(steps, [0, *steps], log, strict=False)
    )


def _mean_error(log: list[dict[str, Any]], before: int) -> float:
    """Mean squared error over the steps of a log after `before`; each entry is a mean since the last."""
    steps = [0, *(entry["step"] for entry in log)]
    weights = [max(0, step - max(last, before)) for last, step in itertools.pairwise(steps)]
    errors = [entry.get("mse", entry["loss"]) for entry in log]
    return float(f"{sum(map(mul, weights, errors)) / sum(weights):.9g}")
