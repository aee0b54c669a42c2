"""What every objective can do: noise data, judge a prediction, and walk from noise to samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from registry.errors import UsageError, suggest

Denoiser = Callable[[Tensor, Tensor], Tensor]  # x (N, C, H, W), t (N,) -> (N, C or 2C, H, W)
Draw = Callable[[int], Tensor]  # number of the step in the loop, from 0 -> noise (N, C, H, W)


class Objective(ABC):
    """One way to train a denoiser and to sample from it.

    A network's output may have twice the channels of its input; the first half is then the prediction,
    the second what the objective makes of it.

    Attributes:
        name: as `objective` takes it.
        samplers: names that `sample` takes, the usual one first.
    """

    name: ClassVar[str]
    samplers: ClassVar[tuple[str, ...]]

    @abstractmethod
    def times(self, u: Tensor) -> Tensor:
        """Times to train at: (N,) uniform in [0, 1) -> (N,), as the network sees them."""

    @abstractmethod
    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Data (N, C, H, W) and standard normal noise of that shape at times (N,) -> (N, C, H, W)."""

    @abstractmethod
    def losses(self, output: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Terms of the loss for each sample, (N,) each; `loss` is what is minimised.

        Args:
            output: what the network gave for (x_t, t), (N, C or 2C, H, W).
            x0, noise, x_t, t: as for `noised`, and its result.
        """

    @abstractmethod
    def sample(self, denoiser: Denoiser, x: Tensor, draw: Draw, *, sampler: str, steps: str) -> Tensor:
        """The whole loop from noise to samples, (N, C, H, W) -> (N, C, H, W), without clipping.

        Args:
            denoiser: the network with its labels and guidance.
            x: standard normal noise.
            draw: the noise of each step of a stochastic sampler.
            sampler: one of `samplers`.
            steps: how many, or how they are spaced, as `check_sampler` takes it.

        Raises:
            UsageError: see `check_sampler`.
        """

    @abstractmethod
    def check_sampler(self, sampler: str, steps: str) -> int:
        """Network evaluations that a loop of this kind takes.

        Raises:
            UsageError: no such sampler, or steps that it cannot take.
        """

    def _check_name(self, sampler: str) -> None:
        if sampler not in self.samplers:
            raise UsageError(
                f"objective {self.name} has no sampler {sampler!r}.{suggest(sampler, list(self.samplers))} "
                f"It has: {', '.join(self.samplers)}."
            )
