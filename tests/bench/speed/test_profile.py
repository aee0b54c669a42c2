"""Profiles: shares, and their agreement with `bench.cost`."""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import registry
from bench import cost
from bench.reports.profile_figure import finding
from bench.speed import device
from bench.speed import profile as profiling
from bench.speed.operators import convolution_class
from bench.speed.profile import measure


class Sleep(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


class Net(registry.Backbone):
    """One convolution of each kind, attention, and a stage that can be made to sleep."""

    def __init__(self, seconds=0.0, functional=False):
        super().__init__(input_size=8, num_classes=3)
        self.functional = functional
        self.stem = nn.Conv2d(4, 16, 3, padding=1)
        self.slow = nn.Sequential(nn.Conv2d(16, 16, 5, padding=2, groups=16), Sleep(seconds), nn.GELU())
        self.mix = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(2))
        self.label = nn.Linear(1, 16)
        self.head = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x, t, y):
        x = self.slow(self.stem(x))
        for layer in self.mix:
            x = layer(x)
        if self.functional:
            x = F.conv2d(x, self.mix[0].weight)
        tokens = (
            x.flatten(2).transpose(1, 2).contiguous()[:, None]
            + self.label(t[:, None].to(x.dtype))[:, None, None]
        )
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(tokens[:, 0].transpose(1, 2).reshape(x.shape))


@pytest.fixture(scope="module")
def small():
    network = registry.create("udit-t", depth=[1, 1, 1, 1, 1], input_size=16)
    return measure(network, batch_size=2, repeats=2)


def test_shares_add_up_to_one_and_stages_to_the_whole(small):
    for rows in (small.stages, small.operators):
        assert sum(row.time_share for row in rows) == pytest.approx(1)
        assert sum(row.macs_share for row in rows) == pytest.approx(1)
        assert all(row.seconds >= 0 for row in rows)
    assert sum(row.seconds for row in small.stages) == pytest.approx(small.seconds * (1 + small.overhead))


def test_macs_equal_those_of_cost(small):
    counted = cost.measure("udit-t", depth=[1, 1, 1, 1, 1], input_size=16)
    assert {row.name: row.macs for row in small.stages if row.name != "(between)"} == {
        part.name: part.macs for part in counted.stages if part.name != "(between)"
    }
    ours = {row.name: row.macs for row in small.operators if row.macs}
    kinds = {name: ours.pop(name) for name in list(ours) if name.endswith("convolution")}
    theirs = {part.name: part.macs for part in counted.operators if part.macs}
    assert sum(kinds.values()) == theirs.pop("convolution") and len(kinds) == 3
    assert ours == theirs


def test_every_operator_with_macs_is_timed(small):
    rows = {row.name: row for row in small.operators}
    assert all(row.seconds > 0 for row in rows.values() if row.macs)
    assert rows["norm"].ratio is None and rows["1×1 convolution"].ratio > 0
    assert rows["other"].time_share < 0.1  # the table of operators knows what a U-DiT is made of


def test_a_stage_that_sleeps_is_the_slowest():
    found = measure(Net(seconds=0.05), batch_size=1, repeats=2)
    stage = max(found.stages, key=lambda row: row.time_share)
    assert stage.name == "slow" and stage.seconds >= 0.05 and stage.time_share > 0.8
    assert finding(found).startswith("slow takes ")
    assert found.seconds >= 0.05


def test_what_a_gpu_waits_for_is_told(monkeypatch, small):
    """The processor stands for a GPU: of its time, half is in no operator."""
    monkeypatch.setattr(profiling, "on_cuda", lambda _: True)
    monkeypatch.setattr(profiling._Passes, "plain", lambda _: 4.0)
    profiled = {"linear": 1.0, "norm": 0.5, "depthwise convolution": 0.5}
    monkeypatch.setattr(profiling, "profiled", lambda *_: (profiled, None))
    found = measure(Net(), batch_size=1, repeats=1)
    rows = {row.name: row for row in found.operators}
    assert rows["idle"].seconds == 2 and rows["idle"].time_share == found.idle == 0.5
    assert sum(row.time_share for row in found.operators) == pytest.approx(1)
    assert found.operator_seconds == 2 and rows["linear"].time_share == 0.25
    assert "Of the operators, norm takes 12%" in finding(found) or "linear takes 25%" in finding(found)
    assert finding(found).endswith(
        "The GPU is idle for 50% of the time, until the next operator is launched."
    )
    assert small.idle == 0 and "idle" not in finding(small)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_weights_and_inputs_have_the_dtype_asked_for(dtype):
    network, seen = Net(), set()
    network.register_forward_pre_hook(lambda module, args: seen.update(a.dtype for a in args[:1]))
    network.stem.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    assert measure(network, dtype=dtype, batch_size=1, repeats=1).request.dtype == dtype
    # The cost is counted on the network as it is; the passes that are timed are not.
    assert seen == {torch.float32, device.TORCH_DTYPES[dtype]}
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_convolutions_are_told_apart_by_kind():
    rows = {row.name: row for row in measure(Net(), batch_size=1, repeats=1).operators}
    assert rows["depthwise convolution"].macs == 64 * 16 * 25
    assert rows["1×1 convolution"].macs == 2 * 64 * 16 * 16
    assert rows["other convolution"].macs == 2 * 64 * 4 * 16 * 9
    assert rows["attention"].macs == 2 * 64 * 64 * 16 and rows["linear"].macs == 16


@pytest.mark.parametrize(
    ("channels", "weight", "kind"),
    [
        (8, [8, 1, 3, 3], "depthwise"),
        (8, [16, 1, 1, 1], "depthwise"),
        (8, [16, 8, 1, 1], "1×1"),
        (8, [8, 4, 3, 3], "other"),
        (1, [8, 1, 3, 3], "other"),
        (1, [8, 1, 1, 1], "1×1"),
    ],
)
def test_kind_of_a_convolution(channels, weight, kind):
    assert convolution_class(channels, weight) == f"{kind} convolution"


def test_a_functional_convolution_leaves_convolutions_together():
    found = measure(Net(functional=True), batch_size=1, repeats=1)
    rows = {row.name: row for row in found.operators if row.name.endswith("convolution")}
    assert list(rows) == ["convolution"] and rows["convolution"].seconds > 0
    assert rows["convolution"].macs == 64 * (16 * 25 + 3 * 16 * 16 + 2 * 4 * 16 * 9)


def test_the_network_is_left_as_it_was():
    network = registry.create("udit-t", depth=[1, 0, 0, 0, 0], input_size=16)
    measure(network, batch_size=1, repeats=1)
    hooks = [m for m in network.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert network.training and not hooks and all(p.requires_grad for p in network.parameters())
