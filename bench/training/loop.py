"""Trains a backbone under a protocol, in one or several processes. It can be killed at any time and resumed.

The order of the data, flips, times, noise and dropped labels of step s depend only on the seed and s
(`bench.utils.randomness`). So a checkpoint holds no random state, a resumed run equals one that was never
stopped, and several processes see the same data as one.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import registry
from bench import data as datasets
from bench.data import Dataset
from bench.diffusion import objectives
from bench.diffusion.base import stratify
from bench.diffusion.translation import translated
from bench.records.schema import SamplingSettings
from bench.sampling.plan import Plan
from bench.sampling.sheets import write_sheet
from bench.training import protocols
from bench.training.batches import batches, grids_of, places
from bench.training.ema import PosthocAverages, power_decay
from bench.training.protocols import Protocol
from bench.training.run import (
    Checkpoint,
    Manifest,
    Run,
    RunRequest,
    build,
    check_trainable,
    fitted,
    load,
    objective_with,
    read,
)
from bench.training.schedule import learning_rate
from bench.training.step import Update
from bench.utils import distributed, randomness
from bench.utils.compilation import compile_network
from bench.utils.frames import Framed, Row
from bench.utils.precision import autocast, check_precision, deterministic, tf32
from bench.utils.process import threads
from bench.utils.progress import Progress, silent
from bench.utils.signals import caught_signals
from bench.utils.text import leaves
from registry import contract
from registry.backbone import check_output
from registry.errors import CodeError, UsageError, reason
from registry.layers.embeddings import LabelDropout
from registry.values import split_options

if TYPE_CHECKING:
    from accelerate import Accelerator

VERSION = 1  # raise it when the same request gives other weights; part of each record
Entry = dict[str, Any]  # a line of the log: step, means of the loss's terms, learning_rate, …


@dataclass(frozen=True)
class TrainingResult(Framed):
    """How a call of `train` ended.

    Attributes:
        folder: folder of the run.
        step: number of steps done; fewer than `end` if it was interrupted.
        end: number of steps requested.
        taken: number of steps that this call took.
        signal: number of the signal that interrupted it, after a checkpoint was written; 0: none.
        loss: mean over the last steps logged.
        images_per_second: median over the log since it began or resumed.
    """

    folder: Path
    step: int
    end: int
    taken: int
    signal: int
    loss: float
    images_per_second: float

    def rows(self) -> list[Row]:
        """One row."""
        return [
            {
                "Folder": str(self.folder),
                "Step": self.step,
                "Of": self.end,
                "Loss": self.loss,
                "Images/s": self.images_per_second,
            }
        ]

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it."""
        return self.signal != 0 and self.step < self.end


