"""Losses and sampling of LightningDiT, DDT and FlowDCN, as their authors' programs compute them."""

import pytest
import torch

from bench.diffusion import objective, sampler
from bench.diffusion.guidance import guided
from registry.errors import UsageError
from tests.registry.networks.families import MANIFEST, arrays, draws

FLOW = objective("flow")
SHAPE = (4, 4, 8, 8)


def stand_in(x, t, y):
    """The velocity of all cases."""
    t, y = t.view(-1, 1, 1, 1), y.view(-1, 1, 1, 1)
    return 0.6 * torch.sin(2 * x + t + 0.1 * y) - 0.4 * x * t + 0.2 * t


class StandIn(torch.nn.Module):
    """It as a backbone of ten classes."""

    name, in_channels, out_channels, num_classes, null_class = "stand-in", 4, 4, 10, 10
    guided_channels = None

    def forward(self, x, t, y):
        return stand_in(x, t, y)


@pytest.mark.parametrize(
    ("family", "name", "terms"),
    [
        ("lightningdit", "flow times=logit-normal cosine_loss=1", {"mse": "loss_mse", "cosine": "loss_cos"}),
        ("ddt", "flow times=logit-normal", {}),
    ],
)
def test_losses_and_gradients(family, name, terms):
    process, seeds = objective(name), MANIFEST[f"{family}-process"]["loss"]
    x0, noise = 0.5 * draws(seeds["seed_data"], 1, SHAPE)[0], draws(seeds["seed_noise"], 1, SHAPE)[0]
    expected = arrays(f"{family}-process")
    quantiles = torch.special.ndtr(draws(seeds["seed_time"], 1, (4,))[0].double()).float()
    t = process.sample_timesteps(quantiles)
    assert (t - expected["loss_t"]).abs().max() < 1e-6
    x_t = process.add_noise(x0, noise, t)
    assert (x_t - expected["loss_xt"]).abs().max() < 1e-5
    output = stand_in(x_t, t, torch.zeros(4)).requires_grad_()
    losses = process.losses(output, x0, noise, x_t, t)
    for term, stored in terms.items():
        assert (losses[term] - expected[stored]).abs().max() < 1e-5
    losses["loss"].mean().backward()
    assert abs(losses["loss"].mean() - expected["loss_total"]) < 1e-5
    assert (output.grad - expected["loss_grad_output"]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("case", "run", "name", "guidance"),
    [
        ("lightningdit", "plain", "euler", {}),
        ("lightningdit", "shifted", "euler shift=3.33333", {}),
        ("lightningdit", "guided", "euler shift=3.33333", {"cfg_scale": 6.7, "interval": (0.125, 1)}),
        ("ddt", "plain", "euler last_step=0.04", {}),
        ("ddt", "guided", "euler last_step=0.04", {"cfg_scale": 2.0, "interval": (0.3, 1)}),
        ("flowdcn", "ode", "euler", {"cfg_scale": 4.0}),
    ],
)
def test_euler_s_steps(case, run, name, guidance):
    """Every time, every x, and the result, to float32."""
    expected, seed = arrays(f"{case}-process"), MANIFEST[f"{case}-process"]["runs"][run]["seed"]
    channels = 3 if case == "lightningdit" else None
    denoiser = guided(StandIn(), torch.tensor([5, 9]), guided_channels=channels, **guidance)
    times, states = [], []

    def watched(x, t):
        times.append(t[0])
        states.append(x)
        return denoiser(x, t)

    states.append(sampler(name).sample(FLOW, watched, draws(seed, 1, (2, 4, 8, 8))[0], None, "8"))
    assert (torch.stack(times) - expected[f"{run}_t"]).abs().max() < 2e-6
    assert (torch.stack(states) - expected[f"{run}_x"]).abs().max() < 1e-5


