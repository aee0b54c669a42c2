"""One function in many forms has one held-out loss, one loss in training, and one set of samples."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import registry
from bench.diffusion import objective, sampler
from bench.diffusion.flow import Flow
from bench.diffusion.guidance import guided
from bench.diffusion.translation import translated
from bench.metrics.held_out import bands, held_out_loss
from bench.records.schema import HeldOutSettings
from tests.bench.metrics.test_held_out import Gaussian
from tests.registry.closed_forms import FORMS, S, best_loss, wrapped

SETTINGS = HeldOutSettings(images=256)
V_PREDICTION = "ddpm prediction_type=v_prediction beta_schedule=cosine"
# Each objective with a sampler of it and its steps.
UNDER = {
    "ddpm": ("ddim", "100"),
    V_PREDICTION: ("ddim", "100"),
    "flow": ("heun", "40"),
    "edm": ("edm-heun", "40"),
}


@functools.cache
def judged(name: str, under: str) -> Any:
    return held_out_loss(wrapped(name), objective(under), Gaussian(), SETTINGS)


@pytest.mark.parametrize("under", UNDER)
@pytest.mark.parametrize("name", FORMS)
def test_held_out_loss_is_the_least_possible_in_whatever_form(name: str, under: str) -> None:
    found = judged(name, under)
    for band, levels in zip(found.bands, bands(objective(under)), strict=True):
        assert band.loss == pytest.approx(best_loss(levels.snr.double()), rel=0.04)
    first = judged("epsilon, step", under)
    for band, other in zip(found.bands, first.bands, strict=True):
        assert band.groups == pytest.approx(other.groups, rel=3e-4, abs=3e-6)


@torch.inference_mode()
def samples(name: str, under: str, text: str = "", steps: str = "", **options: Any) -> Tensor:
    text, steps = text or UNDER[under][0], steps or UNDER[under][1]
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noises = torch.randn(200, *x.shape, generator=torch.Generator().manual_seed(1))
    network = wrapped(name)
    denoiser = guided(translated(network, objective(under)), torch.zeros(2, dtype=torch.int64), **options)
    return sampler(text).sample(objective(under), denoiser, x, lambda step: noises[step], steps)


@pytest.mark.parametrize("under", UNDER)
@pytest.mark.parametrize("name", FORMS)
def test_samples_are_those_of_the_exact_flow_in_whatever_form(name: str, under: str) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = samples(name, under)
    # The probability flow of Gaussian data scales the noise by the deviation of the data.
    assert (found - S * x).abs().max() < 0.2 * S
    assert (found - samples("epsilon, step", under)).abs().max() < 2e-3


def test_stochastic_samplers_make_the_same_samples_too() -> None:
    for under, text in (("ddpm", "ancestral"), ("flow", "euler-maruyama")):
        first = samples("epsilon, step", under, text, "50")
        for name in FORMS:
            assert (samples(name, under, text, "50") - first).abs().max() < 5e-3


@pytest.mark.parametrize("under", UNDER)
@pytest.mark.parametrize("name", FORMS)
def test_training_finds_the_best_scale_in_whatever_form(name: str, under: str) -> None:
    """At the optimum the loss has no gradient: that of a scale of the prediction is 0 but for chance."""
    process = objective(under)
    network = wrapped(name)
    u = (torch.arange(4096) + 0.5) / 4096
    x0 = S * torch.randn(4096, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    t = process.sample_timesteps(u)
    x_t = process.add_noise(x0, noise, t)
    denoiser = translated(network, process)
    loss = process.losses(denoiser(x_t, t, torch.zeros(4096, dtype=torch.int64)), x0, noise, x_t, t)["mse"]
    (gradient,) = torch.autograd.grad(loss.mean(), network.net.scale)
    (size,) = torch.autograd.grad(denoiser(x_t, t, None).square().mean(), network.net.scale)
    assert abs(float(gradient)) < 0.02 * max(abs(float(size)), 1.0)


def test_guidance_commutes_with_the_change_of_variables() -> None:
    class Labelled(nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return FORMS["x0, sigma"].function(x, t) + 0.1 * (y == 1).float().view(-1, 1, 1, 1)

    net = registry.wrap(
        Labelled(), predicts="x0", time="sigma", input_size=8, in_channels=4, num_classes=2, null_class=2
    ).eval()  # fmt: skip
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.6])
    flow = objective("flow")
    given = guided(translated(net, flow), torch.ones(2, dtype=torch.int64), cfg_scale=3.0)(x, t)
    # x0 moves by 3·0.1 where it moved by 0.1, and the velocity by (x0's move) / (1 − t)
    plain = translated(net, flow)(x, t, torch.full((2,), 2))
    assert torch.allclose(given - plain, (0.3 / (1 - t)).view(-1, 1, 1, 1).expand(x.shape), atol=1e-5)


def test_what_a_network_returns_beside_its_prediction_in_training_stays_as_it_is() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return self.scale * FORMS["velocity, unit"].function(x, t), 3 * self.scale

    form = {"predicts": "velocity", "time": "unit", "losses": "add"}
    net: Any = registry.wrap(WithLoss(), **form, input_size=8, in_channels=4)
    process = objective("ddpm")
    x_t, t = torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 900])
    output = translated(net, process)(x_t, t, None)
    assert torch.allclose(output.prediction, FORMS["epsilon, step"].function(x_t, t).float(), atol=1e-3)
    losses = process.training_losses(output, 0 * x_t, 0 * x_t, x_t, t)
    assert losses["loss_1"].tolist() == [3, 3, 3]
    assert torch.allclose(losses["loss"], losses["mse"] + 3)


def test_networks_of_the_harness_are_called_as_they_are_under_their_own_objective() -> None:
    dit, sit = (
        registry.create(name, depth=1, hidden_size=48, num_heads=2) for name in ("dit-s-8", "sit-s-2")
    )
    assert translated(dit, objective("ddpm")) is dit and translated(sit, objective("flow")) is sit
    assert translated(dit, objective("ddpm prediction_type=v_prediction")) is dit
    other = translated(dit, objective("flow"))
    assert (other.out_channels, other.name, other.null_class) == (4, "dit-s-8", 1000)
    net = wrapped("epsilon, step")
    assert translated(net, objective("ddpm")) is net
    assert translated(net, objective("ddpm beta_schedule=cosine")) is not net


def test_a_network_of_ours_is_given_its_step_and_image_and_gives_the_velocity() -> None:
    net = registry.create("dit-s-8", depth=1, hidden_size=48, num_heads=2, input_size=16).eval()
    seen: list[tuple[Tensor, Tensor]] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
    net.register_forward_hook(lambda _, args, output: torch.cat([0.5 * args[0], args[0]], 1))
    x0, noise, t = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.tensor([0.3, 0.8])
    x_t = t.view(-1, 1, 1, 1) * x0 + (1 - t.view(-1, 1, 1, 1)) * noise
    found = translated(net, objective("flow"))(x_t, t, torch.tensor([1, 2]))
    x, step = seen[0]
    snr = (t / (1 - t)) ** 2
    steps = objective("ddpm").timesteps_at_snr(snr)
    assert ((step - steps).abs() <= 0.5).all() and (step % 1 > 0).all()
    a = (snr / (1 + snr)).view(-1, 1, 1, 1)
    assert torch.allclose(x, a.sqrt() * x0 + (1 - a).sqrt() * noise, atol=1e-5)
    epsilon = 0.5 * x
    assert torch.allclose(found, (x - (1 - a).sqrt() * epsilon) / a.sqrt() - epsilon, atol=1e-4)


def test_an_objective_of_a_user_calls_networks_as_they_are_unless_it_states_variables() -> None:
    class Own(Flow):
        name = "own"

    class Stated(Flow):
        name, variables = "stated", Flow.variables

    net = registry.create("tiny-unet", widths=(8, 16, 16))
    assert translated(net, Own()) is net
    assert translated(net, Stated()) is not net
    net.objective = "own"
    with pytest.raises(
        registry.UsageError, match=r"made for objective 'own', .* cannot be used under 'ddpm'"
    ):
        translated(net, objective("ddpm"))
