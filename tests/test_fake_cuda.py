"""No operator of the forward direction mixes devices: fake tensors stand for a GPU, on any machine.

A fake tensor has a device and no values. Under `FakeTensorMode` an operator whose tensors lie on two devices
is an error, as it is on a GPU. Left out, each for being fake and not for its devices:

- backward passes and optimizers, which need the driver;
- constructors: U-ViT's and DiC's look at the values of their first weights, so that networks are built
  before, and get fake weights;
- the tables of `dpm++`, which diffusers makes with NumPy: they are made before, on the CPU, as on a GPU;
- cutting the held-out noise levels into bands, whose sizes depend on values: done before, on the CPU.

What looks at a value, such as `dopri5` at its error, gets the answer below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

import registry
from bench import data
from bench.diffusion import objective, objectives, sampler, samplers
from bench.diffusion.guidance import guided
from bench.metrics import held_out, neighbours
from bench.metrics.extractors.digits import Digits
from bench.metrics.scores.density_coverage import density_coverage
from bench.records.schema import HeldOutSettings, SamplingSettings
from bench.sampling import Plan
from bench.utils import randomness
from bench.utils.precision import Precision, autocast
from registry.training_output import prediction_of
from tests.conftest import SMALLEST, made_for

CUDA = torch.device("cuda")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
N, SHAPE = 4, (4, 8, 8)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """A mode in which CUDA tensors are fake, numbers among them those below, and autocast is on."""
    answers = {"__bool__": True, "__int__": 1, "__float__": 0.5, "__format__": "0.5", "item": 0.5}
    for name, answer in answers.items():
        monkeypatch.setattr(FakeTensor, name, lambda *_, answer=answer: answer, raising=False)
    # Autocast asks whether there is a GPU of bf16, and is off where there is none.
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    return FakeTensorMode(allow_non_fake_inputs=True)


def moved(network: Any, mode: FakeTensorMode) -> Any:
    """A network with its parameters and buffers on the fake GPU, as `to` moves them, and nothing else."""
    with mode, torch.no_grad():
        for module in network.modules():
            for name, value in list(module._parameters.items()):
                if value is not None:
                    module._parameters[name] = nn.Parameter(torch.empty_like(value, device=CUDA))
            for name, value in list(module._buffers.items()):
                if value is not None:
                    module._buffers[name] = torch.empty_like(value, device=CUDA)
    return network


def grids() -> Tensor:
    return torch.randn(N, *SHAPE, device=CUDA)


def on_cuda(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.device.type == "cuda"


def test_two_devices_in_one_operator_are_an_error(fake: FakeTensorMode) -> None:
    with fake, pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cpu"):
        grids() + torch.randn(N, *SHAPE)


def test_random_numbers_are_made_where_their_indices_lie(fake: FakeTensorMode) -> None:
    with fake:
        indices = torch.arange(N, device=CUDA)
        for step in (0, 7):
            assert on_cuda(randomness.uniform(1, "label", indices, 3, step))
            assert on_cuda(randomness.normal(1, "noise", indices, SHAPE, step))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in objectives.names()),
        ("ddpm", {"beta_schedule": "cosine", "min_snr_gamma": 5.0}),
        ("ddpm", {"prediction_type": "v_prediction", "zero_terminal_snr": True}),
    ],
)
@pytest.mark.parametrize("channels", [4, 8])
def test_losses_and_conversions(
    fake: FakeTensorMode, name: str, options: dict[str, Any], channels: int
) -> None:
    made = objective(name, **options)
    with fake:
        x0, noise = grids(), grids()
        t = made.sample_timesteps(torch.rand(N, device=CUDA))
        x_t = made.add_noise(x0, noise, t)
        output = torch.randn(N, channels, *SHAPE[1:], device=CUDA)
        found = [t, x_t, made.to_epsilon(output, x_t, t), made.snr(t), made.timesteps_at_snr(made.snr(t))]
        assert all(map(on_cuda, [*found, *made.losses(output, x0, noise, x_t, t).values()]))


def tables_on_the_cpu(mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have diffusers make the tables of its scheduler of real tensors; its timesteps go to the fake GPU."""

    class Scheduler(diffusers.DPMSolverMultistepScheduler):
        def __init__(self, **options: Any) -> None:
            with unset_fake_temporarily():
                super().__init__(**options)

        def set_timesteps(self, steps: int, device: Any = None) -> None:
            with unset_fake_temporarily():
                super().set_timesteps(steps, device="cpu")
            self.timesteps = mode.from_tensor(self.timesteps).to(device)

    monkeypatch.setattr(diffusers, "DPMSolverMultistepScheduler", Scheduler)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", samplers.names())
