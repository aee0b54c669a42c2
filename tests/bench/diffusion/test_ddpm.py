"""DDPM: losses and loops against the original program (tests/reference/diffusion.npz), options by algebra."""

import numpy as np
import pytest
import torch

import registry
from bench.diffusion import objective, sampler
from bench.diffusion.ddpm_samplers import DDIM
from bench.diffusion.respacing import respaced_timesteps
from tests.conftest import REFERENCE

STORED = np.load(REFERENCE / "diffusion.npz")
ALPHAS_CUMPROD = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))


def stand_in(x, t):
    """The denoiser behind the stored values."""
    s = (t / 1000).view(-1, 1, 1, 1)
    return torch.cat([0.6 * x + 0.3 * torch.sin(3 * x + s), torch.tanh(0.5 * x - s)], dim=1)


def stored_noise(seed):
    """The noise behind the stored loops: first x_T, then that of each step in turn."""
    generator = np.random.default_rng(seed)
    return lambda _: torch.from_numpy(generator.standard_normal((2, 4, 8, 8)).astype(np.float32))


def stored(*names):
    return [torch.from_numpy(STORED[name]) for name in names]


def close(ours, name):
    assert (ours - torch.from_numpy(STORED[name])).abs().max() < 1e-5


@pytest.mark.parametrize("respacing", ["10", "ddim10"])
def test_ancestral_loop_equals_the_original(respacing):
    assert objective("ddpm").respaced(respacing).timesteps == STORED[f"timesteps_{respacing}"].tolist()
    noise = stored_noise(111)
    made = sampler("ancestral").sample(objective("ddpm"), stand_in, noise(0), noise, respacing)
    close(made, f"p_sample_{respacing}")


@pytest.mark.parametrize(("eta", "name"), [(0.0, "ddim_sample_ddim10"), (1.0, "ddim_eta1_ddim10")])
def test_ddim_loop_equals_the_original(eta, name):
    noise = stored_noise(211)
    close(DDIM(eta).sample(objective("ddpm"), stand_in, noise(0), noise, "ddim10"), name)


def test_losses_and_their_gradients_equal_the_original():
    x0, noise, t, x_t = stored("x0", "noise", "t", "x_t")
    ddpm = objective("ddpm")
    close(ddpm.add_noise(x0, noise, t), "x_t")
    output = stand_in(x_t, t).requires_grad_()
    losses = ddpm.losses(output, x0, noise, x_t, t)
    for term in ("mse", "vb", "loss"):
        close(losses[term].detach(), term)
    losses["loss"].mean().backward()
    close(output.grad[:, :4], "grad_noise")
    close(output.grad[:, 4:], "grad_variance")


def test_without_a_learned_variance_the_loss_is_the_error_of_the_noise():
    x0, noise, t, x_t = stored("x0", "noise", "t", "x_t")
    losses = objective("ddpm").losses(stand_in(x_t, t)[:, :4], x0, noise, x_t, t)
    assert set(losses) == {"loss", "mse"} and torch.equal(losses["loss"], losses["mse"])
    close(losses["mse"], "mse")


def added_up(count):
    """Respacing as the released program has it: the stride added, each position rounded."""
    position, found = 0.0, []
    for _ in range(count):
        found.append(round(position))
        position += 999 / (count - 1)
    return found


def test_respacings():
    assert respaced_timesteps("ddim10") == STORED["timesteps_ddim10"].tolist()
    assert respaced_timesteps("ddim50") == list(range(0, 1000, 20))
    assert respaced_timesteps("250") == [round(i * 999 / 249) for i in range(250)]
    assert respaced_timesteps("1000") == list(range(1000)) and respaced_timesteps("1") == [0]


def test_the_stride_of_a_respacing_is_added_up():
    counts = range(2, 1001)
    multiplied = {n: [round(i * 999 / (n - 1)) for i in range(n)] for n in counts}
    other = [n for n in counts if respaced_timesteps(str(n)) != multiplied[n]]
    assert len(other) == 283 and other[0] == 21
    for n in (*other[:3], *other[100:103], *other[-3:], 100, 250, 1000):
        assert respaced_timesteps(str(n)) == added_up(n)


@pytest.mark.parametrize("respacing", ["0", "1001", "fast", "ddim", "ddim999", "", "-5"])
def test_no_such_respacing(respacing):
    with pytest.raises(registry.UsageError):
        respaced_timesteps(respacing)


def test_training_steps_of_uniform_numbers():
    u = torch.tensor([0.0, 0.4999, 1 - 2**-24])
    assert objective("ddpm").sample_timesteps(u).tolist() == [0, 499, 999]


# ---- v-prediction, min-SNR, zero terminal SNR ----


