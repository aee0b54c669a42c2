"""Guidance against its formula and the authors' program."""

import functools

import numpy as np
import pytest
import torch

import bench.diffusion
import registry
from bench.diffusion.guidance import guided, guided_by
from registry.errors import CodeError
from tests.conftest import REFERENCE, reference_network
from tests.reference import recipe


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = registry.create("udit-t", input_size=8, num_classes=10, hidden_size=16).eval()
    for parameter in net.parameters():  # zero at first, so that labels would change nothing
        torch.nn.init.normal_(parameter, std=0.1)
    return net


close_to = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_guidance_equals_the_authors_program():
    x, t, _ = (torch.from_numpy(array) for array in recipe.inputs(4, 32, 1000))
    # Their output is guided in both halves, and unguided channels are each half's own.
    stored = torch.from_numpy(np.load(REFERENCE / "udit-s-cfg.npz")["output"])[:2]
    network = reference_network("udit-s-cfg")
    for form in (network, network.deploy()):
        made = guided(form, torch.tensor([5, 999]), 1.5)(x, t)  # the backbone declares three channels
        assert (made - stored).abs().max() < 2e-5


@torch.inference_mode()
def test_guidance_equals_the_formula_and_one_is_the_network_itself(net):
    x, t, y = net.example_inputs(3)
    cond, uncond = net(x, t, y), net(x, t, torch.full_like(y, 10))
    close_to(guided(net, y)(x, t), cond)
    for channels, count in ((3, 3), (0, 4), (1, 1)):
        made = guided(net, y, 1.5, channels)(x, t)
        close_to(made[:, :count], (uncond + 1.5 * (cond - uncond))[:, :count])
        close_to(made[:, count:], cond[:, count:])


@pytest.mark.parametrize(("declared", "count"), [(3, 3), (None, 4), (0, 4), (9, 4)])
@torch.inference_mode()
def test_how_many_channels_are_guided_is_the_backbone_s_to_say(net, monkeypatch, declared, count):
    monkeypatch.setattr(net, "guided_channels", declared, raising=False)
    x, t, y = net.example_inputs(3)
    assert torch.equal(guided(net, y, 1.5)(x, t), guided(net, y, 1.5, count)(x, t))


@torch.inference_mode()
def test_outside_of_the_interval_nothing_is_guided(net):
    x, _, y = net.example_inputs(3)
    t = torch.tensor([99, 100, 500])
    made = guided(net, y, 1.5, 0, interval=(100, 400))(x, t)
    cond, everywhere = net(x, t, y), guided(net, y, 1.5, 0)(x, t)
    close_to(made[[0, 2]], cond[[0, 2]])
    close_to(made[1], everywhere[1])
    assert (cond - everywhere).abs().amax((1, 2, 3)).min() > 1e-3


@torch.inference_mode()
def test_outside_of_the_interval_the_network_is_called_once(net, monkeypatch):
    x, _, y = net.example_inputs(3)
    sizes, forward = [], net.forward
    monkeypatch.setattr(net, "forward", lambda x, t, y: (sizes.append(len(x)), forward(x, t, y))[1])
    denoiser = guided(net, y, 1.5, interval=(100, 400))
    for t in (50, 250, 450):
        denoiser(x, torch.full((3,), t))
    assert sizes == [3, 6, 3]


def test_no_guidance_without_a_null_class():
    for overrides in ({"num_classes": 0}, {"class_dropout_prob": 0.0}):
        net = registry.create("dit-s-4", input_size=8, depth=1, **overrides)
        with pytest.raises(registry.UsageError, match="no null class"):
            guided(net, torch.tensor([1]), 1.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"guided_channels": 5}, "must be 0 .all. to 4"),
        ({"guided_channels": -1}, "must be 0 .all. to 4"),
        ({"interval": (400, 100)}, "must rise"),
    ],
)
def test_bad_guidance_is_one_line(net, options, says):
    with pytest.raises(registry.UsageError, match=says):
        guided(net, torch.tensor([1]), 1.5, **options)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (lambda x: None, "forward returns NoneType"),
        (lambda x: x[:, :1], r"output is \(2, 1, 8, 8\)"),
        (lambda x: torch.cat([x, x], 1) * torch.nan, "not finite"),
        (lambda x: x.mean(), r"output is \(\)"),
    ],
)
def test_a_forward_that_returns_something_else_is_named(net, monkeypatch, output, says):
    x, t, y = net.example_inputs(2)
    monkeypatch.setattr(net, "forward", lambda x, t, y: output(x))
    with pytest.raises(CodeError, match=says):
        guided(net, y)(x, t)


# ---- by another network ----


def test_guidance_by_another_network_equals_its_formula():
    torch.manual_seed(0)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    main, other = torch.randn(2, 3, 8, 8, 8)  # with channels beyond those of x
    made = guided_by(lambda x, t: main, lambda x, t: other[:, :4], 2.1)(x, t)
    close_to(made[:, :4], 2.1 * main[:, :4] - 1.1 * other[:, :4])
    assert torch.equal(made[:, 4:], main[:, 4:])
    close_to(guided_by(lambda x, t: main, lambda x, t: other, 1.0)(x, t), main)
    inside = guided_by(lambda x, t: main, lambda x, t: other, 2.1, (0.4, 0.6))(x, t)
    assert torch.equal(inside[[0, 2]], main[[0, 2]]) and torch.equal(inside[1], made[1])
    with_no_guide = guided_by(lambda x, t: main, None, 2.1, (0.6, 0.8))
    assert torch.equal(with_no_guide(x, t), main)


def test_guidance_of_the_noise_is_guidance_of_the_data():
    torch.manual_seed(0)
    edm, sigma = bench.diffusion.objective("edm"), torch.tensor([0.1, 1.0, 20.0])
    x, main, other = torch.randn(3, 3, 4, 8, 8)
    data = guided_by(lambda *_: main, lambda *_: other, 1.7)(x, sigma)
    noises = (edm.to_epsilon(each, x, sigma) for each in (main, other))
    noise = guided_by(*((lambda *_, noise=noise: noise) for noise in noises), 1.7)(x, sigma)
    torch.testing.assert_close(edm.to_epsilon(data, x, sigma), noise, rtol=1e-4, atol=1e-4)
