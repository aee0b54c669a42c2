"""Samplers on data whose best denoiser is known in closed form, and against scipy's solver."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import registry
from bench.diffusion import check_sampler, objective, sampler
from bench.diffusion.ddpm_samplers import DDIM
from bench.diffusion.ode import Dopri5
from tests.reference.families import recipe2
from tests.registry.networks import families

DDPMS = [{}, {"beta_schedule": "cosine"}, {"prediction_type": "v_prediction"}]
ZERO_TERMINAL = {"prediction_type": "v_prediction", "zero_terminal_snr": True}


def fresh(x):
    return lambda _: torch.randn_like(x)


def predicted(ddpm, t, epsilon_and_x0):
    """What a network trained by the objective gives, from a function of ᾱ to noise and data."""
    a = torch.from_numpy(np.cumprod(1 - ddpm.betas))[t.long()].view(-1, 1, 1, 1)
    epsilon, x0 = epsilon_and_x0(a)
    velocity = a.sqrt() * epsilon - (1 - a).sqrt() * x0
    return (epsilon if ddpm.prediction_type == "epsilon" else velocity).float()


@pytest.mark.parametrize("options", DDPMS)
@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpm++"])
def test_every_loop_ends_at_the_image_that_the_denoiser_knows(name, options):
    torch.manual_seed(0)
    x0, x = torch.randn(2, 1, 4, 4, 4)
    ddpm = objective("ddpm", **options)

    def knows(x, t):
        return predicted(ddpm, t, lambda a: ((x - a.sqrt() * x0) / (1 - a).sqrt(), x0))

    assert (sampler(name).sample(ddpm, knows, x, fresh(x), "50") - x0).abs().max() < 1e-4


M, S = 0.5, 0.3  # mean and deviation of Gaussian data


def gaussian(ddpm):
    """The best prediction for data N(M, S²)."""

    def best(x, t):
        def expected(a):
            off = (x.double() - a.sqrt() * M) / (a * S**2 + 1 - a)
            return (1 - a).sqrt() * off, M + a.sqrt() * S**2 * off

        return predicted(ddpm, t, expected)

    return best


@pytest.mark.parametrize("options", [*DDPMS, ZERO_TERMINAL])
def test_ddpm_sampling_makes_the_distribution_of_gaussian_data(options):
    torch.manual_seed(0)
    x, ddpm = torch.randn(2000, 1, 4, 4), objective("ddpm", **options)
    for name, steps in [("ancestral", "1000"), ("ddim", "1000"), ("dpm++", "100")]:
        made = sampler(name).sample(ddpm, gaussian(ddpm), x, fresh(x), steps)
        assert abs(made.mean() - M) < 0.01 and abs(made.std() - S) < 0.01, name


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "cosine"])
def test_ddim_with_all_its_noise_takes_any_number_of_steps_from_noise_alone(beta_schedule):
    ddpm = objective("ddpm", beta_schedule=beta_schedule, **ZERO_TERMINAL)
    torch.manual_seed(0)
    x = torch.randn(1, 1, 2, 2)
    for steps in [*range(2, 60), 200, 250]:
        made = sampler("ddim", eta=1.0).sample(ddpm, gaussian(ddpm), x, fresh(x), str(steps))
        assert made.isfinite().all(), steps


@pytest.mark.parametrize("options", [*DDPMS, {"beta_schedule": "scaled_linear"}, ZERO_TERMINAL])
@pytest.mark.parametrize(("name", "most"), [("ancestral", 1000), ("ddim", 1000), ("dpm++", 999)])
def test_the_most_steps_visit_none_twice_and_end_at_finite_samples(name, most, options):
    torch.manual_seed(0)
    x, ddpm, visited = torch.randn(4, 1, 4, 4), objective("ddpm", **options), []

    def denoiser(x, t):
        visited.append(int(t[0]))
        return gaussian(ddpm)(x, t)

    assert sampler(name).sample(ddpm, denoiser, x, fresh(x), str(most)).isfinite().all()
    assert len(set(visited)) == len(visited) == most


@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_a_classifier_guides_from_noise_alone(name):
    """At zero terminal SNR the first step has no signal; every later one follows the gradient."""
    torch.manual_seed(0)
    x, ddpm = torch.randn(500, 1, 4, 4), objective("ddpm", **ZERO_TERMINAL)
    means = []
    for pull in (0.0, 1.0):
        made = sampler(name)
        made.gradient = lambda x, t, pull=pull: pull * torch.ones_like(x)
        means.append(made.sample(ddpm, gaussian(ddpm), x, fresh(x), "50").mean())
    assert abs(means[0] - M) < 0.03 and means[1] > means[0] + 0.01


def velocity(x, t):
    """The flow's velocity for data N(M, S²): E[x0 − noise | x]."""
    t = t.view(-1, 1, 1, 1).to(x.dtype)
    return M + (t * S**2 - (1 - t)) / (t**2 * S**2 + (1 - t) ** 2) * (x - t * M)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2)])
