"""EDM: losses and sampler against the authors' program (tests/reference/families), and closed forms."""

import json

import numpy as np
import pytest
import torch

import registry
from bench.diffusion import check_sampler, objective, sampler
from bench.diffusion.base import stratify
from bench.diffusion.edm import EDMHeun
from bench.diffusion.guidance import guided_by
from tests.conftest import REFERENCE
from tests.reference.families import recipe2
from tests.registry.networks import families

STORED = np.load(REFERENCE / "families" / "edm2-process.npz")
MANIFEST = json.loads((REFERENCE / "families" / "manifest.json").read_text())["edm2-process"]
RUNS = MANIFEST["runs"]
OPTIONS = {"churn": "S_churn", "s_min": "S_min", "s_max": "S_max", "s_noise": "S_noise"}  # ours: theirs


def stored(name):
    return torch.from_numpy(STORED[name])


def preconditioned(x, sigma, f):
    """The denoised data of a network's output f(u, ln(σ)/4), σ_data = 0.5."""
    s = sigma.view(-1, 1, 1, 1)
    u, c = x / (s**2 + 0.25).sqrt(), s.log() / 4
    return 0.25 / (s**2 + 0.25) * x + 0.5 * s / (s**2 + 0.25).sqrt() * f(u, c)


def stand_in(x, sigma):
    """The denoiser behind the stored values."""
    return preconditioned(x, sigma, lambda u, c: 0.5 * torch.sin(2 * u + c) - 0.3 * u)


def guide(x, sigma):
    """The network that guides it."""
    return preconditioned(x, sigma, lambda u, c: 0.4 * torch.cos(u - c))


def draws(seed, n, shape):
    return torch.from_numpy(recipe2.draws(seed, n, shape))


def test_losses_and_their_gradients_equal_the_original():
    of, edm = MANIFEST["loss"], objective("edm", p_mean=-0.4, p_std=1.0)
    x0, noise = 0.5 * draws(of["seed_x0"], 1, (4, 4, 8, 8))[0], draws(of["seed_noise"], 1, (4, 4, 8, 8))[0]
    normal = draws(of["seed_rnd"], 1, (4, 1, 1, 1))[0].flatten()
    sigma = edm.sample_timesteps(torch.special.ndtr(normal.double()))
    torch.testing.assert_close(sigma, stored("loss_sigma"), rtol=2e-6, atol=0)
    sigma = stored("loss_sigma")
    noisy = edm.add_noise(x0, noise, sigma)
    torch.testing.assert_close(noisy, stored("loss_noisy"))
    denoised = stand_in(noisy, sigma).requires_grad_()
    assert (denoised - stored("loss_denoised")).abs().max() < 1e-5
    u = (0.3 * sigma.sin() - 0.2).requires_grad_()
    torch.testing.assert_close(u.detach(), stored("loss_logvar"))
    terms = edm.training_losses(registry.TrainingOutput(denoised, u), x0, noise, noisy, sigma)
    torch.testing.assert_close(terms["loss"], stored("loss").flatten(1).mean(1), rtol=1e-5, atol=1e-6)
    # Theirs is the sum over elements.
    (terms["loss"].mean() * x0[0].numel()).backward()
    torch.testing.assert_close(denoised.grad, stored("loss_grad_denoised"), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(u.grad, stored("loss_grad_logvar"), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("run", RUNS)
def test_the_sampler_equals_the_original_at_every_call(run):
    of = RUNS[run]
    options = {ours: of[theirs] for ours, theirs in OPTIONS.items() if theirs in of}
    start, *later = draws(of["seed"], of["num_steps"] + 1, (2, 4, 8, 8))
    later = iter(later)
    used, calls = [], []

    def noise(step):
        used.append(step)
        return next(later)

    def denoiser(x, sigma):
        calls.append((x, sigma))
        return stand_in(x, sigma)

    if scale := of.get("guidance"):
        denoiser = guided_by(denoiser, guide, scale)
    steps = str(of["num_steps"])
    made = EDMHeun(**options).sample(objective("edm"), denoiser, start, noise, steps)
    assert len(used) == of["noise_draws_used"]
    sigmas, inputs = stored(f"{run}_sigmas"), stored(f"{run}_calls")
    assert len(calls) == len(sigmas) == check_sampler("edm", "edm-heun", steps)
    for (x, sigma), expected_sigma, expected in zip(calls, sigmas, inputs, strict=True):
        torch.testing.assert_close(sigma, expected_sigma.expand(2), rtol=1e-6, atol=0)
        assert ((x - expected) / expected_sigma.clamp(min=1)).abs().max() < 1.2e-5
    assert (made - stored(f"{run}_final")).abs().max() < 1.2e-5


@pytest.mark.parametrize(("options", "steps"), [({}, "40"), ({"churn": 20.0}, "400")])
def test_sampling_makes_the_distribution_of_gaussian_data(options, steps):
    torch.manual_seed(0)

    def best(x, sigma):  # of data N(0.5, 0.3²)
        variance = (sigma**2).view(-1, 1, 1, 1)
        return (0.09 * x + variance * 0.5) / (0.09 + variance)

    x = torch.randn(2000, 1, 4, 4)
    made = EDMHeun(**options).sample(objective("edm"), best, x, lambda _: torch.randn_like(x), steps)
    assert abs(made.mean() - 0.5) < 0.01 and abs(made.std() - 0.3) < 0.01


def test_what_is_denoised_converts_to_the_noise():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 8, 8)
    edm, sigma = objective("edm"), torch.tensor([0.01, 1.0, 50.0])
    x = edm.add_noise(x0, noise, sigma)
    for output in (x0, torch.cat([x0, noise], 1)):
        assert (edm.to_epsilon(output, x, sigma) - noise).abs().max() < 1e-3  # 1e-7 / 0.01 and more
        assert edm.losses(output, x0, noise, x, sigma)["loss"].max() == 0
    assert torch.allclose(edm.timesteps_at_snr(edm.snr(sigma)), sigma)


def test_at_equal_signal_to_noise_edm_and_ddpm_see_the_same_grid_but_for_its_scale():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 8, 8)
    edm, ddpm, steps = objective("edm"), objective("ddpm"), torch.tensor([10, 500, 900])
    sigma = edm.timesteps_at_snr(ddpm.snr(steps))
    alpha = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[steps].sqrt()
    one, other = edm.add_noise(x0, noise, sigma), ddpm.add_noise(x0, noise, steps)
    assert (one * alpha.view(-1, 1, 1, 1) - other).abs().max() < 1e-4


