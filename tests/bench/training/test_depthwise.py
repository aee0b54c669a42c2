"""Gradients of depthwise convolutions beside PyTorch's own in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import registry
from bench.records.schema import SpeedRequest
from bench.speed.runners import TrainingRunner
from bench.training import depthwise
from bench.training.depthwise import DepthwiseGradients
from tests.benchmarks.training import trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arithmetic holds on every processor, whatever is fast there."""
    monkeypatch.setattr(depthwise, "X86", True)


def gradients(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, mode: Any = None, **options: Any
) -> list[torch.Tensor]:
    """Of the input and the parameters, from a sum that weighs all outputs differently."""
    leaves = [each.detach().requires_grad_() for each in (x, weight, bias) if each is not None]
    with mode or torch.enable_grad():
        out = F.conv2d(leaves[0], leaves[1], leaves[2] if bias is not None else None, **options)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out).to(out)).sum().backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [
        ((8, 8), (5, 5), 2),
        ((5, 9), (5, 4), (1, 3)),
        ((12, 7), (7, 7), 3),
        ((16, 16), (11, 11), 5),
        ((9, 8), (3, 5), (0, 0)),
        ((6, 6), (1, 6), (0, 5)),
        ((2, 2), (5, 5), 2),  # higher than the input
        ((4, 6), (7, 5), (3, 1)),
    ],
)
def test_gradients_are_those_of_the_convolution(
    size: tuple[int, int], kernel: tuple[int, int], padding: Any, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 20, *size).to(memory_format=layout)
    weight, bias = torch.randn(20, 1, *kernel), torch.randn(20)
    for given in (bias, None):
        mode = DepthwiseGradients(CPU, compiled=False)
        found = gradients(x, weight, given, mode, padding=padding, groups=20)
        exact = [None if each is None else each.double() for each in (x, weight, given)]
        expected = gradients(*exact, padding=padding, groups=20)  # type: ignore[arg-type]
        assert mode.used and len(found) == len(expected) == 3 - (given is None)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize(
    ("width", "groups", "kernel", "options"),
    [
        (8, 8, 3, {"padding": 1}),  # narrow enough for oneDNN
        (8, 2, 5, {"padding": 2}),  # not depthwise
        (8, 8, 5, {"padding": 2, "stride": 2}),
        (8, 8, 5, {"padding": 4, "dilation": (1, 2)}),
        (8, 8, 5, {"padding": "same"}),
    ],
)
def test_other_convolutions_are_left_alone(width: int, groups: int, kernel: int, options: Any) -> None:
    x, weight = torch.randn(2, width, 6, 6), torch.randn(width, width // groups, kernel, kernel)
    mode = DepthwiseGradients(CPU, compiled=False)
    found = gradients(x, weight, None, mode, groups=groups, **options)
    assert mode.used is False and mode.where_used() is not mode
    assert all(map(torch.equal, found, gradients(x, weight, None, groups=groups, **options)))


def test_what_a_network_does_besides_goes_on() -> None:
    """Checkpointed activations, gradients of gradients, forward derivatives."""
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(16, 16, 5, padding=2, groups=16) for _ in range(2)))
    x = torch.randn(2, 16, 8, 8, requires_grad=True)

    def stored() -> torch.Tensor:
        return checkpoint(network, x, use_reentrant=False).square().sum()  # type: ignore[no-any-return]

    def of_gradient() -> torch.Tensor:
        (found,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
        return found.square().sum()

    def along() -> torch.Tensor:
        return torch.func.jvp(network, (x,), (torch.ones_like(x),))[1].square().sum()  # type: ignore[no-any-return]

    for loss in (stored, of_gradient, along):
        found, ours_mode = [], DepthwiseGradients(CPU, compiled=False)
        for mode in (ours_mode, torch.enable_grad()):
            with mode:
                value = loss()
            found.append(torch.autograd.grad(value, [*network.parameters()], allow_unused=True))
        assert ours_mode.used is (loss is not along)
        for ours, plain in zip(*found, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-3)


def test_it_is_for_processors_and_eager_networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DepthwiseGradients(CPU, compiled=False).used is None
    assert DepthwiseGradients(CPU, compiled=True).used is False
    assert DepthwiseGradients(torch.device("cuda", 0), compiled=False).used is False
    monkeypatch.setattr(depthwise, "X86", False)
    assert DepthwiseGradients(CPU, compiled=False).used is False


def test_a_network_learns_the_same() -> None:
    torch.manual_seed(0)
    small = {"input_size": 16, "hidden_size": 16, "depth": (1, 1, 1, 1, 1), "class_dropout_prob": 0.0}
    network: Any = registry.create("udit-t", **small)
    for parameter in network.parameters():  # branches that begin closed have no gradient
        nn.init.normal_(parameter, std=0.05)
    inputs = network.example_inputs(2)

    def found(mode: Any) -> torch.Tensor:
        network.zero_grad()
        with mode:
            out = network(*inputs)
        out.square().mean().backward()
        return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])

    mode = DepthwiseGradients(CPU, compiled=False)
    ours, plain = found(mode), found(torch.enable_grad())
    assert mode.used and not torch.equal(ours, plain)
    assert (ours - plain).norm() < 1e-6 * plain.norm()


@pytest.mark.parametrize(("name", "gains"), [("udit-t", True), ("dit-s-4", False)])
def test_training_and_its_timing_take_them(tmp_path: Path, name: str, gains: bool) -> None:
    training = trainer(name, str(tmp_path))
    training.take_step()
    small = {"input_size": 16, "hidden_size": 16, "depth": (1, 1, 1, 1, 1)} if gains else {"depth": 1}
    network: Any = registry.create(name, **small)
    request = SpeedRequest(model=name, config={}, device_name="", batch_size=1, mode="training")
    runner = TrainingRunner(network, request, CPU)
    runner.prepare(1, "")
    assert (training.depthwise.used, runner.depthwise.used) == (gains, gains)
