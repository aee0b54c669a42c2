"""Trained weights, and what is known of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import registry
from bench.diffusion import objective, objectives
from bench.diffusion.base import Objective
from bench.records.schema import SamplingSettings
from bench.sampling.plan import ToImages

_SAMPLERS = {"flow": ("heun", "125"), "edm": ("edm-heun", "32")}  # and steps, of objectives other than ddpm


@dataclass(frozen=True)
class Source:
    """Trained weights, and what is known of them.

    Attributes:
        network: with the weights, on the CPU.
        to_images: from its grids to pictures.
        objective: that it was trained with.
        defaults: how images are made where nothing else is asked for.
        identity: what tells these weights from others, as JSON can hold it.
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
    vae_precision: Literal["fp32", "bf16"] = "fp32",
) -> Source:
    """A file of weights in the authors' layout; see `registry.load_checkpoint`.

    They are sampled by the objective and the β schedule that the backbone declares.

    Args:
        model, overrides: the backbone that the weights are of.
        defaults: how images are made where nothing else is asked for, such as those of the protocol `paper`;
            a flow is sampled by Heun's method in 125 steps, as many evaluations, and what denoises at any σ
            as published for EDM2, in 32 steps.
        vae: the decoder of latents; by default that of the papers.
        vae_precision: of the decoder's arithmetic; see `bench.data.autoencoder`.
        key: entry of the file that holds the weights; by default the averaged ones.

    Raises:
        UsageError: no such file, weights of another network, or a decoder that is not to be had.
    """
    network: Any = registry.load_checkpoint(registry.create(model, **overrides), path, key=key)
    scheduled = "beta_schedule" in objectives.options(network.objective)
    options = {"beta_schedule": network.beta_schedule} if scheduled else {}
    trained_by = objective(network.objective, **options)
    if trained_by.name in _SAMPLERS:
        name, steps = _SAMPLERS[trained_by.name]
        defaults = defaults.model_copy(update={"sampler": name, "steps": steps})
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    identity = {"weights": digest, "model": network.name, "overrides": network.overrides}
    identity |= {"key": key} if key else {}
    identity |= {"vae_precision": vae_precision} if vae_precision != "fp32" else {}
    return Source(network, decoder(vae, vae_precision), trained_by, defaults, identity)


def decoder(vae: str | None, precision: Literal["fp32", "bf16"] = "fp32") -> ToImages:
    """The decoder of latents: a folder or a hub name; by default the one of the papers."""
    from bench.data import autoencoder

    return autoencoder.load(vae, precision).decode
