"""Sampling of DDPM-trained networks by DPM-Solver++ (arXiv 2211.01095), the scheduler of diffusers."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from bench.diffusion import samplers
from bench.diffusion.base import Denoiser, Noise, Sampler
from bench.diffusion.ddpm import DDPM, split
from registry.errors import UsageError
from registry.schedules import NUM_TRAIN_TIMESTEPS


@samplers.register("dpm++")
class DPMSolver(Sampler[DDPM]):
    """DPM-Solver++ of second order, multistep; `steps` is a number up to 999.

    The loop ends at step 0 without a call there, so 1000 steps would visit one of the other 999 twice.
    """

    objectives: ClassVar[tuple[str, ...]] = ("ddpm",)

    def evaluations(self, steps: str) -> int:
        """As many as steps."""
        if self.number(steps) >= NUM_TRAIN_TIMESTEPS:
            raise UsageError(
                f"sampler {self.name} takes at most {NUM_TRAIN_TIMESTEPS - 1} steps, not {steps}"
            )
        return int(steps)

    def loop(self, objective: DDPM, denoiser: Denoiser, x: Tensor, noise: Noise, steps: str) -> Tensor:
        """See `Sampler.sample`."""
        from diffusers import DPMSolverMultistepScheduler

        scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=NUM_TRAIN_TIMESTEPS,
            trained_betas=objective.betas,
            prediction_type=objective.prediction_type,
            # β is rescaled already and stays as it is: this keeps the last SNR a little above zero.
            rescale_betas_zero_snr=objective.zero_terminal_snr,
            algorithm_type="dpmsolver++",
        )
        scheduler.set_timesteps(int(steps), device=x.device)
        scheduler.set_begin_index(0)  # otherwise it searches the timesteps, and the CPU waits for the GPU
        for t in scheduler.timesteps:
            prediction, _ = split(denoiser(x, t.expand(len(x))), x.shape[1])
            x = scheduler.step(prediction, t, x).prev_sample
        return x