def test_samplers_with_guidance(
    fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch, name: str, precision: Precision
) -> None:
    tables_on_the_cpu(fake, monkeypatch)
    for kind in sampler(name).objectives:
        model = made_for(kind)
        network = moved(registry.create(model, **SMALLEST[model]).deploy(), fake)
        scale = 1.0 if network.null_class is None else 1.5
        settings = SamplingSettings(
            sampler=name, steps="4", num=N, cfg_scale=scale, guidance_interval=(0.2, 800)
        )
        plan = Plan(objective(kind), settings, precision=precision)
        with fake:
            made = plan.grids(network, torch.arange(N, device=CUDA))
            assert on_cuda(made) and made.shape == (N, *SHAPE)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SMALLEST)
def test_every_family(fake: FakeTensorMode, model: str, precision: Precision) -> None:
    for deployed in (False, True):
        network = registry.create(model, **SMALLEST[model])
        network = moved(network.deploy() if deployed else network.train(), fake)
        with fake, autocast(precision, CUDA):
            labels = torch.arange(N, device=CUDA)
            times = labels if network.objective == "ddpm" else torch.rand(N, device=CUDA)
            x = torch.randn(N, network.in_channels, *SHAPE[1:], device=CUDA)
            scale = 1.0 if network.null_class is None else 1.5
            made = prediction_of(guided(network, labels, scale)(x, times))
        assert on_cuda(made) and made.shape == (N, network.out_channels, *SHAPE[1:])
        low = precision == "bf16" and network.objective != "edm"  # whose preconditioning is in float32
        assert (made.dtype == torch.bfloat16) == low, "autocast is not at work"


@pytest.mark.parametrize("kind", objectives.names())
@pytest.mark.parametrize("precision", PRECISIONS)
def test_held_out_loss(
    fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch, kind: str, precision: Precision
) -> None:
    bands = held_out.bands(objective(kind))
    monkeypatch.setattr(held_out, "bands", lambda _: bands)
    model = made_for(kind)
    network = moved(registry.create(model, **SMALLEST[model]).deploy(), fake)
    images = data.held_out("digits", split="train")
    with fake:
        found = held_out.held_out_loss(
            network, objective(kind), images, HeldOutSettings(images=64), precision=precision, device=CUDA
        )
    assert [band.loss for band in found.bands] == [0.5] * 6


def inception() -> nn.Module:
    """Inception-v3 without its weights, which may not be on this machine."""
    from bench.metrics.extractors.inception import Inception, _Network

    made = Inception.__new__(Inception)
    nn.Module.__init__(made)
    made.network = _Network()
    return made


@pytest.mark.parametrize("make", [Digits, inception])
def test_features(fake: FakeTensorMode, make: Callable[[], Any]) -> None:
    extractor = moved(make().eval(), fake)
    for side in (16, 32):
        with fake, torch.inference_mode():
            images = torch.zeros(N, 3, side, side, dtype=torch.uint8, device=CUDA)
            assert all(map(on_cuda, extractor(images).values()))


def test_scores(fake: FakeTensorMode) -> None:
    """Those that compute on the device; the others are NumPy's."""
    chance = np.random.default_rng(0)
    sets = [chance.standard_normal((n, 64)).astype(np.float32) for n in (60, 50)]
    with fake:
        for half in (False, True):
            assert neighbours.precision_recall(*sets, half=half, device="cuda") == (0.5, 0.5)
        assert density_coverage(*sets, device="cuda")[1] == 0.5
