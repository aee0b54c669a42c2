"""Base classes of objectives and samplers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from bench.diffusion.plugins import lineage, samplers_for
from registry.errors import UsageError
from registry.training_output import TrainingOutput
from registry.variables import Variables

Denoiser = Callable[[Tensor, Tensor], Tensor]  # x (N, C, H, W), t (N,) -> (N, C or 2C, H, W)
Noise = Callable[[int], Tensor]  # number of the step in the loop, from 0 -> standard normal (N, C, H, W)


class Objective(ABC):
    """A training objective: how data is noised, what the network predicts, and the loss.

    A network's output may have twice the channels of its input. The first half is then the prediction; the
    objective defines the second, such as the variance range of DDPM.

    Attributes:
        name: as registered; set by `bench.diffusion.objective`.
        version: raise it when the same settings give other numbers; part of each record.
        preview: sampler and steps of the preview images at each checkpoint; None: no previews.
        stratified: whether the times of a training batch are spread evenly; see `stratify`.
        variables: what a network is given and what it predicts. If the class itself sets it, networks of any
            natural objective can be trained under this one (`bench.diffusion.translation`). It is not
            inherited.
    """

    name: str = ""
    variables: Variables | None = None
    preview: ClassVar[tuple[str, str] | None] = None
    version: ClassVar[int] = 1
    stratified: bool = False

    @abstractmethod
    def sample_timesteps(self, u: Tensor) -> Tensor:
        """Times to train at: (N,) uniform in [0, 1) -> (N,), as the network sees them."""

    @abstractmethod
    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t from data and standard normal noise, (N, C, H, W) each, at times (N,) -> (N, C, H, W)."""

    @abstractmethod
    def losses(self, output: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Terms of the loss for each sample, (N,) each: `loss` is minimised, `mse` the prediction's error.

        Args:
            output: of the network for (x_t, t), (N, C or 2C, H, W).
            x0, noise, x_t, t: as for `add_noise`, and its result.
        """

    def training_losses(
        self, output: Tensor | TrainingOutput, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor
    ) -> dict[str, Tensor]:
        """`losses` of a network's output in training mode, in any floating-point dtype.

        With a learned log variance u the loss is loss / exp(u) + u, and `log_variance` is u. Losses that the
        network returns itself are added, and are listed by their names.

        Raises:
            UsageError: a loss of the network has the name of a loss of the objective.
        """
        if not isinstance(output, TrainingOutput):
            return self.losses(output.float(), x0, noise, x_t, t)
        terms = self.losses(output.prediction.float(), x0, noise, x_t, t)
        if output.log_variance is not None:
            u = output.log_variance.float()
            terms |= {"loss": terms["loss"] / u.exp() + u, "log_variance": u}
        for name, value in output.losses.items():
            if name in terms:
                raise UsageError(f"the network returns a loss {name!r}, which {self.name} has: rename it")
            terms |= {"loss": terms["loss"] + value.float(), name: value.float()}
        return terms

    @abstractmethod
    def to_epsilon(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The prediction converted to a noise prediction, so that objectives can be compared at equal SNR.

        Args:
            prediction: (N, C or 2C, H, W), of which the first C channels are read.
            x_t: (N, C, H, W).
            t: (N,).

        Returns:
            (N, C, H, W).
        """

    @abstractmethod
    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio α²/σ² of x_t = α·x0 + σ·noise at times (N,) -> (N,) float32."""

    @abstractmethod
    def timesteps_at_snr(self, snr: Tensor) -> Tensor:
        """Times, as given to the network, whose signal-to-noise ratio is nearest: (N,) -> (N,)."""

    def snr_range(self) -> tuple[float, float]:
        """Lowest and highest signal-to-noise ratio in training; by default 0 and infinity."""
        return 0.0, math.inf


def stratify(u: Tensor, places: Tensor, count: int) -> Tensor:
    """For a batch of `count` samples, one number in each of `count` equal parts of [0, 1).

    Args:
        u: (N,) uniform in [0, 1), multiples of 2⁻²⁴.
        places: (N,) index of each sample in the batch, 0 … count − 1.
        count: number of samples of the batch.

    Returns:
        (place + u) / count, (N,), rounded down to multiples of 2⁻²⁴, so that all are below 1.
    """
    return ((places + u.double()) / count * 2**24).floor().float() * 2.0**-24


AnyObjective = TypeVar("AnyObjective", bound=Objective)  # the kind of objective that a sampler reads


class Sampler(ABC, Generic[AnyObjective]):
    """A sampler: the loop from noise to samples.

    A subclass sets `objectives` and defines `loop`. It also defines `evaluations` if a step takes more than
    one evaluation of the network or `steps` is not a number.

    Attributes:
        name: as registered; set by `bench.diffusion.sampler`.
        objectives: names of the objectives that it can sample, with subclasses of them.
        version: raise it when the same settings give other images; part of each record.
    """

    name: str = ""
    version: ClassVar[int] = 1
    objectives: ClassVar[tuple[str, ...]]

    def check(self, objective_name: str, steps: str) -> int:
        """Number of network evaluations of a loop; for an adaptive sampler the largest possible.

        Raises:
            UsageError: the sampler does not support the objective or the steps.
        """
        known = self.objectives
        if objective_name not in known and not lineage(objective_name).intersection(known):
            raise UsageError(
                f"sampler {self.name} is for objective {' or '.join(known)}, not {objective_name}, "
                f"which has: {', '.join(samplers_for(objective_name)) or 'none'}"
            )
        return self.evaluations(steps)

    def evaluations(self, steps: str) -> int:
        """Network evaluations for these steps; here one for each of a plain number of steps.

        Raises:
            UsageError: steps that the sampler cannot take.
        """
        return self.number(steps)

    def number(self, steps: str, least: int = 1) -> int:
        """Steps as a number, `least` or more.

        Raises:
            UsageError: they are not.
        """
        if not steps.isdecimal() or int(steps) < least:
            raise UsageError(f"sampler {self.name} takes a number of steps, {least} or more, not {steps!r}")
        return int(steps)

    @torch.inference_mode()
    def sample(
        self, objective: AnyObjective, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str
    ) -> Tensor:
        """From noise to samples, (N, C, H, W) -> (N, C, H, W), without clipping.

        Args:
            objective: objective that the network was trained with.
            denoiser: the network with its labels and guidance, see `bench.diffusion.guidance`.
            x: standard normal noise, (N, C, H, W).
            noise: gives the noise of each step, (N, C, H, W); only stochastic samplers call it.
            steps: number of steps, or a respacing such as `ddim50`.

        Raises:
            UsageError: see `check`.
        """
        self.check(objective.name, steps)
        return self.loop(objective, denoiser, x, noise, steps)

    @abstractmethod
    def loop(
        self, objective: AnyObjective, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str
    ) -> Tensor:
        """The loop itself; see `sample`, which has checked that objective and steps fit."""
