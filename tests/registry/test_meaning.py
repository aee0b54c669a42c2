"""What a network is declared to predict against how it behaves: who is wrong is caught, no other accused."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import registry
from registry import contract
from registry.meaning import meaning
from tests.conftest import SMALLEST
from tests.registry.closed_forms import FORMS, LOG_SNR, ClosedForm, wrapped

SIZES: dict[str, Any] = {"input_size": 8, "in_channels": 3}


class Conv(nn.Module):
    """A small convolutional network with sinusoids of its time, randomly initialised as PyTorch does."""

    def __init__(self, width: int = 32, of_time: float = 1.0) -> None:
        super().__init__()
        self.of_time = of_time
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.middle = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = self.of_time * t.float()[:, None] * torch.exp(-torch.arange(8) / 8 * math.log(1000))
        condition = self.time(torch.cat([angles.cos(), angles.sin()], 1))[:, :, None, None]
        h = F.silu(self.first(x) + condition)
        for layer in self.middle:
            h = h + F.silu(layer(h) + condition)
        return self.last(h)


class Preconditioned(nn.Module):
    """D(x; σ) of EDM (arXiv 2206.00364, Eq. 7) around it."""

    def __init__(self, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.net, self.sigma_data = Conv(), sigma_data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s, data = sigma.view(-1, 1, 1, 1), self.sigma_data
        whole = (s**2 + data**2).sqrt()
        return data**2 / whole**2 * x + s * data / whole * self.net(x / whole, sigma.log() / 4)


class Skip(Conv):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + super().forward(x, t)


# What a small network is trained for, by its declaration: x from (x0, noise, u), its time, and its target.
STRAIGHT = {
    ("velocity", "unit"): lambda x0, n, u: (u * x0 + (1 - u) * n, u, x0 - n),
    ("epsilon", "step"): lambda x0, n, u: _ddpm(x0, n, u, n),
    ("x0", "step"): lambda x0, n, u: _ddpm(x0, n, u, x0),
}


def _ddpm(x0: Tensor, noise: Tensor, u: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = (999 * u**2).long()  # as often below a quarter of the steps as above
    a = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[t]
    return a.sqrt() * x0 + (1 - a).sqrt() * noise, t, target


@functools.cache
def trained(predicts: str, kind: str) -> nn.Module:
    """A small network after some steps on smooth images, which are not those of the check."""
    torch.manual_seed(0)
    net = Conv(of_time=1000 if kind == "unit" else 1)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for _ in range(500):
        coarse = [F.interpolate(torch.randn(16, 3, side, side), 8, mode="bilinear") for side in (1, 2, 4, 8)]
        x0 = torch.stack([0.5 * part for part in coarse[:2]] + [0.3 * coarse[2], 0.1 * coarse[3]]).sum(0)
        noise, u = torch.randn_like(x0), torch.rand(16, 1, 1, 1)
        x, t, target = STRAIGHT[predicts, kind](x0, noise, u)
        loss = (net(x, t.flatten()) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def declared(net: nn.Module, predicts: Any, time: Any, **options: Any) -> Any:
    return registry.wrap(net, predicts=predicts, time=time, **SIZES, **options).eval()


def named(net: Any) -> tuple[Any, ...] | None:
    """The declaration that would fit; None where the network's own stands."""
    torch.manual_seed(0)
    found = meaning(net)
    assert found is not None
    return None if found[1] is None else (found[1].form.predicts, found[1].form.time, found[1].form.space)


