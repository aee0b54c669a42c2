"""How images are made, besides the network."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.diffusion.guidance import guided
from bench.diffusion.interface import Objective
from bench.records.schema import SamplingSettings
from bench.utils import randomness
from bench.utils.precision import Precision, autocast, check_precision, tf32
from registry.backbone import height_width
from registry.errors import CodeError, UsageError


@dataclass(frozen=True)
class Plan:
    """How images are made, besides the network.

    Attributes:
        objective: that the network was trained with; see `bench.diffusion`.
        settings: sampler, guidance, labels, how many images, and how many at once.
        classes: those that images are made of; all where it is empty.
        seed: of all randomness, 0 … 2⁶⁴ − 1.
        precision: bf16 and fp16 run the network under autocast.
    """

    objective: Objective
    settings: SamplingSettings
    classes: tuple[int, ...] = ()
    seed: int = 0
    precision: Precision = "fp32"

    def check(self, network: Any, device: torch.device | str = "cpu") -> None:
        """Find what would go wrong before anything runs.

        Raises:
            UsageError: sampler and steps that do not fit, classes that the network does not have,
                guidance without a null class, or a precision that the device lacks.
        """
        randomness.check_seed(self.seed)
        self.objective.check_sampler(self.settings.sampler, self.settings.steps)
        beyond = [c for c in self.classes if not 0 <= c < max(network.num_classes, 1)]
        if beyond:
            raise UsageError(f"{network.name} has classes 0 … {network.num_classes - 1}, not {beyond[0]}")
        guided(network, torch.zeros(1, dtype=torch.int64), self.settings.cfg_scale)
        check_precision(self.precision, device)

    def labels_of(self, indices: Tensor, num_classes: int) -> Tensor:
        """Classes of images by their numbers: (N,) -> (N,) int64."""
        classes = torch.tensor(self.classes or range(max(num_classes, 1)), device=indices.device)
        if self.settings.labels == "balanced":
            return classes[indices % len(classes)]
        drawn = randomness.uniform(self.seed, "label", indices, 1)[:, 0]
        return classes[(drawn * len(classes)).long()]

    def grids(self, network: Any, indices: Tensor) -> Tensor:
        """Samples by their numbers: (N,) on the network's device -> (N, C, H, W) float32.

        Raises:
            CodeError: the network returns something else than a prediction for its input.
        """
        settings = self.settings
        shape = (network.in_channels, *height_width(network.input_size))
        noise = functools.partial(randomness.normal, self.seed, indices=indices, shape=shape)
        channels = settings.guided_channels
        if channels is None:
            channels = getattr(network, "guided_channels", 3)
        labels = self.labels_of(indices, network.num_classes)
        denoiser = guided(network, labels, settings.cfg_scale, channels or None)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            with autocast(self.precision, x.device):
                output = denoiser(x, t)
            check_output(network, x, output)
            return output.float()

        with tf32(settings.tf32, indices.device):
            return self.objective.sample(
                predict,
                noise(purpose="noise"),
                lambda step: noise(purpose="step", step=step),
                sampler=settings.sampler,
                steps=settings.steps,
            )


def check_output(network: Any, x: Tensor, output: Any) -> None:
    """Nothing, if a network's output is a prediction for x: (N, C, H, W) -> (N, C or 2C, H, W).

    Raises:
        CodeError: it is not; the message names the network's file and line.
    """
    count, channels, *size = x.shape
    if not isinstance(output, Tensor):
        raise CodeError(f"{network.name} returns {type(output).__name__}, not a tensor", network)
    if output.shape not in ((count, channels, *size), (count, 2 * channels, *size)):
        raise CodeError(f"{network.name} makes {tuple(output.shape)} of {tuple(x.shape)}", network)
