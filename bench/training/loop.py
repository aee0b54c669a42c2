"""Training a backbone under a protocol: one process or many, killed at any moment and resumed.

Order of the data, flips, times, noise and dropped labels of step s are functions of the seed and s
(`bench.utils.randomness`), so a checkpoint holds no random state, a resumed run equals one never stopped, and
several processes see together what one process would see alone.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import registry
from bench import data as datasets
from bench.data import Dataset
from bench.diffusion import objective
from bench.sampling import Plan, write_picture
from bench.training.protocols import Protocol, Training
from bench.training.run import Checkpoint, Run, build, load
from bench.utils import distributed, randomness
from registry.errors import UsageError, reason
from registry.layers.embeddings import LabelDropout

# What may differ between a run and its continuation: it changes no step that both take.
FREE = tuple(
    f"protocol.{key}"
    for key in ("name", "title", "data", "scale", "sampling", "evaluation", "training.steps",
                "training.log_every", "training.checkpoint_every", "training.keep")
)  # fmt: skip
# A quick look at what has been learned, by the objective.
PICTURE = {"ddpm": ("ddim", "ddim25"), "flow": ("heun", "12")}


@dataclass(frozen=True)
class Progress:
    """What a run tells while it goes on.

    Attributes:
        step, steps: done, and all.
        loss: mean since the last time, nan before the first.
        images_per_second: over the same steps, checkpoints left out.
        doing: what else is under way, such as writing a checkpoint.
    """

    step: int
    steps: int
    loss: float = math.nan
    images_per_second: float = math.nan
    doing: str = "training"


@dataclass(frozen=True)
class Trained:
    """How a run ended.

    Attributes:
        folder: the run's.
        step: steps done; fewer than the protocol's when it was interrupted.
        taken: those of them that this call took.
        interrupted: whether a signal ended it, with a checkpoint written.
        loss: mean of the last steps logged.
        images_per_second: median over what was logged since it began or resumed.
    """

    folder: Path
    step: int
    taken: int
    interrupted: bool
    loss: float
    images_per_second: float


def train(
    model: str,
    protocol: Protocol,
    out: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    data: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
    accumulation: int = 1,
    compiled: bool = False,
    tracker: str | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train a backbone as the protocol says; see `bench.training.run` for what comes to lie in `out`.

    Args:
        model: registered name.
        overrides: of the network, over those of the protocol's `scale`.
        data: dataset, by default the protocol's; `data_options` are its own.
        resume: go on from the newest checkpoint in `out`, if there is one.
        accumulation: parts into which the batch of each process is cut, for memory.
        compiled: run what torch.compile makes of the network.
        tracker: an experiment tracker that accelerate knows, such as `tensorboard`.

    Raises:
        UsageError: anything that does not fit, before the first step; afterwards a loss that is not
            finite, or a checkpoint that cannot be written. The last good checkpoint stays.
    """
    model = registry.backbones.find(model).name
    how = protocol.training
    dataset = datasets.load(data or protocol.data, **(data_options or {}))
    dataset.check()
    if how.flip and not dataset.flippable:
        raise UsageError(
            f"the protocol mirrors images, which {dataset.name} does not allow: set flip = false"
        )
    if how.batch_size > len(dataset):
        raise UsageError(
            f"a batch of {how.batch_size} is more than the {len(dataset)} images of {dataset.name}: choose a "
            "smaller batch_size"
        )
    parts = distributed.count() * accumulation
    if how.batch_size % parts:
        raise UsageError(f"a batch of {how.batch_size} cannot be cut into {parts} equal parts")
    asked = {
        "model": model,
        "overrides": protocol.overrides(model) | dict(overrides or {}),
        "data": dataset.name,
        "data_options": dict(data_options or {}),
        "data_digest": dataset.digest,
        "shape": list(dataset.shape),
        "num_classes": dataset.num_classes,
        "protocol": protocol.model_dump(),
        "seed": seed,
    }
    torch.manual_seed(seed)
    network = build(asked)
    run = Run(out)
    begin_or_continue(run, asked, resume)
    return _Trainer(run, network, dataset, protocol, seed, accumulation, compiled, tracker, asked).run_all(
        progress
    )