def train(
    model: str,
    protocol: Protocol,
    out: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    objective: str | None = None,
    data: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    until: int | None = None,
    resume: bool = False,
    locked: bool = False,
    accumulation: int = 1,
    compiled: bool = False,
    tracker: str | None = None,
    progress: Progress = silent,
    log: Callable[[Entry], None] = lambda _: None,
) -> TrainingResult:
    """Train a backbone under a protocol; see `bench.training.run` for the files in `out`.

    Args:
        model: registered name.
        protocol: see `bench.training.protocols`.
        out: folder of the run.
        overrides: options of the network; they take precedence over the protocol's `scale`.
        objective: objective in place of the protocol's, with or without options after the name.
        data, data_options: the dataset in place of the protocol's, and its options.
        seed: seed of the initial weights, the order of the data, and the noise.
        until: stop after this step, with a checkpoint; default: the protocol's last step.
        resume: resume from the newest checkpoint in `out`, if there is one.
        locked: whether the caller already holds the lock of `out`.
        accumulation: number of parts into which the batch of each process is split, to save memory.
        compiled: compile the network by torch.compile.
        tracker: an experiment tracker of accelerate, such as `tensorboard`.
        progress: see `bench.utils.progress`.
        log: called with each line of the log.

    Raises:
        UsageError: before the first step, any setting that does not fit; later, a loss that is not finite, or
            a checkpoint that cannot be written. The last good checkpoint stays.
        CodeError: the network's output is invalid, it cannot be trained or restored from its state dict, or
            training does not reach its null class.
    """
    model = registry.backbones.find(model).name
    if objective is not None:
        training = protocol.training.model_dump() | {"objective": objective}
        protocol = protocols.parse(protocol.model_dump() | {"training": training})
    settings = protocol.training_of(model)
    randomness.check_seed(seed)
    device = distributed.device()
    check_precision(settings.precision, device)
    objective_with(settings)  # raises for wrong options before anything is written
    options = protocol.dataset_options(data_options or {}, data)
    dataset = datasets.load(data or protocol.data, **options)
    dataset.check()
    # The record says what was done: some data are not mirrored, see `dataset.flip_note`.
    settings = settings.model_copy(update={"flip": settings.flip and dataset.flippable})
    if settings.batch_size > len(dataset):
        raise UsageError(
            f"a batch of {settings.batch_size} is more than the {len(dataset)} images of {dataset.name}: "
            "choose a smaller batch_size"
        )
    parts = distributed.count() * accumulation
    if settings.batch_size % parts:
        raise UsageError(f"a batch of {settings.batch_size} cannot be cut into {parts} equal parts")
    if until is not None and not 1 <= until <= settings.steps:
        raise UsageError(f"cannot train until step {until}: the protocol has {settings.steps} steps")
    changed = protocol.overrides(model) | dict(overrides or {})
    torch.manual_seed(seed)
    network = build(model, changed, dataset.shape, dataset.num_classes, dataset.name).to(device)
    check_trainable(network)
    if not registry.backbones.find(model).module.startswith("registry."):
        contract.check_before_training(network)
    request = RunRequest(
        model=model,
        config=registry.canonical(model, fitted(model, changed, dataset.shape, dataset.num_classes)),
        fingerprint=registry.backbones.fingerprint(model),
        plugins=_plugins(settings.objective or "", dataset.name),
        versions=versions(settings.objective or ""),
        data=dataset.name,
        data_digest=dataset.digest,
        shape=dataset.shape,
        num_classes=dataset.num_classes,
        training=settings,
        seed=seed,
    )
    manifest = Manifest(
        request=request, protocol=protocol, data_options=options, threads=torch.get_num_threads()
    )
    run = Run(out)
    with (
        contextlib.nullcontext() if locked else run.locked(),
        tf32(settings.tf32, device),
        deterministic(settings.deterministic),
        threads(begin_or_continue(run, manifest, resume)),
    ):
        trainer = Trainer(run, network, dataset, request, protocol, accumulation, compiled, tracker)
        return trainer.train(until or settings.steps, progress, log)


def versions(objective: str) -> dict[str, int]:
    """Versions of the code that determines the weights, besides the network; see `RunRequest`."""
    name, _ = split_options(objective)
    return {"trainer": VERSION, "objective": objectives.attribute(name, "version")}


def _plugins(objective: str, data: str) -> dict[str, str]:
    """Fingerprints of the code of objective and dataset, if they are not built in."""
    known = {"objective": (objectives, split_options(objective)[0]), "dataset": (datasets.datasets, data)}
    return {
        kind: plugins.fingerprint(name)
        for kind, (plugins, name) in known.items()
        if not plugins.find(name).module.startswith("bench.")
    }


