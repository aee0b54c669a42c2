"""The functions of `import bench`: what the commands do, for notebooks and programs.

A network is a registered name, a name with overrides, or a module that fulfils the contract of
`registry.Backbone`. All functions raise `UsageError` for wrong input. An error in a user's own code
propagates unchanged.

In a notebook, results are shown as tables; `to_frame()` returns a DataFrame. Long calls show a progress bar
in a terminal and in a notebook; `progress=bench.silent` hides it. `device` defaults to a GPU if there is one,
else the CPU.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from bench.utils.text import texts

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from bench.metrics.evaluation import Comparison
    from bench.records.schema import Cost, Profile, Size, Speed
    from bench.studies import Study
    from bench.training.loop import TrainingResult
    from bench.training.protocols import Protocol
    from bench.utils.frames import Results
    from bench.utils.progress import Progress

    Network = str | tuple[str, Mapping[str, Any]] | nn.Module
    Images = str | Path | np.ndarray


def flops(network: str | nn.Module, /, *, input_size: Size | None = None, **overrides: Any) -> Cost:
    """What a network costs: parameters, multiply-accumulates, activation memory; see `bench.cost.measure`.

    Args:
        network: a registered name, or a module.
        input_size: side of the input grid or (H, W); by default the network's own.
        **overrides: options of a network given by name.

    Raises:
        UsageError: an unknown name or option, or a network that cannot be counted.

    Example:
        >>> bench.flops("udit-t", ffn="mlp").paper_gflops
        0.905...
    """
    from bench.cost import measure

    return measure(network, input_size=input_size, **overrides)


def throughput(
    networks: Network | Sequence[Network],
    *,
    repeats: int = 30,
    device: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Results[Speed]:
    """How fast networks run side by side; see `bench.speed.throughput`.

    Args:
        networks: one network, or several; all are compared with the first.
        repeats: number of rounds, at least 6; each round times every network.
        device, progress: see `bench.api`.
        **settings: fields of `bench.speed.throughput.Settings`: dtype, batch_size, mode, compile,
            channels_last, num_inference_steps.

    Returns:
        A list with a result for each network, in order. It is shown as one table.

    Example:
        >>> slow, fast = bench.throughput(["dit-s-4", "udit-t"], batch_size=1, repeats=6)
        >>> fast.ratio, fast.interval
        (1.9..., (1.8..., 2.0...))
    """
    from bench.speed.throughput import Settings, measure
    from bench.utils import distributed
    from bench.utils.bars import interactive
    from bench.utils.frames import Results

    chosen = cast("Sequence[Network]", [networks] if _is_one(networks) else networks)
    how = Settings(device=device or distributed.device(), **settings)
    with interactive(progress) as shown:
        return Results(measure(chosen, how, repeats=repeats, progress=shown))


def _is_one(networks: Network | Sequence[Network]) -> bool:
    """Whether this is one network (a name, a module, or a name with overrides), not a list of networks."""
    if isinstance(networks, tuple):
        return len(networks) == 2 and isinstance(networks[1], Mapping)
    return isinstance(networks, str) or not isinstance(networks, Sequence)


def profile(
    network: str | nn.Module,
    *,
    device: str | None = None,
    dtype: Any = "fp32",
    batch_size: int = 8,
    repeats: int = 10,
    trace: Path | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Profile:
    """Where the time of a forward pass goes, beside its multiply-accumulates; see `bench.speed.profile`.

    Args:
        network: a registered name, or a module.
        device, progress: see `bench.api`.
        dtype, batch_size, repeats, trace: see `bench.speed.profile.measure`.
        **overrides: options of a network given by name.

    Example:
        >>> bench.profile("tiny-unet", repeats=1).stages[0].name
        'time'
    """
    import registry
    from bench.speed.profile import measure
    from bench.utils import distributed
    from bench.utils.bars import interactive

    made = registry.create(network, **overrides) if isinstance(network, str) else network
    with interactive(progress) as shown:
        return measure(
            made,
            device=device or distributed.device(),
            dtype=dtype,
            batch_size=batch_size,
            repeats=repeats,
            trace=trace,
            progress=shown,
        )


def train(
    model: str, out: str | Path, protocol: str | Path | Protocol = "micro", **options: Any
) -> TrainingResult:
    """Train a registered backbone under a protocol; see `bench.training.loop.train`.

    Args:
        model: registered name.
        out: folder of the run.
        protocol: name, file, or a `Protocol`.
        **options: options of `bench.training.loop.train`: overrides, data, data_options, seed, resume,
            progress, log and others.

    Example:
        >>> bench.train("tiny-unet", "run", protocol="smoke").step
        8
    """
    from bench.training import protocols
    from bench.training.loop import train as run
    from bench.utils.bars import interactive, of_training

    if not isinstance(protocol, protocols.Protocol):
        protocol = protocols.load(protocol)
    with interactive(options.get("progress")) as shown:
        return run(model, protocol, out, **of_training(shown) | options)


def sample(
    run: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    weights: str = "ema",
    guide: str | Path | None = None,
    guide_scale: float | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Make images from a training run; see `bench.sampling`.

    Args:
        run: folder of the run, or of one of its checkpoints.
        out: an `.npz` file as the ADM suite reads it, or a folder for PNGs.
        seed: image i depends only on the seed and i.
        weights: `ema` for the averaged weights, `model` for the last.
        guide, guide_scale: folder of another run, or of one of its checkpoints, whose network guides this
            one. The prediction is guide + guide_scale·(network − guide). `bench.sampling.Plan` takes any
            network. Both or neither.
        device, progress: see `bench.api`.
        **settings: fields of `bench.records.schema.SamplingSettings` that replace the protocol's: num,
            sampler, steps, cfg_scale, …

    Returns:
        `out`.

    Example:
        >>> bench.sample("run", "samples.npz", num=16, cfg_scale=1.5)
        PosixPath('samples.npz')
    """
    from bench import sampling
    from bench.training.protocols import changed
    from bench.training.trained import open_guide, open_run
    from bench.utils import distributed
    from bench.utils.bars import interactive
    from registry.errors import UsageError

    if (guide is None) != (guide_scale is None):
        raise UsageError("give guide and guide_scale together")
    source = open_run(run, weights)
    chosen = changed(source.defaults, settings)
    for name in ("guided_channels", "guidance_interval"):
        if name in settings and chosen.cfg_scale == 1 and (guide is None or name == "guided_channels"):
            raise UsageError(f"{name} needs guidance: give a cfg_scale other than 1")
    guided_by = None if guide is None or guide_scale is None else open_guide(guide, guide_scale)
    plan = sampling.Plan(source.objective, chosen, seed=seed, guide=guided_by)
    with interactive(progress) as shown:
        sampling.sample(
            source.network,
            source.to_images,
            plan,
            out,
            identity=source.identity,
            device=device or distributed.device(),
            progress=shown,
        )
    return Path(out)