def velocities(t):
    """A made sample, and v by its definition in float64."""
    torch.manual_seed(0)
    x0, noise = torch.randn(2, len(t), 4, 8, 8)
    a = ALPHAS_CUMPROD[t].view(-1, 1, 1, 1)
    return x0, noise, (a.sqrt() * noise - (1 - a).sqrt() * x0).float()


def test_v_prediction_judges_the_velocity_and_converts_to_the_noise():
    t = torch.tensor([0, 10, 500, 999])
    x0, noise, v = velocities(t)
    ddpm = objective("ddpm", prediction_type="v_prediction")
    x_t = ddpm.add_noise(x0, noise, t)
    assert ddpm.losses(v, x0, noise, x_t, t)["loss"].max() < 1e-9
    assert torch.allclose(ddpm.losses(v + 2, x0, noise, x_t, t)["loss"], torch.tensor(4.0))
    for output in (v, torch.cat([v, noise], 1)):
        assert (ddpm.to_epsilon(output, x_t, t) - noise).abs().max() < 1e-5
    assert torch.equal(objective("ddpm").to_epsilon(torch.cat([noise, v], 1), x_t, t), noise)


def test_the_bound_of_a_v_prediction_is_that_of_its_noise():
    t = torch.tensor([0, 10, 500, 999])
    x0, noise, v = velocities(t)
    epsilon, velocity = objective("ddpm"), objective("ddpm", prediction_type="v_prediction")
    x_t, share = epsilon.add_noise(x0, noise, t), torch.rand_like(x0)
    wrong = v + 0.1 * torch.randn_like(v)
    one = velocity.losses(torch.cat([wrong, share], 1), x0, noise, x_t, t)["vb"]
    other = epsilon.losses(torch.cat([velocity.to_epsilon(wrong, x_t, t), share], 1), x0, noise, x_t, t)["vb"]
    assert torch.allclose(one, other, rtol=2e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weighs_the_error_of_the_data_by_the_clipped_ratio(prediction_type):
    # Table of Hang et al.: whatever is predicted, the loss is min(SNR, γ)·|x0 − its estimate|².
    t = torch.tensor([20, 100, 500, 900])
    x0, noise, v = velocities(t)
    ddpm = objective("ddpm", prediction_type=prediction_type, min_snr_gamma=5.0)
    x_t = ddpm.add_noise(x0, noise, t)
    output = (noise if prediction_type == "epsilon" else v) + 0.1 * torch.randn_like(v)
    losses = ddpm.losses(output, x0, noise, x_t, t)
    a = ALPHAS_CUMPROD[t].view(-1, 1, 1, 1)
    estimate = (x_t - (1 - a).sqrt() * ddpm.to_epsilon(output, x_t, t)) / a.sqrt()
    snr = (a / (1 - a)).flatten()
    expected = snr.clamp(max=5) * (estimate - x0).square().flatten(1).mean(1)
    assert snr[1] > 5 > snr[2]  # both sides are tried
    assert torch.allclose(losses["loss"].double(), expected, rtol=1e-3)
    plain = objective("ddpm", prediction_type=prediction_type).losses(output, x0, noise, x_t, t)
    assert torch.equal(losses["mse"], plain["loss"])


def test_signal_to_noise_and_back():
    t = torch.tensor([0, 1, 500, 998, 999])
    for beta_schedule in ("linear", "scaled_linear", "cosine"):
        ddpm = objective("ddpm", beta_schedule=beta_schedule)
        assert torch.equal(ddpm.timesteps_at_snr(ddpm.snr(t)), t)
    assert torch.allclose(
        objective("ddpm").snr(t).double(), ALPHAS_CUMPROD[t] / (1 - ALPHAS_CUMPROD[t]), rtol=1e-6
    )


def test_zero_terminal_snr_leaves_noise_alone():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 1, 4, 8, 8)
    ddpm = objective("ddpm", prediction_type="v_prediction", zero_terminal_snr=True, min_snr_gamma=5.0)
    t = torch.tensor([999])
    assert torch.equal(ddpm.add_noise(x0, noise, t), noise) and float(ddpm.snr(t)) == 0
    losses = ddpm.losses(torch.cat([-x0 + 1, noise], 1), x0, noise, noise, t)
    assert torch.isfinite(losses["vb"]).all() and float(losses["mse"]) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"zero_terminal_snr": True}, "needs prediction_type v_prediction"),
        ({"min_snr_gamma": 0.0}, "must be positive"),
        ({"beta_schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"prediction_type": "v"}, "'epsilon' | 'v_prediction'"),
    ],
)
def test_bad_options_are_one_line(options, says):
    with pytest.raises(registry.UsageError) as caught:
        objective("ddpm", **options)
    assert says in str(caught.value)
