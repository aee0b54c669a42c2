"""β schedules against the schedulers of diffusers."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

import registry
from registry.schedules import betas
from registry.variables import Variables

THEIRS = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("beta_schedule", THEIRS)
def test_schedules_are_those_of_diffusers(beta_schedule, zero_terminal_snr):
    ours = betas(beta_schedule, zero_terminal_snr)
    theirs = DDPMScheduler(**THEIRS[beta_schedule], rescale_betas_zero_snr=zero_terminal_snr)
    assert ours.dtype == np.float64 and ours.shape == (1000,)
    # theirs are float32, and where β is near 1, ᾱ has lost digits in them
    np.testing.assert_allclose(ours, theirs.betas.numpy(), rtol=1e-4, atol=1e-5)
    alphas_cumprod = np.cumprod(1 - ours)
    np.testing.assert_allclose(alphas_cumprod, theirs.alphas_cumprod.numpy(), atol=2e-6)
    if zero_terminal_snr:
        assert alphas_cumprod[-1] == 0 and alphas_cumprod[0] == pytest.approx(1 - betas(beta_schedule)[0])


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("beta_schedule", THEIRS)
def test_the_step_at_the_log_snr_of_a_step_is_that_step(beta_schedule, zero_terminal_snr):
    own = Variables("v_prediction", "step", "vp", beta_schedule, zero_terminal_snr)
    steps = torch.arange(1000)
    torch.testing.assert_close(own.time_at(own.log_snr(steps)), steps.float(), rtol=0, atol=1e-3)


def test_unknown_schedule():
    with pytest.raises(registry.UsageError, match="Did you mean 'linear'"):
        betas("linaer")