def evaluate(
    samples: Images,
    reference: Images,
    *,
    label: str | None = None,
    record: str | Path | None = None,
    model: str | None = None,
    provenance: str = "",
    labels: Literal["balanced", "drawn"] | None = None,
    published: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Scores of images beside a reference; see `bench.metrics.evaluation.compare`.

    Args:
        samples, reference: a folder, an `.npz`, or an array (N, H, W, 3) uint8; notes call that
            `the array given as samples`.
        label: what was sampled and how, for a record.
        record: folder in which to write a record; None: write none.
        model, provenance, labels, published: see `bench.studies.scored.Declared`.
        device, progress: see `bench.api`.
        **options: options of `compare`: scores, extractor, weights, intervals and others.

    Example:
        >>> bench.evaluate("samples.npz", "digits.npz", scores=["fid", "density"]).scores["fid"]
        12.3...
    """
    from bench.metrics.evaluation import compare
    from bench.studies import scored
    from bench.utils import distributed
    from bench.utils.bars import interactive
    from registry.errors import UsageError

    told = scored.Declared(label, model, provenance, labels, published, record=record is not None)
    device = device or distributed.device()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, images in (("samples", samples), ("reference", reference)):
            if isinstance(images, np.ndarray):
                path = Path(folder) / f"{name}.npz"
                np.savez(path, arr_0=images)
                images = path
            paths.append(images)

        def named(text: str) -> str:
            """A text without the names of files that are there for arrays alone."""
            return re.sub(rf"{re.escape(folder)}/(\w+)\.npz", r"the array given as \1", text)

        try:
            with interactive(progress) as shown:
                found = compare(*paths, device=device, progress=shown, **options)
        except UsageError as error:
            raise UsageError(named(str(error))) from None
    assert found is not None, "one process evaluates"
    found = replace(
        found,
        samples=named(found.samples),
        reference=named(found.reference),
        notes=list(map(named, found.notes)),
        missing={score: named(reason) for score, reason in found.missing.items()},
    )
    found = scored.with_published(found, told)
    if record is not None:
        scored.record(found, told, record, device)
    return found


def ablate(
    study: str | Path | Study,
    *,
    executor: str = "local",
    executor_options: Mapping[str, Any] | None = None,
    plugins: str | Sequence[str] = (),
    ended: Callable[[str, str | None], None] = lambda title, failure: None,
    progress: Progress | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Measure the missing cells of a study, and return its table; see `bench.studies.plan`.

    Args:
        study: a built-in name, the path of a TOML file, or a study.
        executor: where cells are measured: `local`, `ray`, `slurm` or a plugin's.
        executor_options: options of the executor, such as `{"jobs": 2}`.
        plugins: files and modules that register what the study names; each process imports them.
        ended: called at the end of each cell with its title, and the reason if it failed, else None.
        progress: see `bench.api`.
        **options: options of `bench.studies.plan.plan`: protocol, seeds, only, shard, force, stale,
            add_scores, data_options, reference, results, work.

    Returns:
        For each row of the study: published figures, cost, and the mean and standard deviation of each score
        over the seeds of the plan.

    Warns:
        UserWarning: names each cell that failed; the others are measured.

    Example:
        >>> bench.ablate("toy", protocol="smoke", seeds=[0], executor_options={"jobs": 2})["label"]
    """
    from bench.reports import ablation, tables
    from bench.studies.executors import executor as executor_of
    from bench.studies.plan import plan
    from bench.utils.bars import interactive
    from registry.plugins import load_file

    plugins = texts(plugins)
    for plugin in plugins:
        load_file(plugin)
    made = plan(study, **options)
    measurer = executor_of(executor, **executor_options or {}).for_plan(made)
    count, done = len(made.todo) + len(made.costs), set[str]()
    with interactive(progress) as shown:

        def told(title: str, failure: str | None) -> None:
            done.add(title)  # a cell that ran out of memory ends twice
            shown("measuring", len(done), count)
            ended(title, failure)

        shown("measuring", 0, count)
        failed = measurer.measure(made, plugins=plugins, ended=told)
    for title, why in failed.items():
        warnings.warn(f"{title} failed: {why}", stacklevel=2)
    return tables.frame(*ablation.measured(made))
