"""`registry.wrap`: what a wrapped network declares, is called with, returns, and refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import registry
from bench.cost.stages import stages
from registry import contract
from registry.errors import CodeError, UsageError
from registry.training_output import TrainingOutput
from tests.registry.closed_forms import FORMS, ClosedForm, wrapped

SIZES: dict[str, Any] = {"input_size": 8, "in_channels": 2}
STEPS: dict[str, Any] = {"predicts": "epsilon", "time": "step", **SIZES}


class Small(nn.Module):
    """A convolution of the image with the time beside it; labels shift it."""

    def __init__(self, channels: int = 2, classes: int = 0, out: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels + 1, 8, 3, padding=1)
        self.last = nn.Conv2d(8, out, 3, padding=1)
        self.table = nn.Embedding(classes, 8) if classes else None
        self.seen: list[Any] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Any:
        self.seen.append((x, t, y))
        h = self.first(torch.cat([x, (t.float() / 1000).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], 1))
        if self.table is not None:
            h = h + self.table(y)[:, :, None, None]
        return self.last(h.relu())


@pytest.mark.parametrize("name", FORMS)
def test_it_declares_the_objective_of_its_time_and_speaks_it(name: str) -> None:
    net = wrapped(name)
    assert net.objective == FORMS[name].objective
    natural = {"ddpm": "epsilon, step", "flow": "velocity, unit", "edm": "x0, sigma"}[net.objective]
    x, t, y = net.example_inputs(64)
    assert torch.allclose(net(x, t, y), FORMS[natural].function(x, t).to(x.dtype), atol=2e-3)


def test_a_network_that_speaks_its_objective_is_called_with_what_comes_and_nothing_else_is_computed() -> None:
    net = registry.wrap(Small(), **STEPS)
    x, t, y = net.example_inputs(3)
    out = net(x, t, y)
    assert net.net.seen[0][0] is x and net.net.seen[0][1] is t and net.net.seen[0][2] is None
    assert torch.equal(out, net.net(x, t)) and net.found == "the tensor itself"


def test_labels_are_given_where_there_are_classes_and_dropped_where_that_is_asked() -> None:
    net = registry.wrap(Small(classes=4), **STEPS, num_classes=3, label_dropout=0.5)
    assert (net.num_classes, net.null_class) == (3, 3)
    x, t, _ = net.example_inputs(200)
    net(x, t, torch.zeros(200, dtype=torch.int64))
    dropped = net.net.seen[0][2] == 3
    assert 60 < int(dropped.sum()) < 140
    net.eval()(x, t, torch.zeros(200, dtype=torch.int64))
    assert not net.net.seen[1][2].any()
    own = registry.wrap(Small(), **STEPS, num_classes=3, null_class=3)
    assert own.null_class == 3
    assert registry.wrap(Small(), **STEPS).null_class is None
    for options in ({"label_dropout": 0.1}, {"num_classes": 3, "null_class": 3, "label_dropout": 0.1}):
        with pytest.raises(UsageError, match="label_dropout is for a network with classes"):
            registry.wrap(Small(), **STEPS, **options)


def test_no_classes_may_be_none_or_zero() -> None:
    for classes in (None, 0):
        net = registry.wrap(Small(), **STEPS, num_classes=classes)
        assert net.num_classes == 0
        x, t, _ = net.example_inputs(2)
        net(x, t, None)


def test_it_is_called_as_one_says() -> None:
    class Keywords(nn.Module):
        def forward(self, *, image: Tensor, noise: Tensor) -> Tensor:
            return image * noise.view(-1, 1, 1, 1)

    net = registry.wrap(
        Keywords(), predicts="x0", time="sigma", **SIZES, call=lambda net, x, t, y: net(image=x, noise=t)
    )
    x, t, y = net.example_inputs(2)
    assert torch.equal(net(x, t, y), x * t.view(-1, 1, 1, 1))


# ---- what it returns ----


class Result(NamedTuple):
    features: Tensor
    image: Tensor


class Returns(Small):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Any:
        return self.make(super().forward(x, t, y))


@pytest.mark.parametrize(
    ("make", "output", "found"),
    [
        (lambda out: (out, out + 1), None, "element 0 of tuple"),
        (lambda out: [out], None, "element 0 of list"),
        (lambda out: SimpleNamespace(sample=out), None, ".sample of SimpleNamespace"),
        (lambda out: {"sample": out, "other": None}, None, "key 'sample' of dict"),
        (lambda out: Result(out + 1, out), "image", ".image of Result"),
        (lambda out: Result(out + 1, out), 1, "element 1 of Result"),
        (lambda out: {"noise": out}, "noise", "key 'noise' of dict"),
        (lambda out: {"noise": out}, lambda out: out["noise"], "by a function of dict"),
    ],
)
def test_the_prediction_is_found(make: Any, output: Any, found: str) -> None:
    net = registry.wrap(Returns(make), **STEPS, output=output).eval()
    x, t, y = net.example_inputs(2)
    assert torch.equal(net(x, t, y), Small.forward(net.net, x, t)) and net.found == found


@pytest.mark.parametrize(
    ("make", "output", "says"),
    [
        (lambda out: {"noise": out}, None, "returns dict: say by output= where"),
        (lambda out: None, None, "returns NoneType: say by output= where"),
        (lambda out: (), None, "returns tuple: say by output= where"),
        (lambda out: (out,), "image", "output = 'image' is not in the tuple"),
        (lambda out: (out,), 1, "output = 1 is not in the tuple"),
        (lambda out: {"noise": 3}, "noise", "output gives int, not a tensor"),
        (lambda out: torch.cat([out, out], 1), None, "has 4 channels, not 2: say learn_sigma=True"),
        (lambda out: out[:, :1], None, "has 1 channels, not 2 "),
    ],
)
def test_what_is_no_prediction_is_refused(make: Any, output: Any, says: str) -> None:
    net = registry.wrap(Returns(make), **STEPS, output=output).eval()
    with pytest.raises(CodeError, match=says):
        net(*net.example_inputs(2))


@pytest.mark.parametrize("time", ["step", "unit"])
def test_a_learned_variance_is_kept_in_ddpm_and_dropped_elsewhere(time: Any) -> None:
    net = registry.wrap(Small(out=4), predicts="v_prediction", time=time, learn_sigma=True, **SIZES)
    assert net.learn_sigma == (time == "step") and net.out_channels == (4 if time == "step" else 2)
    x, t, y = net.example_inputs(2)
    out = net(x, t, y)
    assert out.shape[1] == net.out_channels
    raw = net.net(*net.net.seen[0][:2])
    if time == "step":
        assert torch.equal(out[:, 2:], raw[:, 2:]) and not torch.equal(out[:, :2], raw[:, :2])


# ---- losses of its own ----


class WithLoss(Small):
    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Any:
        out = super().forward(x, t, y)
        return (out, out.square().mean(), out.detach().mean()) if self.training else out


def test_losses_of_its_own_are_added_dropped_or_refused() -> None:
    x, t, y = registry.wrap(WithLoss(), **STEPS).example_inputs(3)
    with pytest.raises(
        CodeError, match=r"looks like a loss \(loss_1\): say losses=\"add\" or losses=\"drop\""
    ):
        registry.wrap(WithLoss(), **STEPS)(x, t, y)
    net = registry.wrap(WithLoss(), **STEPS, losses="add")
    found = net(x, t, y)
    assert isinstance(found, TrainingOutput) and list(found.losses) == ["loss_1"]
    expected = found.prediction.square().mean().expand(3)
    assert torch.equal(found.losses["loss_1"], expected)
    assert isinstance(net.eval()(x, t, y), Tensor)
    assert isinstance(registry.wrap(WithLoss(), **STEPS, losses="drop")(x, t, y), Tensor)
    named = registry.wrap(WithLoss(), **STEPS, losses=lambda out: {"size": 2 * out[1]})(x, t, y)
    assert torch.equal(named.losses["size"], 2 * named.prediction.square().mean().expand(3))


# ---- beside the network ----


def test_wrong_declarations_are_one_line() -> None:
    for option, value, says in (
        ("predicts", "x_0", "predicts = 'x_0': it is one of epsilon, x0, .* Did you mean 'x0'"),
        ("time", "steps", "time = 'steps': .* or a function of .* Did you mean 'step'"),
        ("space", "vq", "space = 'vq': it is one of vp, ve, edm"),
        ("beta_schedule", "sigmoid", "beta_schedule = 'sigmoid': it is one of linear"),
    ):
        with pytest.raises(UsageError, match=says):
            registry.wrap(Small(), **STEPS | {option: value})
    with pytest.raises(UsageError, match=r"takes an nn\.Module, not function"):
        registry.wrap(lambda x, t: x, **STEPS)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="multiples of 16"):
        registry.wrap(Small(), **STEPS, size_multiple=16)


def test_a_network_of_one_size_refuses_others_by_name() -> None:
    net = registry.wrap(Small(), **STEPS, fixed_size=True)
    x, t, y = net.example_inputs(2)
    assert net(x, t, y).shape == (2, 2, 8, 8)
    with pytest.raises(UsageError, match=r"Wrapped was built for 8×8 inputs and cannot take 16×16"):
        net(torch.zeros(2, 2, 16, 16), t, y)
    (sizes,) = (result for result in contract.check(net) if result.check == "sizes")
    assert sizes.status == "pass" and sizes.reason.startswith("takes none; refuses 9×9, 8×9, 8×16, 4×4")


@pytest.mark.parametrize(("limits", "called"), [(None, (0.002, 160.0)), ((0.01, 500.0), (0.01, 500.0))])
def test_outside_of_its_range_a_network_is_called_at_the_nearest_level(limits: Any, called: Any) -> None:
    net = registry.wrap(Small(), predicts="score", time="sigma", sigma_range=limits, **SIZES)
    net(torch.randn(3, 2, 8, 8), torch.tensor([0.001, 1.0, 800.0]), None)
    assert torch.allclose(net.net.seen[0][1], torch.tensor([called[0], 1.0, called[1]]))
    with pytest.raises(UsageError, match=r"sigma_range = \(2, 1\): it rises from above 0"):
        registry.wrap(Small(), **STEPS, sigma_range=(2, 1))


def test_a_network_may_call_a_list_of_its_parts_stages() -> None:
    net = Small()
    net.stages = nn.ModuleList([net.first, net.last])
    assert [*registry.wrap(net, **STEPS).stages()] == ["first", "last", "stages"]
    assert [*stages(net)] == ["first", "last", "stages"]


def test_its_stages_are_those_of_the_network() -> None:
    assert list(registry.wrap(Small(classes=3), **STEPS, num_classes=3).stages()) == [
        "first",
        "last",
        "table",
    ]


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_published_weights_are_found_under_their_names(prefix: str) -> None:
    net, other = (registry.wrap(Small(), **STEPS, prefix=prefix) for _ in range(2))
    names = {f"{prefix}{name}": value for name, value in other.net.state_dict().items()}
    beside = {"first_stage.weight": torch.zeros(1)} if prefix else {}
    zeros = {name: torch.zeros_like(value) for name, value in names.items()}
    averaged = [
        {"state_dict": zeros | beside, "ema": ema} for ema in (names | beside, other.net.state_dict())
    ]
    for state in (names, names | beside, other.state_dict(), *averaged):
        registry.load_checkpoint(net, state)
        assert all(map(torch.equal, net.state_dict().values(), other.state_dict().values()))
        nn.init.zeros_(net.net.first.weight)


def test_weights_of_several_parts_of_a_file_are_found() -> None:
    class Parts(nn.Module):
        """As latent diffusion keeps its network and the table of its labels."""

        def __init__(self) -> None:
            super().__init__()
            self.model = nn.ModuleDict({"diffusion_model": Small()})
            self.cond_stage_model = nn.Embedding(3, 2)

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return self.model["diffusion_model"](x + self.cond_stage_model(y)[..., None, None], t)

    prefix = ("model.diffusion_model.", "cond_stage_model.")
    net, other = (registry.wrap(Parts(), **STEPS, num_classes=3, prefix=prefix) for _ in range(2))
    state = other.net.state_dict() | {"first_stage_model.weight": torch.ones(3), "betas": torch.ones(1000)}
    registry.load_checkpoint(net, {"state_dict": state})
    assert all(map(torch.equal, net.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("form", [FORMS["x0, sigma"], FORMS["velocity, unit"], FORMS["score, log_sigma"]])
def test_a_wrapped_network_passes_the_contract(form: Any) -> None:
    class Best(ClosedForm):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x, t) + 0 * self.scale

    net = registry.wrap(Best(form), **form.declared, input_size=8, in_channels=4)
    results = contract.check(net)
    assert [result for result in results if result.status == "fail"] == []
