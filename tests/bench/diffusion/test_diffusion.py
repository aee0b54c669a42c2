"""Losses and sampling loops against the original program (tests/reference/diffusion.npz) and closed forms."""

import functools
import re

import numpy as np
import pytest
import torch

import registry
from bench.diffusion import objective
from bench.diffusion.gaussian import Diffusion, respaced
from bench.diffusion.guidance import guided
from tests.conftest import REFERENCE

STORED = np.load(REFERENCE / "diffusion.npz")


def stand_in(x, t):
    """The denoiser behind the stored values."""
    s = (t / 1000).view(-1, 1, 1, 1)
    return torch.cat([0.6 * x + 0.3 * torch.sin(3 * x + s), torch.tanh(0.5 * x - s)], dim=1)


def drawn(seed):
    """The noise behind the stored loops: first x_T, then that of each step in turn."""
    generator = np.random.default_rng(seed)
    return lambda _: torch.from_numpy(generator.standard_normal((2, 4, 8, 8)).astype(np.float32))


def close(ours, stored):
    assert (ours - torch.from_numpy(STORED[stored])).abs().max() < 1e-5


@pytest.mark.parametrize("respacing", ["10", "ddim10"])
def test_ancestral_loop_equals_the_original(respacing):
    diffusion = Diffusion(respacing)
    assert diffusion.timesteps == STORED[f"timesteps_{respacing}"].tolist()
    draw = drawn(111)
    close(diffusion.sample(stand_in, draw(0), draw), f"p_sample_{respacing}")


@pytest.mark.parametrize(("eta", "stored"), [(0.0, "ddim_sample_ddim10"), (1.0, "ddim_eta1_ddim10")])
def test_ddim_loop_equals_the_original(eta, stored):
    draw = drawn(211)
    close(Diffusion("ddim10").sample_ddim(stand_in, draw(0), draw, eta), stored)


def test_losses_and_their_gradients_equal_the_original():
    x0, noise, t, x_t = (torch.from_numpy(STORED[name]) for name in ("x0", "noise", "t", "x_t"))
    ddpm = objective("ddpm")
    close(ddpm.noised(x0, noise, t), "x_t")
    output = stand_in(x_t, t).requires_grad_()
    losses = ddpm.losses(output, x0, noise, x_t, t)
    for term in ("mse", "vb", "loss"):
        close(losses[term].detach(), term)
    losses["loss"].mean().backward()
    close(output.grad[:, :4], "grad_noise")
    close(output.grad[:, 4:], "grad_variance")


def test_without_a_learned_variance_the_loss_is_the_error_of_the_noise():
    x0, noise, t, x_t = (torch.from_numpy(STORED[name]) for name in ("x0", "noise", "t", "x_t"))
    losses = objective("ddpm").losses(stand_in(x_t, t)[:, :4], x0, noise, x_t, t)
    assert set(losses) == {"loss", "mse"} and torch.equal(losses["loss"], losses["mse"])
    close(losses["mse"], "mse")


def test_respacings():
    assert respaced("ddim10") == STORED["timesteps_ddim10"].tolist()
    assert respaced("ddim50") == list(range(0, 1000, 20))
    assert respaced("250") == [round(i * 999 / 249) for i in range(250)]
    assert respaced("1000") == list(range(1000)) and respaced("1") == [0]


@pytest.mark.parametrize("respacing", ["0", "1001", "fast", "ddim", "ddim999", "", "-5"])
def test_no_such_respacing(respacing):
    with pytest.raises(registry.UsageError):
        respaced(respacing)


def knows(x0):
    """A denoiser that knows the one image there is, and so predicts the true noise."""
    kept = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))

    def predict(x, t):
        a = kept[t.long()].view(-1, 1, 1, 1)
        return ((x - a.sqrt() * x0) / (1 - a).sqrt()).float()

    return predict


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++"])
def test_every_loop_ends_at_the_image_that_the_denoiser_knows(sampler):
    torch.manual_seed(0)
    x0, x = torch.randn(2, 1, 4, 4, 4)
    made = objective("ddpm").sample(knows(x0), x, lambda _: torch.randn_like(x), sampler=sampler, steps="50")
    assert (made - x0).abs().max() < 1e-4