def test_flow_solvers_converge_at_their_order(name, order):
    # The velocity is linear in x, and the exact map of the flow is x -> M + S·x.
    torch.manual_seed(0)
    x = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    errors = [
        (sampler(name).sample(objective("flow"), velocity, x, None, str(n)) - (M + S * x)).abs().max()
        for n in (40, 80)
    ]
    assert 0.8 * 2**order < errors[0] / errors[1] < 1.3 * 2**order


@pytest.mark.parametrize(("atol", "rtol"), [(1e-6, 1e-3), (1e-9, 1e-8)])
def test_dopri5_is_scipy_s_in_every_step(atol, rtol):
    torch.manual_seed(0)
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    calls = []

    def counted(x, t):
        calls.append(float(t))
        return velocity(x, t) + torch.sin(40 * t.view(-1, 1, 1, 1))  # rough enough to reject steps

    made = Dopri5(atol, rtol).sample(objective("flow"), counted, x, None, "1000")
    theirs = solve_ivp(
        lambda t, x: counted(torch.from_numpy(x).view(1, 1, 4, 4), torch.tensor([t])).numpy().ravel(),
        (0, 1), x.numpy().ravel(), "RK45", atol=atol, rtol=rtol,
    )  # fmt: skip
    assert len(calls) == 2 * theirs.nfev
    np.testing.assert_allclose(made.numpy().ravel(), theirs.y[:, -1], rtol=1e-9)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_n_steps_are_those_of_sit_with_one_more_time(name):
    """SiT's program gives `linspace(0, 1, num_steps)` to a solver that steps from each time to the next."""
    torch.manual_seed(0)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    expected, num_steps = x, 11
    for t, after in itertools.pairwise(torch.linspace(0, 1, num_steps, dtype=torch.float64)):
        slope = velocity(expected, t)
        ahead = expected + (after - t) * slope
        expected = ahead if name == "euler" else expected + (after - t) * (slope + velocity(ahead, after)) / 2
    made = sampler(name).sample(objective("flow"), velocity, x, None, str(num_steps - 1))
    assert (made - expected).abs().max() < 1e-6
    assert (sampler(name).sample(objective("flow"), velocity, x, None, "11") - expected).abs().max() > 1e-3


def test_dopri5_of_a_sample_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    x = torch.randn(6, 1, 4, 4) * torch.tensor([0.1, 1, 3, 1, 1, 10]).view(-1, 1, 1, 1)
    flow, dopri5 = objective("flow"), sampler("dopri5")
    together = dopri5.sample(flow, velocity, x, None, "100")
    assert (together - (M + S * x)).abs().max() < 3e-3 * 10
    for i in range(6):
        alone = dopri5.sample(flow, velocity, x[i : i + 1], None, "100")
        assert (together[i] - alone[0]).abs().max() < 1e-5


def test_dopri5_says_when_its_steps_are_used_up_and_ends_on_nan():
    x = torch.zeros(2, 1, 2, 2)
    with pytest.raises(registry.UsageError, match="needs more than 2 steps"):
        sampler("dopri5").sample(objective("flow"), velocity, x + 1, None, "2")
    made = sampler("dopri5").sample(objective("flow"), lambda x, t: x * math.nan, x, None, "100")
    assert made.isnan().all()


def law_of_the_sde():
    """Mean and deviation that SiT's SDE sampler has in the limit of small steps, on data N(M, S²).

    At t = 0.96 the marginal of the path; then one step of 0.04 along velocity + σ·score, the score being that
    of the marginal.
    """
    t, last = 0.96, 0.04
    mean, variance = t * M, t**2 * S**2 + (1 - t) ** 2
    slope = (t * S**2 - (1 - t)) / variance - (1 - t) / variance  # of velocity and of σ·score, in x
    return mean + last * M, math.sqrt(variance) * (1 + last * slope)


def test_the_sde_s_marginals_converge_to_those_of_gaussian_data():
    torch.manual_seed(0)
    x = torch.randn(5000, 1, 4, 4)
    made = sampler("euler-maruyama").sample(objective("flow"), velocity, x, fresh(x), "500")
    mean, deviation = law_of_the_sde()
    assert abs(made.mean() - mean) < 0.004 and abs(made.std() - deviation) < 0.004
    assert abs(mean - M) < 0.03 and abs(deviation - S) < 0.03  # the last step's own error
    other = sampler("euler-maruyama").sample(objective("flow"), velocity, x, lambda _: 0 * x, "500")
    assert other.std() < 0.5 * deviation  # it is the noise that keeps the deviation