# ---- what is wrong is caught, and named as it is ----


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
@pytest.mark.parametrize(
    ("predicts", "kind"),
    [
        ("epsilon", "step"),  # σ given as a step, x0 as noise
        ("x0", "step"),  # σ given as a step
        ("epsilon", "sigma"),  # x0 given as noise
        ("velocity", "unit"),
        ("x0", "log_sigma"),
        ("v_prediction", "alphas_cumprod"),
    ],
)
def test_a_preconditioned_denoiser_under_a_wrong_declaration(
    predicts: str, kind: str, sigma_data: float
) -> None:
    torch.manual_seed(1)
    net = Preconditioned(sigma_data)
    assert named(declared(net, predicts, kind)) == ("x0", "sigma", "ve")
    assert named(declared(net, "x0", "sigma")) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (("velocity", "unit"), ("velocity", "-unit")),  # time reversed
        (("velocity", "unit"), ("-velocity", "unit")),
        (("velocity", "unit"), ("epsilon", "step")),
        (("x0", "step"), ("epsilon", "step")),  # x0 given as noise
        (("epsilon", "step"), ("x0", "step")),
        (("epsilon", "step"), ("velocity", "unit")),
    ],
)
def test_a_trained_network_under_a_wrong_declaration(right: tuple[str, str], wrong: tuple[str, str]) -> None:
    net = trained(*right)
    assert named(declared(net, *right)) is None
    assert named(declared(net, *wrong)) == (*right, "vp")


@pytest.mark.parametrize("name", FORMS)
def test_the_best_denoiser_in_every_form_is_not_complained_of(name: str) -> None:
    assert named(wrapped(name, 16)) is None


def test_a_network_that_was_not_wrapped_is_caught_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In less than half a minute of CPU, with the line that puts it right."""

    class Plain(Preconditioned):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return super().forward(x, t.float() + 1e-3)

    monkeypatch.setitem(registry.backbones.__dict__, "_installed", {**registry.backbones._installed})
    monkeypatch.setattr(registry.backbones, "_entries", registry.backbones._installed)
    registry.register("plain-denoiser")(lambda input_size=8, in_channels=3, num_classes=0: Plain())
    began = time.process_time()
    (result,) = [r for r in contract.check(registry.create("plain-denoiser")) if r.check == "meaning"]
    assert result.status == "fail" and time.process_time() - began < 30
    assert result.reason.startswith(
        'it does not behave as predicts="epsilon", time="step", space="vp", but as predicts="x0", '
        'time="sigma", space="ve": declare that by registry.wrap; its error is '
    )


# ---- what tells nothing is not accused ----


@pytest.mark.parametrize("name", SMALLEST)
def test_registered_backbones_are_not_accused(name: str) -> None:
    for seed in range(1 + (name != "unet2d")):
        torch.manual_seed(seed)
        net = registry.create(name, **SMALLEST[name])
        assert meaning(net.eval())[1] is None  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["step", "unit", "-unit", "sigma", "alphas_cumprod"])
@pytest.mark.parametrize("predicts", ["epsilon", "x0", "v_prediction", "velocity", "-velocity", "score"])
def test_untrained_networks_may_be_declared_as_anything(predicts: str, kind: str) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        for net in (Conv(), Skip()):
            assert named(declared(net, predicts, kind)) is None


@pytest.mark.parametrize(("predicts", "kind"), [("x0", "sigma"), ("velocity", "unit"), ("epsilon", "step")])
def test_a_network_that_returns_its_input_predicts_nothing_yet(predicts: str, kind: str) -> None:
    """As those of EDM's VP, VE and iDDPM preconditionings do before training."""

    class Same(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    assert named(declared(Same(), predicts, kind)) is None


def test_what_takes_no_fractions_of_steps_is_asked_at_whole_ones() -> None:
    class Table(ClosedForm):
        """Predicts x0 of steps, which it looks up."""

        def __init__(self) -> None:
            super().__init__(FORMS["epsilon, alphas_cumprod"])
            self.alphas_cumprod = nn.Embedding.from_pretrained(LOG_SNR.sigmoid().float()[:, None])

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            a = self.alphas_cumprod(t)[:, :, None, None]
            return (x - (1 - a).sqrt() * super().forward(x, a.flatten())) / a.sqrt()

    table: Any = functools.partial(registry.wrap, Table(), time="step", input_size=16, in_channels=4)
    assert named(table(predicts="epsilon").eval()) == ("x0", "step", "vp")
    assert named(table(predicts="x0").eval()) is None


def test_an_objective_of_a_user_is_not_known() -> None:
    net = registry.create("tiny-unet", **SMALLEST["tiny-unet"])
    net.objective = "own"
    assert meaning(net) is None