def begin_or_continue(run: Run, manifest: Manifest, resume: bool) -> int | None:
    """Write the run's manifest, after checking that its folder is empty or holds the same run.

    Returns:
        The number of threads that the run was begun with; only with it the result is the same bit for bit.

    Raises:
        UsageError: the folder holds a run and `resume` is not set, or it is another run's.
    """
    begun = (run.folder / "run.json").exists()
    distributed.wait()  # every process has looked before one of them writes
    if begun and not resume:
        raise UsageError(
            f"{run.folder} already holds a run: add --resume to continue it, or choose another folder"
        )
    if begun:
        was, wanted = (_decisive(each.request) for each in (run.manifest, manifest))
        # In their order, but the code last: if the request differs, a difference of code is beside the point.
        for key in sorted(was | wanted, key=lambda key: key == "fingerprint" or key.startswith("plugins.")):
            if was.get(key) != wanted.get(key):
                difference = f"with {key} = {was.get(key)!r}, not {wanted.get(key)!r}"
                if key == "fingerprint" or key.startswith("plugins."):
                    whose = manifest.request.model if key == "fingerprint" else f"the {key[8:]}"
                    difference = f"with other code of {whose}, or of what it imports"
                raise UsageError(
                    f"the run in {run.folder} was started {difference}: choose another folder, or delete it"
                )
        manifest = manifest.model_copy(update={"threads": run.manifest.threads})
    if distributed.is_main():
        run.begin(manifest)
    return manifest.threads


def _decisive(request: RunRequest) -> dict[str, Any]:
    """The parts of a request that determine the weights at a step, by dotted keys."""
    return dict(leaves(request.model_dump(mode="json") | {"training": request.training.trajectory()}))


