"""Trained weights with their objective, decoder and sampling defaults."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

import registry
from bench.data import grid
from bench.diffusion import objective, objectives
from bench.diffusion.base import Objective
from bench.diffusion.plugins import lineage
from bench.records.schema import SamplingSettings
from bench.sampling.plan import ToImages
from registry.errors import UsageError

_SAMPLERS = {"flow": ("heun", "125"), "edm": ("edm-heun", "32")}  # and steps, of objectives other than ddpm


@dataclass(frozen=True)
class Source:
    """A trained network with its objective, decoder and sampling defaults.

    Attributes:
        network: the network with its weights, on the CPU.
        to_images: maps its grids to pictures.
        objective: the objective that it was trained with.
        defaults: default settings of sampling.
        identity: identifies the weights and the decoder, as JSON.
    """

    network: Any
    to_images: ToImages
    objective: Objective
    defaults: SamplingSettings
    identity: dict[str, Any]


def open_weights(
    path: str | Path,
    model: str,
    overrides: dict[str, Any],
    defaults: SamplingSettings,
    vae: str | None = None,
    key: str | None = None,
    pixels: bool | None = None,
    vae_precision: Literal["fp32", "bf16"] = "fp32",
    normalise: Path | None = None,
) -> Source:
    """A file of weights in the authors' layout; see `registry.load_checkpoint`.

    They are sampled with the objective and the β schedule that the backbone declares. In pixel space x0 is
    clamped in each step.

    Args:
        model, overrides: the backbone of the weights.
        defaults: default settings of sampling, such as those of the protocol `paper`. A flow is sampled by
            Heun's method in 125 steps, which is as many evaluations; an EDM network by EDM2's sampler in 32
            steps.
        vae: the decoder of latents; default: the backbone's declaration, else that of the papers.
        vae_precision: precision of the decoder; see `bench.data.autoencoder`.
        key: entry of the file that holds the weights; by default the averaged ones.
        pixels: whether samples are pixels instead of latents; default: if the backbone has 1 or 3 input
            channels and no `vae` is given.
        normalise: file with the mean and deviation of each latent channel, instead of one scale; see
            `bench.data.normalisation.load`.

    Raises:
        UsageError: there is no such file, the weights are of another network, the decoder cannot be loaded,
            or a decoder is given for pixels.
    """
    if pixels and (vae or normalise):
        raise UsageError("pixels need no decoder: leave --vae out, or add --no-pixels")
    network, trained_by, identity = load_weights(path, model, overrides, key)
    if pixels is None:
        pixels = vae is None and normalise is None and network.in_channels in (1, 3)
    if trained_by.name in _SAMPLERS:
        defaults = with_sampler(defaults, trained_by.name)
    elif pixels:
        defaults = defaults.model_copy(update={"sampler": "ancestral clip=true"})
    if vae_precision != "fp32":
        if pixels:
            raise UsageError("pixels need no decoder: leave --vae-precision out")
        identity |= {"vae_precision": vae_precision}
    if pixels:
        return Source(network, to_pixels, trained_by, defaults, identity | {"pixels": True})
    vae = vae or getattr(network, "vae", None)
    to_images = decoder(vae, vae_precision, normalise)
    identity |= {"vae": vae, "normalise": _sha256(normalise) if normalise else None}
    return Source(network, to_images, trained_by, defaults, identity)


def with_sampler(settings: SamplingSettings, objective: str) -> SamplingSettings:
    """Settings with the usual sampler and steps of an objective, as far as it has one."""
    for kind in lineage(objective) & _SAMPLERS.keys():
        name, steps = _SAMPLERS[kind]
        return settings.model_copy(update={"sampler": name, "steps": steps})
    return settings


def load_weights(
    path: str | Path, model: str, overrides: dict[str, Any], key: str | None = None
) -> tuple[Any, Objective, dict[str, Any]]:
    """Network, objective and identity of a file of weights; arguments and errors as of `open_weights`."""
    network: Any = registry.load_checkpoint(registry.create(model, **overrides), path, key=key)
    scheduled = "beta_schedule" in objectives.options(network.objective)
    options = {"beta_schedule": network.beta_schedule} if scheduled else {}
    trained_by = objective(network.objective, **options)
    identity = {"weights": _sha256(Path(path)), "model": network.name, "overrides": network.overrides}
    identity |= {"key": key} if key else {}
    return network, trained_by, identity


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_pixels(grids: Tensor) -> np.ndarray:
    """Images of pixels in [−1, 1]: (N, 1, 3, 4 or 12, H, W) -> (N, H', W', 3) uint8; see `bench.data.grid`.

    Raises:
        UsageError: another number of channels.
    """
    return grid.to_images(grids.expand(-1, 3, -1, -1) if grids.shape[1] == 1 else grids)


def decoder(
    vae: str | None, precision: Literal["fp32", "bf16"] = "fp32", normalise: Path | None = None
) -> ToImages:
    """The decoder of latents: a folder or a hub name; by default the one of the papers.

    Args:
        precision: precision of the decoder.
        normalise: see `open_weights`.
    """
    from bench.data import autoencoder, normalisation

    network = autoencoder.load(vae, precision)
    if normalise is None:
        return network.decode
    by_channel = normalisation.load(normalise)
    return lambda grids: network.decode(by_channel.invert(grids), 1.0)
