"""The update of a step beside PyTorch's plain parts, with and without a scaled loss."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bench.training.ema import PosthocAverages
from bench.training.step import Update

SETTINGS = {"learning_rate": 1.0, "weight_decay": 0.01, "ema_decay": 0.9, "clip": 0.5}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


class Fourier(nn.Module):
    """A filter of frequencies, as Fourier neural operators have: complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(2, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=3)


def complex_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), Fourier(), nn.Linear(3, 2))


def loss(model: nn.Module, step: int) -> torch.Tensor:
    return model(torch.linspace(-1, 1, 15).view(5, 3) * (step + 1)).square().mean()


@pytest.mark.parametrize(
    ("made", "scaled", "options"),
    [
        (network, False, {}),
        (network, True, {}),
        (complex_network, False, {}),
        (network, False, {"betas": (0.5, 0.95)}),
    ],
)
def test_it_is_adamw_with_clipping_and_an_average(
    made: Callable[[], nn.Module], scaled: bool, options: dict[str, Any]
) -> None:
    ours, theirs = made(), made()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12) if scaled else None
    update = Update(ours, **SETTINGS, **options, scaler=scaler)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1.0, weight_decay=0.01, foreach=False, **options)
    average = copy.deepcopy(theirs.state_dict())
    for step, rate in enumerate((1e-2, 3e-2, 2e-2)):
        value = loss(ours, step)
        (value if scaler is None else scaler.scale(value)).backward()
        norm = update.step(rate)
        optimizer.zero_grad()
        loss(theirs, step).backward()
        assert torch.allclose(norm, nn.utils.clip_grad_norm_(theirs.parameters(), 0.5))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        for name, weight in theirs.state_dict().items():
            averaged = weight.dtype != torch.int64
            average[name] = 0.9 * average[name] + 0.1 * weight if averaged else weight
    for name, weight in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], weight, atol=1e-5)
        assert torch.allclose(update.ema[name], average[name], atol=1e-5)
    again = Update(made(), **SETTINGS)
    again.load(update.state(), update.ema)
    assert all(torch.equal(value, again.state()[name]) for name, value in update.state().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_averages_of_half_weights_are_those_of_their_values_in_float32(dtype: torch.dtype) -> None:
    """A step of 1e-4 of the distance is below half a unit in the last place of such weights."""
    model = nn.Linear(4, 3).to(dtype)
    update = Update(model, **SETTINGS | {"ema_decay": 0.9999})
    posthoc, average = PosthocAverages(model, [0.1]), model.weight.detach().float()
    for step in range(1, 201):
        with torch.no_grad():
            model.weight += 0.01
        update.step(0.0)
        posthoc.update(step)
        average.lerp_(model.weight.detach().float(), 1e-4)
    torch.testing.assert_close(update.ema["weight"], average)
    assert all(kept["weight"].dtype == torch.float32 for kept in posthoc.averages.values())


def test_masks_with_infinities_and_counters_are_as_in_the_network() -> None:
    model = network()
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    update, posthoc = Update(model, **SETTINGS), PosthocAverages(model, [0.1])
    for step in range(2):
        loss(model, step).backward()
        update.step(1e-2)
        posthoc.update(step + 1)
    assert torch.equal(update.ema["mask"], model.mask) and update.ema["0.num_batches_tracked"] == 2
    assert all(value.isfinite().all() for kept in posthoc.averages.values() for value in kept.values())
    model.load_state_dict(update.ema)


def test_a_buffer_that_the_forward_pass_assigns_anew_is_averaged() -> None:
    model = network()
    model.register_buffer("level", torch.zeros(2))
    update, posthoc = Update(model, **SETTINGS), PosthocAverages(model, [0.1])
    average = torch.zeros(2)
    for step in range(1, 4):
        model.level = model.level + step
        average.lerp_(model.level, 0.1)
        update.step(0.0)
        posthoc.update(step)
    torch.testing.assert_close(update.ema["level"], average)
    assert (posthoc.averages["0.1"]["level"] > 1).all()


@pytest.mark.parametrize("finite", [False, True])
def test_gradients_that_overflow_change_no_weight(finite: bool) -> None:
    model = network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    update = Update(model, **SETTINGS, scaler=scaler, finite_gradients=finite)
    before = [p.detach().clone() for p in model.parameters()]
    scaler.scale(loss(model, 0) * 1e38).backward()
    assert not update.step(1e-2).isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert scaler.get_scale() == 2.0**11


def test_what_is_not_finite_in_a_gradient_counts_as_zero() -> None:
    moved = []
    for wrong in (0.0, torch.nan, torch.inf, -torch.inf):
        ours = network()
        update = Update(ours, **SETTINGS, finite_gradients=True)
        loss(ours, 0).backward()
        ours[1].weight.grad[2, 1] = wrong
        assert update.step(1e-2).isfinite()
        moved.append(torch.cat([p.detach().flatten() for p in ours.parameters()]))
    assert all(torch.equal(other, moved[0]) for other in moved[1:])