def test_the_sde_steps_as_released():
    """By hand, as SiT's program has it with its defaults: diffusion form sigma, last step the mean."""
    torch.manual_seed(0)
    x = torch.randn(2, 1, 4, 4)
    noises = torch.randn(9, *x.shape)
    expected, grid = x, np.linspace(0, 0.96, 10)
    drift = lambda x, t: velocity(x, t) + (1 - t) * ((t * velocity(x, t) - x) / (1 - t))  # noqa: E731
    for i, t in enumerate(grid[:-1]):
        t, dt = torch.tensor([t]), grid[1] - grid[0]
        expected = expected + drift(expected, t) * dt + (2 * (1 - t)).sqrt() * noises[i] * math.sqrt(dt)
    expected = expected + drift(expected, torch.tensor([0.96])) * 0.04
    made = sampler("euler-maruyama").sample(objective("flow"), velocity, x, lambda i: noises[i], "10")
    assert (made - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("run", "written"), [("sde", "euler-maruyama last=euler"), ("ode", "euler")])
def test_flowdcn_s_samplers_step_as_released(run, written):
    about, arrays = families.MANIFEST["flowdcn-process"]["runs"][run], families.arrays("flowdcn-process")
    start, *draws = torch.from_numpy(recipe2.draws(about["seed"], about["num_steps"] + 1, (2, 4, 8, 8)))
    labels, null = torch.tensor([5.0, 9.0]).view(2, 1, 1, 1), 10.0
    states, times = [], []

    def denoiser(x, t):
        states.append(x)
        times.append(t[0])
        t = t.view(-1, 1, 1, 1)
        cond, uncond = (0.6 * torch.sin(2 * x + t + 0.1 * y) - 0.4 * x * t + 0.2 * t for y in (labels, null))
        return uncond + about["guidance"] * (cond - uncond)

    steps = str(about["num_steps"])
    end = sampler(written).sample(objective("flow"), denoiser, start, lambda i: draws[i], steps)
    assert (torch.stack(times) - arrays[f"{run}_t"]).abs().max() < 1e-6
    assert (torch.stack([*states, end]) - arrays[f"{run}_x"]).abs().max() < 5e-6


@pytest.mark.parametrize(
    ("name", "sampler_name", "steps", "evaluations"),
    [
        ("ddpm", "ddim", "ddim50", 50),
        ("ddpm", "ancestral", "250", 250),
        ("ddpm", "dpm++", "20", 20),
        ("flow", "euler", "20", 20),
        ("flow", "heun", "20", 40),
        ("flow", "euler-maruyama", "250", 250),
    ],
)
def test_samplers_tell_how_often_they_evaluate(name, sampler_name, steps, evaluations):
    assert check_sampler(name, sampler_name, steps) == evaluations
    calls = []

    def denoiser(x, t):
        calls.append(t)
        return 0 * x

    x = torch.randn(1, 1, 2, 2)
    sampler(sampler_name).sample(objective(name), denoiser, x, fresh(x), steps)
    assert len(calls) == evaluations


@pytest.mark.parametrize(
    ("name", "sampler_name", "steps", "says"),
    [
        ("ddpm", "euler", "10", "is for objective flow, not ddpm, which has: ancestral, ddim, dpm++"),
        ("flow", "ddim", "10", "which has: euler, heun, dopri5, euler-maruyama"),
        ("ddpm", "anc", "10", "unknown sampler 'anc'"),
        ("ddpm", "dpm++", "ddim10", "takes a number of steps"),
        ("ddpm", "dpm++", "1000", "at most 999"),
        ("ddpm", "ddim", "2000", "respacing '2000'"),
        ("flow", "euler", "ddim10", "takes a number of steps"),
        ("flow", "heun", "0", "1 or more"),
        ("flow", "euler-maruyama", "1", "2 or more"),
        ("ddpn", "ddim", "10", "Did you mean 'ddpm'"),
    ],
)
def test_bad_samplers_are_one_line(name, sampler_name, steps, says):
    with pytest.raises(registry.UsageError, match=re.escape(says)) as caught:
        check_sampler(name, sampler_name, steps)
    assert "\n" not in str(caught.value)


def test_ddim_at_eta_one_is_as_noisy_as_the_posterior():
    torch.manual_seed(0)
    x, ddpm = torch.randn(2000, 1, 4, 4), objective("ddpm")
    made = DDIM(1.0).sample(ddpm, gaussian(ddpm), x, fresh(x), "1000")
    assert abs(made.mean() - M) < 0.01 and abs(made.std() - S) < 0.01