class Sharing(StandIn):
    """The stand-in of DDT's process: its state is the time at which it was made, and half of the time counts.

    Attributes:
        now: the time, which a real decoder does not see.
        fresh: for each call whether the encoder ran.
    """

    def __init__(self):
        super().__init__()
        self.fresh = []

    def encode(self, x, t, y):
        self.fresh[-1] = True
        return t, y

    def decode(self, x, state):
        t, y = state
        return stand_in(x, 0.5 * self.now + 0.5 * t, y)


def test_ddt_reuses_what_its_encoder_made():
    about, expected = MANIFEST["ddt-process"]["runs"]["shifted"], arrays("ddt-process")
    network = Sharing()
    interval = about["guidance_interval_min"], about["guidance_interval_max"]
    denoiser = guided(network, torch.tensor([5, 9]), 2.0, interval=interval, encoder_every=3)
    states = []

    def watched(x, t):
        network.now = t[0]
        network.fresh.append(False)
        states.append(x)
        return denoiser(x, t)

    x = draws(about["seed"], 1, (2, 4, 8, 8))[0]
    states.append(sampler("euler shift=1.5").sample(FLOW, watched, x, None, "8"))
    assert network.fresh == about["fresh"]
    assert (torch.stack(states) - expected["shifted_x"]).abs().max() < 1e-5


def test_a_network_without_an_encoder_reuses_none():
    with pytest.raises(UsageError, match="stand-in has no encoder of its own"):
        guided(StandIn(), torch.tensor([5]), encoder_every=2)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_times_of_a_shift_and_of_a_last_step(name):
    """By their formulas: LightningDiT's shift s is 1 / s here, Stable Diffusion 3 shifts σ = 1 − t."""

    def times(options, steps):
        seen = []
        made = sampler(f"{name} {options}")
        made.sample(FLOW, lambda x, t: (seen.append(float(t[0])), x)[1], torch.zeros(1, 1, 2, 2), None, steps)
        assert len(seen) == made.evaluations(steps)
        return seen[:: 1 if name == "euler" else 2]

    even = [i / 5 for i in range(5)]
    assert times("shift=2", "5") == pytest.approx([0.5 * t / (1 + (0.5 - 1) * t) for t in even])
    assert times("shift=3", "5") == pytest.approx([1 - 3 * (1 - t) / (1 + 2 * (1 - t)) for t in even])
    assert times("last_step=0.04", "5") == pytest.approx([0, 0.24, 0.48, 0.72, 0.96])
    assert times("last_step=0.04", "2") == pytest.approx([0, 0.96])
    assert times("shift=2", "1") == [0]


def test_a_flow_of_steps_shifted_or_not_ends_at_the_same_samples():
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.zeros(2)
    ends = [
        sampler(f"heun {options}").sample(FLOW, lambda x, t: stand_in(x, t, labels), x, None, "400")
        for options in ("", "shift=3", "shift=0.3", "last_step=0.04")
    ]
    assert max((end - ends[0]).abs().max() for end in ends[1:]) < 1e-4


def test_logit_normal_times_are_the_sigmoid_of_a_normal_number():
    u = torch.arange(1, 2**16, dtype=torch.float64) / 2**16
    t = objective("flow times=logit-normal").sample_timesteps(u)
    logits = torch.logit(t)
    assert abs(logits.mean()) < 1e-6 and abs(logits.std() - 1) < 1e-3
    ends = objective("flow times=logit-normal").sample_timesteps(torch.tensor([0.0, 1 - 2**-24]))
    assert ends[0] == 0 and ends[1] < 1


@pytest.mark.parametrize(
    ("make", "text", "says"),
    [
        (sampler, "euler shift=0", "shift must be above 0"),
        (sampler, "heun last_step=1", "last_step must be between 0 and 1"),
        (objective, "flow cosine_loss=-1", "cosine_loss of at least 0"),
        (objective, "flow times=lognormal", "Did you mean 'logit-normal'"),
    ],
)
def test_options_that_make_no_sense_are_one_line(make, text, says):
    with pytest.raises(UsageError, match=says):
        make(text)


def test_a_last_step_of_its_own_is_not_the_only_one():
    with pytest.raises(UsageError, match="2 or more, not '1'"):
        sampler("euler last_step=0.04").check("flow", "1")