class Trainer:
    """A run in progress.

    Args:
        run: the run, whose folder exists; training continues from its newest checkpoint.
        network: the network, randomly initialised.
        request: request of the run; the protocol adds when to log and to save.
        accumulation, compiled, tracker: see `train`.
    """

    def __init__(
        self,
        run: Run,
        network: Any,
        dataset: Dataset,
        request: RunRequest,
        protocol: Protocol,
        accumulation: int = 1,
        compiled: bool = False,
        tracker: str | None = None,
    ) -> None:
        self.run, self.dataset, self.seed = run, dataset, request.seed
        self.settings, self.schedule = request.training, protocol.training
        self.accumulation, self.tracker, self.step = accumulation, tracker, 0
        self.previews = protocol.evaluation.samples
        self.accelerator = _accelerator(run.folder, tracker, request, network)
        self.device = self.accelerator.device
        self.network = network.to(self.device).train()
        # Labels are dropped here instead, by place, so that every number of processes drops the same.
        dropouts = [part for part in network.modules() if isinstance(part, LabelDropout)]
        self.dropout = max((part.dropout for part in dropouts), default=0.0)
        for part in dropouts:
            part.eval()
        self.objective = objective_with(self.settings)
        self.scaler = torch.amp.GradScaler("cuda") if self.settings.precision == "fp16" else None
        self.update = Update(
            network,
            learning_rate=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            betas=self.settings.betas,
            ema_decay=self.settings.ema_decay or 0.0,
            finite_gradients=self.settings.finite_gradients,
            clip=self.settings.clip,
            scaler=self.scaler,
        )
        self.posthoc = PosthocAverages(network, self.settings.posthoc_ema)
        if run.checkpoints():
            self._restore(run.checkpoint())
        if distributed.is_main():
            run.rewind_log(self.step)
        if compiled:
            compile_network(network)
        self.first_step = self.step
        self.called = self.accelerator.prepare(network)  # wrapped for several processes
        self.denoiser = translated(network, self.objective, self.called)
        self.batches = batches(dataset, self.settings, self.seed, accumulation, self.step)
        # The same at every step; copied to the device once, because a copy makes the CPU wait for the GPU.
        parts = (places(self.settings, accumulation, part) for part in range(accumulation))
        self.places = [torch.from_numpy(part).to(self.device) for part in parts]

    def train(self, end: int, progress: Progress, log: Callable[[Entry], None]) -> TrainingResult:
        """Take the steps until `end`."""
        rates, loss, received = [], math.nan, 0
        recent: list[dict[str, Tensor]] = []  # not read yet: reading makes the CPU wait for the GPU
        since = time.perf_counter()
        progress("training", self.first_step, end)
        with caught_signals() as signals:
            while self.step < end and not received:
                recent.append(self.take_step())
                self.step += 1
                due = self.step % self.schedule.checkpoint_every == 0 or self.step == end
                if not due and self.step % self.schedule.log_every:
                    continue
                entry = self._entry(recent, time.perf_counter() - since)
                recent = []
                loss = entry["loss"]
                rates.append(entry["images_per_second"])
                log(entry)
                progress("training", self.step, end)
                received = self._most(signals[0] if signals else 0)
                if due or received:
                    progress("writing a checkpoint", self.step, end)
                    self._save()
                since = time.perf_counter()
            received = self._most(signals[0] if signals else 0)  # or during the last checkpoint
        if self.tracker is not None:
            self.accelerator.end_training()
        rate = float(np.median(rates)) if rates else math.nan
        taken = self.step - self.first_step
        return TrainingResult(self.run.folder, self.step, end, taken, received, loss, rate)

    def take_step(self) -> dict[str, Tensor]:
        """Forward, backward and update: terms of the loss (means over this process's part), gradient norm."""
        torch.manual_seed(zlib.crc32(f"{self.seed} {self.step} {distributed.index()}".encode()))
        terms: dict[str, Tensor] = {}
        for part in range(self.accumulation):
            last = part == self.accumulation - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.called):
                losses = self._losses(*next(self.batches), part)
                loss = losses["loss"] / self.accumulation
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            for name, value in losses.items():
                terms[name] = terms.get(name, 0) + value.detach() / self.accumulation
        if self.settings.ema_width is not None:
            self.update.ema_decay = power_decay(self.settings.ema_width, self.step + 1)
        terms["gradient_norm"] = self.update.step(learning_rate(self.settings, self.step))
        self.posthoc.update(self.step + 1)
        return terms

    def _losses(self, x0: Tensor, y: Tensor, part: int) -> dict[str, Tensor]:
        """Mean loss terms of one part of the batch."""
        indices = self.places[part]
        x0, y = x0.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
        x0 = grids_of(self.dataset, x0, self.seed, indices, self.step)
        drawn = randomness.uniform(self.seed, "time", indices, 2, self.step)
        noise = randomness.normal(self.seed, "training noise", indices, tuple(x0.shape[1:]), self.step)
        u = drawn[:, 0]
        if self.objective.stratified:
            u = stratify(u, indices, self.settings.batch_size)
        t = self.objective.sample_timesteps(u)
        y = torch.where(drawn[:, 1] < self.dropout, self.dataset.num_classes, y)
        x_t = self.objective.add_noise(x0, noise, t)
        try:
            with autocast(self.settings.precision, self.device):
                output = self.denoiser(x_t, t, y)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise UsageError(f"{self.network.name} cannot be compiled: {reason(error)}") from error
        if self.step == self.first_step and part == 0:  # once: reading values waits for the GPU
            check_output(translated(self.network, self.objective), (x_t, t, y), output)
        losses = self.objective.training_losses(output, x0, noise, x_t, t)
        return {name: value.mean() for name, value in losses.items()}

    # ---- what is stored ----

    def _entry(self, recent: list[dict[str, Tensor]], seconds: float) -> Entry:
        """Means over recent steps and all processes, logged.

        In float16, `skipped` counts the steps whose gradients overflowed. They change no weights, do not
        count in the mean norm, and lower the scale of the loss.

        Raises:
            UsageError: a loss was not finite.
        """
        names = list(recent[0])
        table = torch.stack([torch.stack([terms[name].float() for name in names]) for terms in recent])
        # (steps, terms); in float64 a mean hardly depends on where an interruption has cut the log
        table = self.accelerator.reduce(table, "mean").cpu().double()
        wrong = (~table[:, names.index("loss")].isfinite()).nonzero()
        if len(wrong):
            step = self.step - len(recent) + int(wrong[0])
            saved = [int(path.name) for path in self.run.checkpoints()]
            last = (
                f"the last good checkpoint is that of step {saved[-1]}"
                if saved
                else "no checkpoint was written"
            )
            raise UsageError(f"the loss is not finite at step {step} of {self.run.folder}: {last}")
        means = dict(zip(names, table.mean(0).tolist(), strict=True))
        if self.scaler is not None:
            norms = table[:, names.index("gradient_norm")]
            taken = norms[norms.isfinite()]
            means |= {"gradient_norm": taken.mean().item(), "skipped": len(norms) - len(taken)}
            if not len(taken):
                del means["gradient_norm"]
        entry: Entry = {"step": self.step, **means}
        entry["learning_rate"] = learning_rate(self.settings, self.step - 1)
        entry["images_per_second"] = len(recent) * self.settings.batch_size / seconds
        if distributed.is_main():
            self.run.log(entry)
        if self.tracker is not None:
            self.accelerator.log(entry, step=self.step)
        return entry

    def _save(self) -> None:
        """Write a checkpoint, and if the protocol has samples, a sheet of samples of the averaged weights."""
        if distributed.is_main():
            weights = {k: v.detach() for k, v in self.network.state_dict().items()}
            scaler = self.scaler.state_dict() if self.scaler else {}
            checkpoint = Checkpoint(self.step, weights, self.update.ema, self.update.state(), scaler)
            self.run.save(checkpoint, self.schedule.keep, self.posthoc.averages)
            if self.previews:
                self._preview()
        distributed.wait()

    def _preview(self) -> None:
        """Write samples of the averaged weights: the same noise each time, classes side by side."""
        if self.objective.preview is None:
            return
        classes = self.dataset.num_classes
        columns = min(classes or 8, 10)
        sampler, steps = self.objective.preview
        settings = SamplingSettings(sampler=sampler, steps=steps, labels="balanced", num=4 * columns,
                                    tf32=self.settings.tf32)  # fmt: skip
        plan = Plan(self.objective, settings, classes=tuple(range(min(classes, columns))))
        averaged = copy.deepcopy(self.network)
        averaged.load_state_dict(self.update.ema)
        try:
            indices = torch.arange(settings.num, device=self.device)
            images = plan.images(averaged.deploy(), indices, self.dataset.to_images)
        except (UsageError, CodeError) as error:  # no decoder of latents, or samples that are not finite
            warnings.warn(f"no sheet of samples: {error}", stacklevel=2)
            return
        write_sheet(self.run.folder / "samples" / f"{self.step:08d}.png", images, columns)

    def _restore(self, folder: Path) -> None:
        checkpoint = load(folder)
        try:
            self.network.load_state_dict(checkpoint.model)
            self.update.load(checkpoint.optimizer, checkpoint.ema)
            if self.scaler is not None:
                self.scaler.load_state_dict(checkpoint.scaler)
            if self.posthoc.averages:
                self.posthoc.load(read(self.run.folder / "posthoc" / folder.name, self.posthoc.averages)[0])
        except (RuntimeError, LookupError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"the checkpoint {folder} is not of this network: {reason(error)}") from error
        self.step = checkpoint.step

    def _most(self, number: int) -> int:
        """The maximum of a number over all processes."""
        if distributed.count() == 1:
            return number
        return int(self.accelerator.gather(torch.tensor([number], device=self.device)).max())


def _accelerator(folder: Path, tracker: str | None, request: RunRequest, network: Any) -> Accelerator:
    """The object that wraps a network for several processes and writes to a tracker.

    Raises:
        UsageError: the tracker is not known or cannot be started.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # Precision is not left to it: its state is that of the process, and the first run's would stay.
    options: dict[str, Any] = {"cpu": not torch.cuda.is_available(), "mixed_precision": "no"}
    if distributed.count() > 1 and contract.has_unused_parameters(network):
        options["kwargs_handlers"] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    if tracker is None:
        return Accelerator(**options)
    try:
        accelerator = Accelerator(**options, log_with=tracker, project_dir=folder)
        config = {key: str(value) for key, value in leaves(request.model_dump(mode="json"))}
        accelerator.init_trackers("denoiser-bench", config)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"tracker {tracker} cannot be started: {reason(error)}") from error
    return accelerator
