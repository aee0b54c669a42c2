"""How images are made, besides the network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.diffusion import check_sampler, sampler
from bench.diffusion.base import Denoiser, Objective
from bench.diffusion.guidance import guided, guided_by
from bench.diffusion.translation import translated
from bench.records.schema import SamplingSettings
from bench.utils import randomness
from bench.utils.precision import Precision, autocast, cast_weights, check_precision, tf32
from registry.backbone import height_width
from registry.errors import UsageError
from registry.variables import through

VERSION = 1  # raise it when noise, labels or guidance give other images; part of each record
ToImages = Callable[[Tensor], np.ndarray]  # grids (N, C, H, W) -> (N, H', W', 3) uint8


@dataclass(frozen=True)
class Guide:
    """Another network that guides the sampled one; see `guidance.guided_by`.

    Attributes:
        network: for the same grids, with the same classes or none.
        objective: the objective that it was trained with.
        scale: guidance scale; at 1 the guide has no effect.
        identity: identifies its weights, as JSON.
    """

    network: Any
    objective: Objective
    scale: float
    identity: dict[str, Any]

    def check(self, network: Any, objective: Objective) -> None:
        """Check that it can guide a network that is sampled with an objective.

        Raises:
            UsageError: its grids or classes differ, or its objective is another one and one of the two does
                not declare its parametrisation.
        """
        guide = self.network
        own, taken = ((each.in_channels, *height_width(each.input_size)) for each in (guide, network))
        wrong = {
            f"grids of {own}, not {taken}": own != taken,
            f"{guide.num_classes} classes, not {network.num_classes}": guide.num_classes
            not in (0, network.num_classes),
            f"objective {self.objective.name}, not {objective.name}": self.objective.name != objective.name
            and None in (self.objective.variables, objective.variables),
        }
        if found := [what for what, differs in wrong.items() if differs]:
            raise UsageError(f"{guide.name} cannot guide {network.name}: it has {' and '.join(found)}")

    def denoiser(self, labels: Tensor, objective: Objective) -> Denoiser:
        """The guide with its labels, as an objective calls it."""
        guide = guided(translated(self.network, self.objective), labels)
        given, own = objective.variables, self.objective.variables
        if given is None or own is None or given == own:
            return guide

        def alike(x: Tensor, t: Tensor) -> Tensor:
            channels = x.shape[1]
            return through(lambda x, t: guide(x, t)[:, :channels], x, t, given=given, own=own)

        return alike


@dataclass(frozen=True)
class Plan:
    """How images are made, besides the network.

    Attributes:
        objective: the objective that the network was trained with; see `bench.diffusion`.
        settings: sampler, guidance, labels, number of images, batch size.
        classes: the classes to sample; empty: all.
        seed: seed of all randomness, 0 … 2⁶⁴ − 1.
        precision: bf16 and fp16 run the network under autocast.
        guide: another network that guides the sampled one.
    """

    objective: Objective
    settings: SamplingSettings
    classes: tuple[int, ...] = ()
    seed: int = 0
    precision: Precision = "fp32"
    guide: Guide | None = None

    def check(self, network: Any, device: torch.device | str = "cpu") -> None:
        """Find errors before anything runs.

        Raises:
            UsageError: sampler and steps that do not fit, classes that the network does not have, guidance
                that it cannot have or never gets, a guide that does not fit, or a precision that the device
                lacks.
        """
        randomness.check_seed(self.seed)
        check_sampler(self.objective.name, self.settings.sampler, self.settings.steps)
        beyond = [c for c in self.classes if not 0 <= c < max(network.num_classes, 1)]
        if beyond:
            raise UsageError(f"{network.name} has classes 0 … {network.num_classes - 1}, not {beyond[0]}")
        if self.guide is not None:
            self.guide.check(network, self.objective)
        labels = torch.zeros(1, dtype=torch.int64)
        self._denoiser(network, labels)
        self._check_interval()
        check_precision(self.precision, device)

    def _check_interval(self) -> None:
        """See that guidance within an interval is applied at all, by a loop over one number."""
        settings, times = self.settings, []
        if settings.guidance_interval is None or (settings.cfg_scale == 1 and self.guide is None):
            return

        def denoiser(x: Tensor, t: Tensor) -> Tensor:
            times.append(float(t[0]))
            return torch.zeros_like(x)

        one, loop = torch.ones(1, 1, 1, 1), sampler(settings.sampler)
        loop.sample(self.objective, denoiser, one, lambda step: one, settings.steps)
        lowest, highest = settings.guidance_interval
        applied = any(lowest <= t <= highest for t in times)
        if len(times) < loop.evaluations(settings.steps):  # adaptive: a network leads to other times
            applied = lowest <= max(times) and min(times) <= highest
        if not applied:
            raise UsageError(
                f"guidance from {lowest:g} to {highest:g} is never applied: none of the times at which "
                f"{settings.sampler} calls the network in {settings.steps} steps, {min(times):g} to "
                f"{max(times):g}, is within; take a wider interval or more steps"
            )

    def _denoiser(self, network: Any, labels: Tensor) -> Denoiser:
        """The network with its labels and guidance."""
        denoiser = self._alone(network, labels)
        if self.guide is None:
            return denoiser
        other = self.guide.denoiser(labels, self.objective)
        return guided_by(denoiser, other, self.guide.scale, self.settings.guidance_interval)

    def _alone(self, network: Any, labels: Tensor) -> Denoiser:
        """The network with its labels and classifier-free guidance, but no guide."""
        settings = self.settings
        return guided(
            translated(network, self.objective),
            labels,
            settings.cfg_scale,
            settings.guided_channels,
            settings.guidance_interval,
            settings.encoder_every or 1,
        )

    def deployed(self, network: Any, device: torch.device | str = "cpu") -> Any:
        """The copy of a network for `grids`: merged, on the device, in the plan's precision.

        What autocast casts at every call, weights of linear layers and convolutions, is cast once instead if
        the output then has the same bits.

        Raises:
            CodeError: see `grids`.
        """
        deployed = network.deploy().to(device)
        if self.precision == "fp32":
            return deployed
        first = torch.zeros(1, dtype=torch.int64, device=device)
        shape = (network.in_channels, *height_width(network.input_size))
        x = randomness.normal(self.seed, "noise", first, shape)
        t = self.objective.sample_timesteps(randomness.uniform(self.seed, "time", first, 1)[:, 0])
        outputs = []
        for cast in (False, True):
            if cast:
                cast_weights(deployed, self.precision)
            denoiser = self._alone(deployed, self.labels_of(first, network.num_classes))
            with torch.inference_mode(), autocast(self.precision, device), tf32(self.settings.tf32, device):
                outputs.append(denoiser(x, t))
        return deployed if torch.equal(*outputs) else network.deploy().to(device)

    def labels_of(self, indices: Tensor, num_classes: int) -> Tensor:
        """Classes of images by their numbers: (N,) -> (N,) int64."""
        classes = torch.tensor(self.classes or range(max(num_classes, 1)), device=indices.device)
        if self.settings.labels == "balanced":
            return classes[indices % len(classes)]
        drawn = randomness.uniform(self.seed, "label", indices, 1)[:, 0]
        return classes[(drawn * len(classes)).long()]

    @torch.inference_mode()  # for all of it: compiled code would be compiled again for other tensors
    def grids(self, network: Any, indices: Tensor) -> Tensor:
        """Samples by their numbers: (N,) on the network's device -> (N, C, H, W) float32.

        Raises:
            CodeError: the network returns something else than a prediction for its input.
        """
        settings = self.settings
        shape = (network.in_channels, *height_width(network.input_size))
        noise = functools.partial(randomness.normal, self.seed, indices=indices, shape=shape)
        labels = self.labels_of(indices, network.num_classes)
        denoiser = self._denoiser(network, labels)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            with autocast(self.precision, x.device):
                return denoiser(x, t).float()

        with tf32(settings.tf32, indices.device):
            return sampler(settings.sampler).sample(
                self.objective,
                predict,
                noise(purpose="noise"),
                lambda step: noise(purpose="step", step=step),
                settings.steps,
            )

    def images(self, network: Any, indices: Tensor, to_images: ToImages) -> np.ndarray:
        """Samples by their numbers as pictures: (N,) on the network's device -> (N, H', W', 3) uint8.

        Raises:
            UsageError: a sample is not finite, or what `to_images` raises.
            CodeError: see `grids`.
        """
        samples, settings = self.grids(network, indices), self.settings
        if not samples.isfinite().all():
            raise UsageError(
                f"samples of {network.name} are not finite (sampler {settings.sampler}, {settings.steps} "
                f"steps, {self.precision}): check the weights, or choose another sampler, other steps or fp32"
            )
        with tf32(settings.tf32, samples.device):
            return to_images(samples)
