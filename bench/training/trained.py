"""A trained network from the folder of its run, with the requested weights."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import registry
from bench import data as datasets
from bench.data.latents import Latents
from bench.diffusion import samplers_for
from bench.sampling.plan import Guide
from bench.sampling.sources import Source, load_weights, with_sampler
from bench.training.ema import combination
from bench.training.run import Manifest, Run, load, objective_with, read
from registry.errors import UsageError, reason
from registry.fingerprints import equivalent
from registry.values import split_options


def open_run(
    path: str | Path,
    weights: str = "ema",
    vae: str | None = None,
    vae_precision: Literal["fp32", "bf16"] = "fp32",
) -> Source:
    """The newest checkpoint of a training run, or the one whose folder is given.

    Args:
        path: folder of the run, or of one of its checkpoints.
        weights: `ema` for the averaged weights, `model` for the last, a number for the power-function average
            of that relative width.
        vae: decoder of latents; default: that of the run's dataset.
        vae_precision: precision of the decoder; see `bench.data.autoencoder`.

    Raises:
        UsageError: there is no run or no checkpoint, a file is damaged, or a VAE is given for a dataset that
            needs none.

    Warns:
        UserWarning: the network's code is no longer what it was trained with.
    """
    manifest, network, identity = _load_run(path, weights)
    request = manifest.request
    dataset = datasets.load(request.data, **manifest.data_options)
    if vae or vae_precision != "fp32":
        if not isinstance(dataset, Latents):
            raise UsageError(f"images of {request.data} need no VAE: leave its options out")
        dataset.vae, dataset.vae_precision = vae or dataset.vae, vae_precision
        identity["vae"] = dataset.vae
    identity |= {"vae_precision": vae_precision} if vae_precision != "fp32" else {}
    objective = objective_with(request.training)
    defaults = manifest.protocol.sampling
    if split_options(defaults.sampler)[0] not in samplers_for(objective.name):
        defaults = with_sampler(defaults, objective.name)
    return Source(network, dataset.to_images, objective, defaults, identity)


def open_guide(path: str | Path, scale: float, weights: str = "ema", model: str | None = None) -> Guide:
    """A trained network that guides another one.

    Args:
        path: of a training run or one of its checkpoints, or a file of weights.
        scale: see `Guide`.
        weights: as for `open_run`; for a file, the name of the entry that holds them, by default the averaged
            weights.
        model: for a file, the backbone, with or without options behind the name.

    Raises:
        UsageError: as of `open_run` and `bench.sampling.open_weights`, or a file without a model.
    """
    path = Path(path)
    if path.is_dir():
        manifest, network, identity = _load_run(path, weights)
        return Guide(network, objective_with(manifest.request.training), scale, identity)
    if model is None:
        raise UsageError(f"{path} is no folder of a run; a guide's file of weights needs --guide-model NAME")
    name, overrides = split_options(model)
    key = None if weights == "ema" else weights
    network, objective, identity = load_weights(path, name, overrides, key)
    return Guide(network, objective, scale, identity)


def _load_run(path: str | Path, weights: str) -> tuple[Manifest, Any, dict[str, Any]]:
    """Manifest, network and identity of a run; errors as of `open_run`."""
    path = Path(path)
    of_checkpoint = path.parent.name == "checkpoints" and path.name.isdecimal()
    run = Run(path.parent.parent if of_checkpoint else path)
    manifest = run.manifest
    request = manifest.request
    folder = run.checkpoint(int(path.name) if of_checkpoint else None)
    network = request.build()
    if not equivalent(request.fingerprint, registry.backbones.fingerprint(request.model)):
        warnings.warn(
            f"the code of {request.model} has changed since {run.folder} was trained: its samples may differ "
            "from those of the network that was trained",
            stacklevel=3,
        )
    if weights in ("ema", "model"):
        state = getattr(load(folder, (weights,)), weights)
    else:
        state = load(folder, ("model",)).model | average(run, int(folder.name), weights)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"the checkpoint {folder} is not of the network in run.json: {reason(error)}"
        ) from None
    identity = {"run": request.model_dump(mode="json"), "step": int(folder.name), "weights": weights}
    return manifest, network, identity


def average(run: Run, step: int, text: str) -> dict[str, Tensor]:
    """The power-function average of a width at a checkpoint of a run, from all that it has stored until then.

    Args:
        text: the width σ_rel.

    Raises:
        UsageError: no such width, the run stores no averages, or a file is damaged.
    """
    try:
        width = float(text)
    except ValueError:
        width = math.nan
    if not 0.001 <= width <= 0.28:
        raise UsageError(f"weights are ema, model, or a width from 0.001 to 0.28, not {text!r}")
    folders = [folder for folder in run.snapshots() if int(folder.name) <= step]
    widths = run.manifest.request.training.posthoc_ema
    if not folders or not widths:
        raise UsageError(
            f"{run.folder} stores no averages of other widths: train with posthoc_ema = [0.05, 0.1]"
        )
    pairs = [(folder, each) for folder in folders for each in widths]
    times = np.array([float(folder.name) for folder, _ in pairs])
    factors = combination(times, np.array([each for _, each in pairs]), step, width)
    total: dict[str, Tensor] = {}
    for (folder, each), factor in zip(pairs, factors, strict=True):
        tensors, _ = read(folder, [str(each)])
        for name, value in tensors[str(each)].items():
            exact = value.to(torch.promote_types(value.dtype, torch.float64))
            total[name] = total.get(name, 0) + float(factor) * exact
    single = {torch.complex128: torch.complex64, torch.float64: torch.float32}
    return {name: value.to(single[value.dtype]) for name, value in total.items()}