def test_every_sigma_of_training_is_finite_and_its_logarithm_normal():
    edm = objective("edm", p_mean=-0.8, p_std=1.6)
    sigma = edm.sample_timesteps(torch.arange(2**24) * 2.0**-24)
    assert sigma.isfinite().all() and sigma.min() > 0
    assert float(sigma.log().mean()) == pytest.approx(-0.8, abs=1e-4)
    assert float(sigma.log().std()) == pytest.approx(1.6, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: objective("edm p_std=0"), "takes p_std and sigma_data above 0, not 0"),
        (lambda: objective("edm sigma_min=0"), "takes 0 < sigma_min < sigma_max, not sigma_min 0"),
        (lambda: objective("edm image_side=16"), "takes 0 < low_side <= image_side, not low_side 32"),
        (lambda: objective("edm density=cosine"), "option density must be 'log-normal' | 'v'"),
        (lambda: sampler("edm-heun sigma_min=2 sigma_max=1"), "takes 0 < sigma_min < sigma_max"),
        (lambda: sampler("edm-heun churn=-1"), "takes a churn of at least 0, not -1"),
        (lambda: sampler("edm-heun churn=nan"), "takes a churn of at least 0, not nan"),
        (lambda: check_sampler("edm", "edm-heun", "1"), "takes a number of steps, 2 or more"),
        (lambda: check_sampler("edm", "ddim", "10"), "which has: edm-heun"),
    ],
)
def test_mistakes_are_one_line(make, says):
    with pytest.raises(registry.UsageError, match=says):
        make()


HDIT = families.MANIFEST["hdit-process"]


@pytest.mark.parametrize("density", ["cosine-interpolated", "v"])
def test_hdit_s_sigmas_equal_the_original(density):
    of = HDIT["schedule"]
    sides = {"image_side": of["image_d"], "low_side": of["noise_d_low"]}
    edm = objective("edm", density=density, sigma_min=of["min_value"], sigma_max=of["max_value"], **sides)
    u = torch.from_numpy(np.random.default_rng(HDIT["seeds"]["u"]).random(8))
    expected = families.arrays("hdit-process")[f"sigma_{density.replace('-', '_')}"]
    torch.testing.assert_close(edm.sample_timesteps(u), expected, rtol=3e-6, atol=0)
    limits = edm.sample_timesteps(torch.tensor([0.0, 1.0], dtype=torch.float64)).sort().values
    assert torch.allclose(limits, torch.tensor([1e-3, 1e3]), rtol=1e-5)
    assert np.allclose(edm.snr_range(), (1e-6, 1e6))


@pytest.mark.parametrize("weighting", ["karras", "soft-min-snr", "snr"])
def test_hdit_s_losses_and_their_gradients_equal_the_original(weighting):
    arrays, edm = families.arrays("hdit-process"), objective("edm", weighting=weighting)
    shape = (4, 4, 8, 8)
    x0, noise = 0.5 * draws(HDIT["seeds"]["x0"], 1, shape)[0], draws(HDIT["seeds"]["noise"], 1, shape)[0]
    sigma = arrays["loss_sigma"]
    raw = []

    def network(u, c):
        raw.append((0.5 * torch.sin(2 * u + c) - 0.3 * u).requires_grad_())
        return raw[0]

    noisy = edm.add_noise(x0, noise, sigma)
    denoised = preconditioned(noisy, sigma, network)
    assert (denoised - arrays["denoised"]).abs().max() < 1e-5
    loss = edm.losses(denoised, x0, noise, noisy, sigma)["loss"]
    torch.testing.assert_close(loss, arrays[f"loss_{weighting}"], rtol=1e-5, atol=0)
    loss.mean().backward()
    torch.testing.assert_close(raw[0].grad, arrays[f"grad_{weighting}"], rtol=1e-4, atol=1e-6)


def test_a_stratified_batch_has_one_number_in_each_part():
    u, places = torch.tensor([0.0, 1 - 2**-24, 0.5, 1 - 2**-24]), torch.tensor([2, 3, 0, 1])
    assert torch.equal(stratify(u, places, 4), torch.tensor([0.5, 1 - 2**-24, 0.125, 0.5 - 2**-24]))
    sigma = objective("edm", stratified=True).sample_timesteps(stratify(u, places, 4))
    assert sigma.isfinite().all() and sigma[1] == sigma.max()