def test_ddpm_sampling_makes_the_distribution_of_gaussian_data():
    # For data N(m, s²) the best noise prediction is known in closed form; samples must have that law.
    m, s = 0.5, 0.3
    kept = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))

    def best(x, t):
        a = kept[t.long()].view(-1, 1, 1, 1)
        return ((1 - a).sqrt() * (x - a.sqrt() * m) / (a * s**2 + 1 - a)).float()

    torch.manual_seed(0)
    x = torch.randn(2000, 1, 4, 4)
    for sampler, steps in [("ancestral", "1000"), ("ddim", "ddim1000"), ("dpm++", "100")]:
        made = objective("ddpm").sample(best, x, lambda _: torch.randn_like(x), sampler=sampler, steps=steps)
        assert abs(made.mean() - m) < 0.01 and abs(made.std() - s) < 0.01, sampler


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_flow_solvers_converge_at_their_order(sampler, order):
    # For data N(0, s²) the velocity is linear in x, and the exact map of the flow is x -> s·x.
    s = 0.3

    def velocity(x, t):
        t = t.view(-1, 1, 1, 1).double()
        return x * (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2)

    torch.manual_seed(0)
    x = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    errors = [
        (objective("flow").sample(velocity, x, None, sampler=sampler, steps=str(n)) - s * x).abs().max()
        for n in (40, 80)
    ]
    assert 0.8 * 2**order < errors[0] / errors[1] < 1.3 * 2**order


def test_flow_is_a_straight_line_whose_velocity_is_learned():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 8, 8)
    flow, t = objective("flow"), torch.tensor([0.0, 0.25, 1.0])
    assert torch.equal(flow.noised(x0, noise, t)[0], noise[0])
    assert torch.equal(flow.noised(x0, noise, t)[2], x0[2])
    ahead = (flow.noised(x0, noise, t + 0.01) - flow.noised(x0, noise, t)) / 0.01
    assert flow.losses(ahead, x0, noise, x0, t)["loss"].max() < 1e-8
    beside = torch.cat([x0 - noise + 2, torch.randn_like(x0)], 1)  # channels that SiT's networks have over
    assert torch.allclose(flow.losses(beside, x0, noise, x0, t)["loss"], torch.tensor(4.0))


def test_training_times():
    u = torch.tensor([0.0, 0.4999, 1 - 2**-24])
    assert objective("ddpm").times(u).tolist() == [0, 499, 999]
    assert torch.equal(objective("flow").times(u), u)


@pytest.mark.parametrize(
    ("name", "sampler", "steps", "evaluations"),
    [("ddpm", "ddim", "ddim50", 50), ("ddpm", "ancestral", "250", 250), ("flow", "heun", "20", 40)],
)
def test_samplers_tell_how_often_they_evaluate(name, sampler, steps, evaluations):
    assert objective(name).check_sampler(sampler, steps) == evaluations


@pytest.mark.parametrize(
    ("name", "sampler", "steps", "says"),
    [
        ("ddpm", "euler", "10", "no sampler 'euler'"),
        ("ddpm", "anc", "10", "It has: ancestral, ddim, dpm++"),
        ("ddpm", "dpm++", "ddim10", "takes a number of steps"),
        ("ddpm", "ddim", "2000", "respacing '2000'"),
        ("flow", "euler", "ddim10", "takes a number of steps"),
        ("flow", "heun", "0", "1 or more"),
    ],
)
def test_bad_samplers_are_one_line(name, sampler, steps, says):
    with pytest.raises(registry.UsageError, match=re.escape(says)) as caught:
        objective(name).check_sampler(sampler, steps)
    assert "\n" not in str(caught.value)


def test_unknown_objective():
    with pytest.raises(registry.UsageError, match="ddpm or flow"):
        objective("ddpn")


def test_guidance_equals_the_formula_and_one_is_the_network_itself():
    torch.manual_seed(0)
    net = registry.create("udit-t", input_size=8, num_classes=10, hidden_size=16).eval()
    for parameter in net.parameters():  # zero at first, so that labels would change nothing
        torch.nn.init.normal_(parameter, std=0.1)
    x, t, y = net.example_inputs(3)
    null = torch.full_like(y, 10)
    with torch.inference_mode():
        cond, uncond = net(x, t, y), net(x, t, null)
        close_to = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
        close_to(guided(net, y)(x, t), cond)
        for channels, count in ((3, 3), (None, 4)):
            made = guided(net, y, 1.5, channels)(x, t)
            close_to(made[:, :count], (uncond + 1.5 * (cond - uncond))[:, :count])
            close_to(made[:, count:], cond[:, count:])


def test_no_guidance_without_a_null_class():
    for overrides in ({"num_classes": 0}, {"class_dropout_prob": 0.0}):
        net = registry.create("dit-s-4", input_size=8, depth=1, **overrides)
        with pytest.raises(registry.UsageError, match="no null class"):
            guided(net, torch.tensor([1]), 1.5)
