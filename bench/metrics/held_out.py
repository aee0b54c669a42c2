"""Loss on images that were not trained on, with the same images, noise and noise levels for every network.

The error of the noise prediction is measured in bands of ln SNR, at levels spread evenly over the steps of
DDPM's linear schedule that lie in each band. Levels beyond the objective's own schedule are left out, because
its networks have no time for them: `scaled_linear` reaches 33 of the 38 levels of the first band and 98 of
the 371 of the last. The bands of the result say where the schedule ends.

Every prediction is converted to the noise at that SNR, so noise, velocity and v-prediction have one unit.
Rows of a table share images, noise and levels, so their differences have a paired standard error over images.

Its floor is above 0: the variance of the noise given the noised image, which is set by the data and the band.
It is equal for all networks, so it cancels in differences.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset
from bench.diffusion.base import Objective
from bench.diffusion.translation import translated
from bench.records.quantities import BANDS, span
from bench.records.schema import GROUPS, BandLoss, HeldOutLoss, HeldOutSettings
from bench.utils import randomness
from bench.utils.precision import Precision, autocast
from bench.utils.progress import Progress, silent
from registry.errors import UsageError
from registry.schedules import betas

VERSION = 1  # raised when the same network gets another loss; part of each record
BATCH = 64  # images at once
SEED = 0  # of the noise, whatever seed a network was trained with
GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, modulo 1, lie evenly for any number of images


@dataclass(frozen=True)
class Band:
    """A band of noise levels.

    Attributes:
        log_snr: (lowest, highest) ln SNR; None where it is open.
        snr: of the steps of DDPM's linear schedule that lie in it, (steps,) descending.
        share: of these steps among those of all bands.
    """

    log_snr: tuple[float | None, float | None]
    snr: Tensor
    share: float

    def levels(self, indices: Tensor) -> Tensor:
        """SNR at which images are noised, by their numbers: (N,) -> (N,)."""
        spread = (indices.double() + 1) * GOLDEN % 1
        return self.snr[(spread * len(self.snr)).long()]


def bands(objective: Objective) -> list[Band]:
    """The bands of `bench.records.quantities.BANDS`, from the least noise to the most.

    A band that the objective's schedule reaches in part ends where the schedule does.

    Raises:
        UsageError: the schedule does not reach a band at all.
    """
    alphas_cumprod = np.cumprod(1 - betas("linear"))
    snr = torch.from_numpy(alphas_cumprod / (1 - alphas_cumprod))
    lowest, highest = objective.snr_range()
    reached = (snr.float() >= lowest) & (snr.float() <= highest)
    found = []
    for low, high in BANDS:
        inside = (snr.log() >= (-math.inf if low is None else low)) & (
            snr.log() < (math.inf if high is None else high)
        )
        scored = snr[inside & reached].float()
        if not len(scored):
            raise UsageError(
                f"the held-out loss cannot be measured: objective {objective.name} has no noise level with "
                f"ln SNR {span(low, high)}"
            )
        if (inside & (snr.float() < lowest)).any():
            low = math.log(lowest)
        if (inside & (snr.float() > highest)).any():
            high = math.log(highest)
        found.append(Band((low, high), scored, len(scored) / int(reached.sum())))
    return found


def check_images(dataset: Dataset, settings: HeldOutSettings) -> None:
    """Check that a dataset has enough images.

    Raises:
        UsageError: it has fewer.
    """
    if settings.images > len(dataset):
        raise UsageError(
            f"{dataset.name} holds out {len(dataset)} images, fewer than the {settings.images} of the "
            "protocol's [evaluation.held_out]: choose a smaller number"
        )


@torch.inference_mode()
def held_out_loss(
    network: Any,
    objective: Objective,
    dataset: Dataset,
    settings: HeldOutSettings,
    *,
    step: int = 0,
    training_error: float | None = None,
    seconds: float = 0.0,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> HeldOutLoss:
    """Measure a trained network.

    Args:
        network: deployed, on the device.
        objective: that it was trained with.
        dataset: of held-out images; see `bench.data.held_out`.
        settings: how many images.
        step, training_error, seconds: of the training until now, for the result.
        precision: bf16 and fp16 run the network under autocast.

    Raises:
        UsageError: the dataset has fewer images, the objective lacks a band, or a loss is not finite.
    """
    check_images(dataset, settings)
    began = time.perf_counter()
    levels = bands(objective)
    denoiser = translated(network, objective)
    errors = torch.empty(len(levels), settings.images, dtype=torch.float64)
    for start in range(0, settings.images, BATCH):
        indices = np.arange(start, min(start + BATCH, settings.images))
        x0, y = dataset.grids(indices).to(device), dataset.labels(indices).to(device)
        places = torch.from_numpy(indices).to(device)
        for number, band in enumerate(levels):
            noise = randomness.normal(SEED, "held-out noise", places, dataset.shape, number)
            t = objective.timesteps_at_snr(band.levels(places.cpu()).to(device))
            x_t = objective.add_noise(x0, noise, t)
            with autocast(precision, device):
                output = denoiser(x_t, t, y)
            error = objective.to_epsilon(output.float(), x_t, t) - noise
            errors[number, start : start + len(indices)] = error.square().flatten(1).mean(1).double().cpu()
        progress("held-out loss", int(indices[-1]) + 1, settings.images)
    if not errors.isfinite().all():
        raise UsageError(f"the held-out loss of {network.name} at step {step} is not finite")
    return HeldOutLoss(
        step=step,
        bands=tuple(
            BandLoss(
                log_snr=band.log_snr,
                share=band.share,
                loss=float(of_band.mean()),
                groups=tuple(float(f"{mean:.7g}") for mean in of_band.view(GROUPS, -1).mean(1)),
            )
            for band, of_band in zip(levels, errors, strict=True)
        ),
        training_error=training_error,
        seconds=seconds,
        eval_seconds=time.perf_counter() - began,
    )
