"""The straight flow: path, velocity, conversions."""

import pytest
import torch

import registry
from bench.diffusion import objective


def test_flow_is_a_straight_line_whose_velocity_is_learned():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 8, 8)
    flow, t = objective("flow"), torch.tensor([0.0, 0.25, 1.0])
    assert torch.equal(flow.add_noise(x0, noise, t)[0], noise[0])
    assert torch.equal(flow.add_noise(x0, noise, t)[2], x0[2])
    ahead = (flow.add_noise(x0, noise, t + 0.01) - flow.add_noise(x0, noise, t)) / 0.01
    assert flow.losses(ahead, x0, noise, x0, t)["loss"].max() < 1e-8
    beside = torch.cat([x0 - noise + 2, torch.randn_like(x0)], 1)  # channels that SiT's networks have over
    assert torch.allclose(flow.losses(beside, x0, noise, x0, t)["loss"], torch.tensor(4.0))


def test_velocity_converts_to_the_noise():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 8, 8)
    flow, t = objective("flow"), torch.tensor([0.0, 0.25, 1.0])
    x_t = flow.add_noise(x0, noise, t)
    assert (flow.to_epsilon(torch.cat([x0 - noise, x0], 1), x_t, t) - noise).abs().max() < 1e-5


def test_times():
    u = torch.tensor([0.0, 0.4999, 1 - 2**-24])
    assert torch.equal(objective("flow").sample_timesteps(u), u)


def test_at_equal_signal_to_noise_flow_and_ddpm_see_the_same_grid_but_for_its_scale():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 8, 8)
    flow, ddpm, steps = objective("flow"), objective("ddpm"), torch.tensor([10, 500, 900])
    t = flow.timesteps_at_snr(ddpm.snr(steps))
    one, other = flow.add_noise(x0, noise, t), ddpm.add_noise(x0, noise, steps)
    scale = (1 - t).view(-1, 1, 1, 1) / (
        1 - torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[steps]
    ).sqrt().view(-1, 1, 1, 1)
    assert (one - scale * other).abs().max() < 1e-4
    assert torch.allclose(flow.snr(t), ddpm.snr(steps), rtol=1e-4)


def test_options_of_ddpm_are_not_for_flow():
    with pytest.raises(
        registry.UsageError, match=r"objective 'flow' takes no option 'beta_schedule'\. It takes: times"
    ):
        objective("flow", beta_schedule="cosine")