def begin_or_continue(run: Run, asked: dict[str, Any], resume: bool) -> None:
    """Make the run's folder, or make sure that what lies there is the same run.

    Raises:
        UsageError: the folder holds a run and `resume` is not set, or it is another run's.
    """
    begun = (run.folder / "run.json").exists()
    distributed.wait()  # every process has looked before one of them writes
    if begun and not resume:
        raise UsageError(
            f"{run.folder} already holds a run: continue it with --resume, or choose another folder"
        )
    if begun:
        before, now = (dict(_leaves(what)) for what in (run.asked, asked))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key) and not key.startswith(FREE):
                raise UsageError(
                    f"the run in {run.folder} was begun with {key} = {before.get(key)!r}, not "
                    f"{now.get(key)!r}: choose another folder"
                )
    if distributed.is_main():
        run.begin(asked)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested tables; `data_options` are left out, since files may move."""
    for key, inner in value.items():
        where = f"{path}.{key}" if path else key
        if isinstance(inner, dict):
            if where != "data_options":
                yield from _leaves(inner, where)
        else:
            yield where, list(inner) if isinstance(inner, tuple) else inner


class _Trainer:
    """The state of a run while it goes on."""

    def __init__(
        self,
        run: Run,
        network: Any,
        dataset: Dataset,
        protocol: Protocol,
        seed: int,
        accumulation: int,
        compiled: bool,
        tracker: str | None,
        asked: dict[str, Any],
    ) -> None:
        from accelerate import Accelerator

        self.run, self.dataset, self.protocol, self.seed = run, dataset, protocol, seed
        self.how, self.accumulation, self.tracker = protocol.training, accumulation, tracker
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="bf16" if self.how.precision == "bf16" else "no",
            log_with=tracker,
            project_dir=run.folder,
        )
        self.device = self.accelerator.device
        self.network = network.to(self.device).train()
        # Labels are dropped here instead, by place, so that every number of processes drops the same.
        dropouts = [part for part in network.modules() if isinstance(part, LabelDropout)]
        self.dropout = max((part.dropout for part in dropouts), default=0.0)
        for part in dropouts:
            part.eval()
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.how.learning_rate, weight_decay=self.how.weight_decay, fused=True
        )
        self.ema = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.objective = objective(self.how.objective)
        self.step = 0
        if run.checkpoints():
            self._restore(load(run.checkpoint()))
        if distributed.is_main():
            run.rewind_log(self.step)
        # Pairs of averages and weights; integer buffers are no averages.
        weights = network.state_dict()
        moving = [name for name, value in weights.items() if value.is_floating_point()]
        self.averaged = [self.ema[name] for name in moving], [weights[name] for name in moving]
        if compiled:
            network.compile()
        self.called = self.accelerator.prepare(network)  # wrapped for several processes and autocast
        if tracker is not None:
            self._start_tracker(asked)

    def _start_tracker(self, asked: dict[str, Any]) -> None:
        try:
            self.accelerator.init_trackers("denoiser-bench", {k: str(v) for k, v in _leaves(asked)})
        except Exception as error:
            raise UsageError(f"tracker {self.tracker} cannot be started: {reason(error)}") from error

    # ---- the loop ----

    def run_all(self, progress: Callable[[Progress], None]) -> Trained:
        """Take the steps that are left."""
        how, steps = self.how, self.how.steps
        batches = iter(self._batches())
        recent: list[dict[str, Tensor]] = []  # not looked at yet: a look would stop a GPU at each step
        loss, rates, since = math.nan, [], time.perf_counter()
        began = self.step
        progress(Progress(began, steps))
        with _signals() as told:
            while self.step < steps:
                recent.append(self._step(batches))
                self.step += 1
                due = self.step % how.checkpoint_every == 0 or self.step == steps
                if not due and self.step % how.log_every:
                    continue
                seconds = time.perf_counter() - since
                stop = self._anyone(bool(told))
                entry = self._entry(recent, seconds)
                loss, rate = entry["loss"], entry["images_per_second"]
                rates.append(rate)
                recent = []
                progress(Progress(self.step, steps, loss, rate))
                if due or stop:
                    progress(Progress(self.step, steps, loss, rate, "writing a checkpoint"))
                    self._save()
                if stop:
                    break
                since = time.perf_counter()
        if self.tracker is not None:
            self.accelerator.end_training()
        rate = float(np.median(rates)) if rates else math.nan
        taken = self.step - began
        return Trained(self.run.folder, self.step, taken, self.step < steps, loss, rate)

    def _step(self, batches: Iterator[tuple[Tensor, Tensor] | UsageError]) -> dict[str, Tensor]:
        """Forward, backward and update: terms of the loss (means over this process's part), gradient norm."""
        how = self.how
        torch.manual_seed(zlib.crc32(f"{self.seed} {self.step} {distributed.index()}".encode()))
        terms: dict[str, Tensor] = {}
        for part in range(self.accumulation):
            last = part == self.accumulation - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.called):
                read = next(batches)
                if isinstance(read, UsageError):
                    raise read
                losses = self._losses(*read, part)
                self.accelerator.backward(losses["loss"] / self.accumulation)
            for name, value in losses.items():
                terms[name] = terms.get(name, 0) + value.detach() / self.accumulation
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        terms["gradient_norm"] = torch.nn.utils.get_total_norm(gradients)
        # Clipping what is small enough would be a pass over memory; to look first would stop a GPU.
        if how.clip is not None and (self.device.type != "cpu" or terms["gradient_norm"] > how.clip):
            torch.nn.utils.clip_grads_with_norm_(self.parameters, how.clip, terms["gradient_norm"])
        for group in self.optimizer.param_groups:
            group["lr"] = how.learning_rate * min(1.0, (self.step + 1) / (how.warmup + 1))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._average()
        return terms

    def _losses(self, x0: Tensor, y: Tensor, part: int) -> dict[str, Tensor]:
        """Mean loss terms of one part of the batch."""
        places = torch.from_numpy(self._places(part)).to(self.device)
        x0, y = x0.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
        drawn = randomness.uniform(self.seed, "time", places, 2, self.step)
        noise = randomness.normal(self.seed, "training noise", places, tuple(x0.shape[1:]), self.step)
        t = self.objective.sample_timesteps(drawn[:, 0])
        y = torch.where(drawn[:, 1] < self.dropout, self.dataset.num_classes, y)
        x_t = self.objective.add_noise(x0, noise, t)
        try:
            output = self.called(x_t, t, y)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise UsageError(f"{self.network.name} cannot be compiled: {reason(error)}") from error
        losses = self.objective.losses(output.float(), x0, noise, x_t, t)
        return {name: value.mean() for name, value in losses.items()}

    def _average(self) -> None:
        """Move the averaged weights towards the weights."""
        torch._foreach_lerp_(*self.averaged, 1 - self.how.ema_decay)

    # ---- data ----

    def _places(self, part: int) -> np.ndarray:
        """Which samples of the whole batch are this process's, in one part of it."""
        size = self.how.batch_size // (distributed.count() * self.accumulation)
        first = (part * distributed.count() + distributed.index()) * size
        return np.arange(first, first + size)

    def _batches(self) -> Any:
        """What is left of this process's batches, part by part, in order: grids and labels."""
        first, end = self.step * self.accumulation, self.how.steps * self.accumulation
        reader = _Reader(self.dataset, self.how, self.seed, self.accumulation, self._places)
        return torch.utils.data.DataLoader(
            reader,
            sampler=range(first, end),
            batch_size=None,
            num_workers=self.dataset.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.dataset.workers > 0,
        )

    # ---- what is kept ----

    def _entry(self, recent: list[dict[str, Tensor]], seconds: float) -> dict[str, Any]:
        """Means over recent steps and all processes, logged.

        Raises:
            UsageError: a loss was not finite.
        """
        names = list(recent[0])
        table = torch.stack([torch.stack([terms[name].float() for name in names]) for terms in recent])
        table = self.accelerator.reduce(table, "mean").cpu()  # (steps, terms)
        wrong = (~table[:, names.index("loss")].isfinite()).nonzero()
        if len(wrong):
            step = self.step - len(recent) + int(wrong[0])
            saved = [int(path.name) for path in self.run.checkpoints()]
            kept = (
                f"the last good checkpoint is that of step {saved[-1]}"
                if saved
                else "no checkpoint was written"
            )
            raise UsageError(f"the loss is not finite at step {step} of {self.run.folder}: {kept}")
        entry: dict[str, Any] = {"step": self.step, **dict(zip(names, table.mean(0).tolist(), strict=True))}
        entry["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        entry["images_per_second"] = len(recent) * self.how.batch_size / seconds
        if distributed.is_main():
            self.run.log(entry)
        if self.tracker is not None:
            self.accelerator.log(entry, step=self.step)
        return entry

    def _save(self) -> None:
        """Write a checkpoint and a picture of what the averaged weights make."""
        if distributed.is_main():
            state = self.optimizer.state_dict()["state"]
            tensors = {f"{i}.{key}": value for i, of in state.items() for key, value in of.items()}
            weights = {k: v.detach() for k, v in self.network.state_dict().items()}
            self.run.save(Checkpoint(self.step, weights, self.ema, tensors), self.how.keep)
            self._picture()
        distributed.wait()

    def _picture(self) -> None:
        """Write samples from the averaged weights: the same noise each time, classes side by side."""
        classes = self.dataset.num_classes
        columns = min(classes or 8, 10)
        sampler, steps = PICTURE[self.how.objective]
        plan = Plan(
            self.how.objective, sampler, steps, labels="balanced", classes=tuple(range(min(classes, columns)))
        )
        averaged = copy.deepcopy(self.network)
        averaged.load_state_dict(self.ema)
        grids = plan.grids(averaged.deploy(), torch.arange(4 * columns, device=self.device))
        try:
            images = self.dataset.to_images(grids)
        except UsageError:  # latents without their decoder can be trained on all the same
            return
        write_picture(self.run.folder / "samples" / f"{self.step:08d}.png", images, columns)

    def _restore(self, checkpoint: Checkpoint) -> None:
        try:
            self.network.load_state_dict(checkpoint.model)
            for name, value in checkpoint.ema.items():
                self.ema[name].copy_(value)
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in checkpoint.optimizer.items():
                i, key = name.split(".")
                state.setdefault(int(i), {})[key] = value
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        except (RuntimeError, KeyError, ValueError) as error:
            raise UsageError(
                f"the checkpoint in {self.run.folder} is not of this network: {reason(error)}"
            ) from error
        self.step = checkpoint.step

    def _anyone(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        if distributed.count() == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)


class _Reader(torch.utils.data.Dataset):
    """Parts of batches by their number, counted over the whole run; read by worker processes."""

    def __init__(
        self,
        dataset: Dataset,
        how: Training,
        seed: int,
        accumulation: int,
        places: Callable[[int], np.ndarray],
    ) -> None:
        self.dataset, self.how, self.seed = dataset, how, seed
        self.places = [places(part) for part in range(accumulation)]
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor] | UsageError:
        step, part = divmod(number, len(self.places))
        # What does not fill a batch at the end of an epoch is left out.
        epoch, of_epoch = divmod(step, len(self.dataset) // self.how.batch_size)
        if epoch != self._epoch:
            order = randomness.permutation(self.seed, "order", len(self.dataset), epoch)
            self._epoch, self._order = epoch, order
        places = self.places[part]
        indices = self._order[of_epoch * self.how.batch_size + places]
        flip = None
        if self.how.flip:
            flip = (
                randomness.uniform(self.seed, "flip", torch.from_numpy(places), 1, step)[:, 0].numpy() < 0.5
            )
        try:
            return self.dataset.grids(indices, flip), self.dataset.labels(indices)
        except UsageError as error:
            return error  # raised in a worker process it would arrive as a traceback


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM put themselves into once; the second time they end the process."""
    told: list[int] = []
    before: dict[int, Any] = {}

    def tell(number: int, _frame: Any) -> None:
        told.append(number)
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, tell)
    except ValueError:  # not the main thread: whoever runs it there stops it there
        pass
    try:
        yield told
    finally:
        for told_by, handler in before.items():
            signal.signal(told_by, handler)
