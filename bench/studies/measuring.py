"""One cell, from nothing to its record: train, sample, score. Killed at any moment, it goes on where it was.

    WORK/<model>-<seed>-<hash>/              a training run, shared by cells that train alike
        images-<hash>.npz, .grid.png         of one cell; the images are deleted once they are scored
    WORK/references/<data>-….npz             features of the images trained on, to compare with

A lock on the run's folder keeps a second process away, be it another `bench ablate` or one left over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import cost, records, sampling
from bench import data as datasets
from bench.metrics.evaluation import compare
from bench.metrics.features import make_file
from bench.training.loop import Progress, train
from bench.training.protocols import Protocol
from bench.training.run import Run, build
from bench.utils import distributed
from bench.utils.files import write_whole
from registry.errors import UsageError

Tell = Callable[..., None]  # doing, done, of how many, loss=
SCORES = ("fid", "sfid", "inception_score", "precision", "recall", "kid")
COSTS = ("parameters", "parameters_deployed", "macs", "paper_gflops")


class Stopped(Exception):  # noqa: N818 (no error: somebody asked for it)
    """A signal has ended training; a checkpoint is written."""


def measure_cost(asked: dict[str, Any], results: Path) -> None:
    """Measure what a backbone costs and write the record."""
    found = cost.measure(asked["model"], input_size=asked["input_size"], **asked["overrides"])
    values = {k: v for k, v in found.to_dict().items() if k not in ("model", "overrides", "input_size")}
    records.write(asked, values | {"stages": [asdict(part) for part in found.stages]}, results)


def measure_quality(
    asked: dict[str, Any],
    protocol: Protocol,
    run: Path,
    results: Path,
    *,
    data_options: dict[str, Any],
    force: bool,
    fresh: bool,
    last: bool,
    tell: Tell,
) -> None:
    """Measure a cell and write its record, unless another process has just done so.

    Args:
        asked: the question; see `bench.studies.cells.quality_asked`.
        protocol: that of the cell.
        run: folder of its training run.
        results: folder of records.
        data_options: of the dataset.
        force: measure although there is a record.
        fresh: delete what the folder holds before.
        last: no cell needs the run's folder any more: only its newest checkpoint and its pictures are kept.
        tell: is told what is under way.

    Raises:
        UsageError: what the cell fails of.
        Stopped: see there.
    """
    name = records.name(asked)
    with _locked(run, tell):
        if fresh:
            _delete(run)
        if force or not (results / name).exists():
            _measure(asked, protocol, run, results, data_options, tell)
        for left in run.glob(".bench-*"):  # of processes that were killed while writing
            shutil.rmtree(left, ignore_errors=True)
        for old in Run(run).checkpoints()[:-1] if last else []:
            shutil.rmtree(old, ignore_errors=True)


def _measure(
    asked: dict[str, Any],
    protocol: Protocol,
    run: Path,
    results: Path,
    data_options: dict[str, Any],
    tell: Tell,
) -> None:
    images = run / f"images-{records.name(asked)[-17:-5]}.npz"
    step, device = asked["step"], distributed.device()
    if not images.exists():
        _train(asked, protocol, run, data_options, tell)
        per_second = _sample(asked, Run(run).checkpoint(step), images, protocol, device, tell)
    else:  # killed while it was scored
        per_second = None
    reference, digest = _reference(asked, run.parent / "references", data_options, device, tell)
    tell("scoring")
    began = time.perf_counter()
    features = run / "features"
    scored = compare(
        images,
        reference,
        extractor=asked["extractor"],
        kid=True,
        device=device,
        cache=features,
        progress=tell,
    )
    assert scored is not None
    log = _log(run, step)
    number = scored.sample_count
    network = build(Run(run).asked)  # as it was trained, at the protocol's size
    counted = cost.measure(network)
    values = {
        **{score: getattr(scored.scores, score) for score in SCORES},
        "samples": number,
        "reference": scored.reference_count,
        "extractor": scored.extractor,
        "weights": scored.weights,
        "data_digest": digest,
        "loss": log[-1]["loss"],
        "network": {key: getattr(counted, key) for key in COSTS},
        "seconds": {
            "train": _seconds(log, protocol.training.batch_size),
            "sample": per_second and number / per_second,
            "eval": time.perf_counter() - began,
        },
        "images_per_second": {
            "train": statistics.median(entry["images_per_second"] for entry in log),
            "sample": per_second,
        },
    }
    keep_samples(
        images.with_name(f"{images.stem}.grid.png"),
        sampling.columns(network.num_classes),
        results / records.name(asked),
    )
    records.write(asked, values, results, device=device)
    images.unlink()
    shutil.rmtree(features, ignore_errors=True)


def _train(
    asked: dict[str, Any], protocol: Protocol, run: Path, data_options: dict[str, Any], tell: Tell
) -> None:
    """Train to the step that is asked for: a leg of the run, which may go on to others later."""
    step = asked["step"]
    saved = [int(path.name) for path in Run(run).checkpoints()]
    if step in saved:
        return
    if saved and saved[-1] > step:  # it is kept no longer; trained again it comes out the same
        _delete(run)

    def progress(now: Progress) -> None:
        tell("training", now.step, now.steps, loss=now.loss)

    tell("training", 0, step)
    leg = protocol.training.model_copy(update={"steps": step})
    trained = train(
        asked["model"],
        protocol.model_copy(update={"training": leg}),
        run,
        overrides=asked["scaled"],
        data=asked["data"],
        data_options=data_options,
        seed=asked["seed"],
        resume=True,
        progress=progress,
    )
    if trained.interrupted:
        raise Stopped


def _sample(
    asked: dict[str, Any], checkpoint: Path, images: Path, protocol: Protocol, device: str, tell: Tell
) -> float | None:
    """Make the images; how many a second, None where all were there already."""
    source, how = sampling.open_run(checkpoint), protocol.sampling
    plan = sampling.Plan(
        source.objective,
        how.sampler,
        how.steps,
        how.cfg_scale,
        how.guided_channels,
        how.labels,
        seed=asked["seed"],
        precision=protocol.training.precision,
    )
    seen: list[int] = []

    def progress(doing: str, done: int, count: int) -> None:
        seen.append(done)
        tell(doing, done, count)

    began = time.perf_counter()
    sampling.sample(
        source.network,
        source.to_images,
        plan,
        how.num,
        images,
        of=asked,
        batch_size=how.batch_size,
        device=device,
        progress=progress,
    )
    made = how.num - seen[0]
    return made / (time.perf_counter() - began) if made else None


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


def _reference(
    asked: dict[str, Any], folder: Path, data_options: dict[str, Any], device: str, tell: Tell
) -> tuple[Path, str]:
    """Features of the images trained on, made once for all cells, and the dataset's digest."""
    dataset = datasets.load(asked["data"], **data_options)
    path = folder / f"{asked['data']}-{dataset.digest}-{asked['extractor']}.npz"
    with _locked(path, tell):
        if not path.exists():
            images = path.with_name(f"{path.stem}-images.npz")
            if not images.exists():
                sampling.export(dataset, images, tell)
            cache = folder / f"{path.stem}-features"
            write_whole(
                path,
                lambda made: make_file(
                    images, made, extractor=asked["extractor"], device=device, cache=cache, progress=tell
                ),
            )
            images.unlink()
            shutil.rmtree(cache, ignore_errors=True)
    return path, dataset.digest


def _log(run: Path, step: int) -> list[dict[str, Any]]:
    """Lines of the run's log up to a step."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found = [entry for entry in map(json.loads, lines) if entry["step"] <= step]
    if not found:
        raise UsageError(f"{run} has lost its log: delete the folder to train again")
    return found


def _seconds(log: list[dict[str, Any]], batch_size: int) -> float:
    """Time of the training steps of a log, checkpoints left out."""
    steps = [entry["step"] for entry in log]
    return sum(
        (step - before) * batch_size / entry["images_per_second"]
        for step, before, entry in zip(steps, [0, *steps], log, strict=False)
    )


def _delete(folder: Path) -> None:
    """Remove a folder so that it is whole or gone whenever this is killed."""
    gone = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, tell: Tell) -> Iterator[None]:
    """Alone with a file or folder among all processes on this machine; a killed one's lock is void."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another process")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
