"""Counts against the original programs' counts, other counters, and direct formulas."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import registry
from bench import cost, records
from bench.cost.memory import LiveTensors
from bench.cost.stages import around
from registry.errors import CodeError
from tests.conftest import ROOT

_DOT = {"cosine": False, "rope": False, "ffn": "mlp"}
# Operations that torchprofile counts on the released programs (the source of the paper's figures).
RELEASED = [
    ("dit-s-4", {}, 1_414_086_912),
    ("dit-s-2", {}, 6_065_217_792),
    ("dit-l-4", {}, 19_703_603_456),
    ("dit-b-2", {}, 23_024_181_504),
    ("dit-l-2", {}, 80_748_224_768),
    ("dit-xl-2", {}, 118_684_115_200),
    ("udit-s", {}, 6_043_540_864),
    ("udit-b", {}, 22_224_771_456),
    ("udit-l", {}, 85_000_309_120),
    ("dit-unet", {}, 1_396_528_260),
    ("dit-unet-slim", {}, 915_349_524),
    ("udit-t", {**_DOT, "downsampler": "pixel-shuffle"}, 894_366_852),
    ("udit-t", {**_DOT, "downsampler": "depthwise"}, 905_426_052),
    ("udit-t", {**_DOT}, 905_426_052),
    ("udit-t", {"rope": False, "ffn": "mlp"}, 905_426_052),
    ("udit-t", {"ffn": "mlp"}, 905_868_732),
    ("udit-t", {"ffn": "dwconv"}, 950_105_532),
    ("udit-t", {}, 950_105_532),
    (
        "udit-t",
        {"depth": (2, 3, 4, 3, 2), "mlp_ratio": 2.0, "downsampler": "conv", "ffn": "dwconv"},
        2_222_945_280,
    ),
]


@pytest.mark.parametrize(("name", "overrides", "operations"), RELEASED)
def test_paper_convention_equals_the_released_programs_count(name, overrides, operations):
    # What differs are dozens of products of single embeddings and tables made once instead of per call.
    assert cost.measure(name, **overrides).paper_gflops * 1e9 == pytest.approx(operations, abs=2_500)


@pytest.mark.parametrize(
    ("name", "gmacs", "parameters"),
    [
        ("uvit-l-2", 76.5, 286.8),
        ("uvit-h-2", 133.2, 500.8),
        ("uvit-m-4", None, 130.9),
        ("uvit-s-2-deep", None, 58.4),
        ("unet2d-64", 39.6, 107.7),
        ("uvit2d", None, 603.5),
        ("tiny-unet", None, 0.914915),
    ],
)
def test_published_costs_of_other_families(name, gmacs, parameters):
    found = cost.measure(name)
    assert found.parameters / 1e6 == pytest.approx(parameters, abs=0.051 if parameters > 1 else 1e-9)
    assert gmacs is None or found.macs / 1e9 == pytest.approx(gmacs, abs=0.05)
    assert found.flops == 2 * found.macs and not found.uncounted


@pytest.mark.parametrize("name", ["tiny-unet", "dit-s-8", "uvit-s-2", "unet2d", "udit-t", "uvit2d-latent"])
def test_macs_equal_half_of_torchs_flop_counter(name, monkeypatch):
    # torch's counter has no formula for the CPU's fused attention: give it separate products.
    def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v

    small = {"depth": 2} if name.startswith(("dit", "uvit")) else {}
    network = registry.create(name, **small).deploy()
    ours = cost.measure(network)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*network.example_inputs(1))
    assert 2 * ours.macs == counter.get_total_flops()


@registry.backbones.register("test-formula")
class Formula(registry.Backbone):
    """Transposed and grouped convolutions, attention with a mask, an affine norm, a product."""

    def __init__(self):
        super().__init__(input_size=8, in_channels=4, num_classes=0)
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, stride=2, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False)
        self.norm = nn.LayerNorm(4)
        self.unused = nn.Linear(3, 3)

    def forward(self, x, t, y):
        x = self.up(self.grouped(x))
        tokens = self.norm(x.flatten(2).transpose(1, 2))[:, None]
        mask = torch.zeros(64, 64, dtype=torch.bool, device=x.device) | True
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=mask)
        return x * tokens[:, 0].transpose(1, 2).reshape(x.shape)


def test_counts_by_formula():
    found = cost.measure("test-formula")
    grouped = 8 * 4 * 4 * (4 // 2) * 9
    up = 8 * 4 * 4 * 4 * 2 * 2
    attention = 64 * 64 * (4 + 4)
    assert found.macs == grouped + up + attention
    assert found.paper_gflops * 1e9 == found.macs + 64 * 64 + 64 * 4 + 64 * 4  # logits, norm, product
    assert {part.name: part.macs for part in found.stages} == {
        "grouped": grouped,
        "up": up,
        "norm": 0,
        "unused": 0,
        "(between)": attention,
    }


@pytest.mark.parametrize("name", ["udit-t", "dit-s-4", "unet2d", "uvit2d", "uvit2d-latent", "tiny-unet"])
def test_parts_add_up_to_the_whole(name):
    found = cost.measure(name)
    assert sum(part.macs for part in found.stages) == found.macs
    assert sum(part.paper for part in found.stages) == pytest.approx(found.paper_gflops * 1e9)
    assert sum(part.parameters for part in found.stages) == found.parameters
    assert sum(part.parameters_deployed for part in found.stages) == found.parameters_deployed
    assert sum(part.macs for part in found.operators) == found.macs
    assert max(part.activation_bytes for part in found.stages) <= found.activation_bytes
    modules = {part.name: part for part in found.modules}
    assert all(modules[part.name].macs == part.macs for part in found.stages if part.name in modules)


class Chain(registry.Backbone):
    """Three convolutions in a row: the peak is one input and one output of the widest."""

    def __init__(self):
        super().__init__(input_size=16, in_channels=4, num_classes=0)
        self.a, self.b, self.c = nn.Conv2d(4, 64, 1), nn.Conv2d(64, 32, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x, t, y):
        return self.c(self.b(self.a(x)))


class Attending(registry.Backbone):
    """Attention of 256 tokens, by PyTorch's module or by the function that it calls."""

    def __init__(self, by_module):
        super().__init__(input_size=16, in_channels=16, num_classes=0)
        self.inside = nn.MultiheadAttention(16, 2, batch_first=True)
        self.by_module = by_module

    def forward(self, x, t, y):
        tokens, inside = x.flatten(2).mT, self.inside
        if self.by_module:
            out = inside(tokens, tokens, tokens, need_weights=False)[0]
        else:
            qkv = F.linear(tokens, inside.in_proj_weight, inside.in_proj_bias)
            q, k, v = qkv.unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            out = inside.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out.mT.reshape(x.shape)


def test_attention_of_a_module_of_pytorch_counts_as_fused_attention():
    module, function = (cost.measure(Attending(by_module)) for by_module in (True, False))
    logits = 2 * 256 * 256
    assert module.macs == function.macs == 256 * 16 * 16 * 4 + 2 * logits * 8
    assert module.paper_gflops * 1e9 == function.paper_gflops * 1e9 == module.macs + logits
    assert module.activation_bytes < logits * 4  # the matrix of logits is never there whole
    assert F.scaled_dot_product_attention(*torch.ones(3, 1, 2, 4)).shape == (1, 2, 4)  # PyTorch's is back


class Tied(registry.Backbone):
    """Two stages that share a convolution."""

    def __init__(self):
        super().__init__(input_size=16, in_channels=4, num_classes=0)
        shared = nn.Conv2d(4, 4, 1, bias=False)
        self.encoder = nn.Sequential(shared, nn.Conv2d(4, 4, 1, bias=False))
        self.decoder = nn.Sequential(shared)

    def forward(self, x, t, y):
        return self.decoder(self.encoder(x))


def test_what_stages_share_counts_where_it_runs_and_its_parameters_once():
    found = {part.name: part for part in cost.measure(Tied()).stages}
    assert {name: part.macs for name, part in found.items()} == {"encoder": 2 * 4096, "decoder": 4096}
    assert [part.parameters for part in found.values()] == [32, 0]
    assert [part.parameters_deployed for part in found.values()] == [32, 0]


def test_einsum_counts_the_same_however_it_is_given():
    class Product(Chain):
        def forward(self, x, t, y):
            pair = x, torch.ones(4, 4, device=x.device)
            return super().forward(torch.einsum("nchw,cd->ndhw", *([pair] if self.listed else pair)), t, y)

    def count(listed):
        network = Product()
        network.listed = listed
        return cost.measure(network)

    assert count(True).paper_gflops == count(False).paper_gflops > cost.measure(Chain()).paper_gflops


def test_activation_memory_is_the_peak_of_live_tensors():
    found = cost.measure(Chain())
    inputs = (4 * 256) * 4 + 8 + 8  # x in float32, t and y as int64
    stages = {part.name: part.activation_bytes for part in found.stages}
    assert stages["a"] == inputs + 64 * 256 * 4
    assert stages["b"] == inputs + (64 + 32) * 256 * 4 == found.activation_bytes
    assert stages["c"] == inputs + (32 + 4) * 256 * 4


class Joined(Chain):
    """Two tensors that are joined and then needed no more."""

    def forward(self, x, t, y):
        both = torch.cat([x + 1, x + 2], 1)
        four = torch.cat([both, both], 1)
        return four[:, :4] + 1


def test_what_was_joined_takes_no_memory_afterwards():
    tensor = (4 * 256) * 4
    # At the end x, twice and four times its size, and the output: what `both` was made of is gone.
    assert cost.measure(Joined()).activation_bytes == 8 * tensor + 8 + 8


def test_activation_memory_sees_what_real_tensors_take():
    network = registry.create("udit-t").deploy()
    inputs = network.example_inputs(1)
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        network(*inputs)
    live = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]" and event.device_type() == torch.profiler.DeviceType.CPU:
            live += event.nbytes()
            peak = max(peak, live)
    # Real kernels also take scratch memory, which is no activation.
    assert cost.measure(network).activation_bytes == pytest.approx(peak, rel=0.1)


def test_a_module_costs_what_its_name_costs_and_is_left_alone():
    network = registry.create("udit-t", ffn="dwconv", input_size=(16, 24)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    by_module, by_name = cost.measure(network), cost.measure("udit-t", ffn="dwconv", input_size=(16, 24))
    assert by_module == by_name
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(registry.UsageError, match="need a name"):
        cost.measure(network, input_size=8)


class Odd(nn.Module):
    """A plain module that needs real numbers in its constructor, looks at values, and hides a cost."""

    def __init__(self, fail=False):
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 1, 4)]
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.fail = fail

    def forward(self, x, t, y):
        if self.fail:
            raise KeyError("no such\nthing")
        scale = 2.0 if t.max().item() > 2000 else 1.0
        return torch.fft.ifft2(torch.fft.fft2(self.conv(x))).real + scale


def test_what_may_cost_and_is_not_counted_is_named():
    registry.register("test-odd")(Odd)
    found = cost.measure("test-odd")
    assert found.macs == 4 * 4 * 9 * 32 * 32
    assert found.uncounted == {"aten::_fft_c2c": 2}


class Tokens(registry.Backbone):
    """Calls a function with the network, tokens (1, 256, 4) and t; what it returns is not used."""

    def __init__(self, run=None):
        super().__init__(input_size=16, in_channels=4, num_classes=0)
        self.linear, self.other = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.register_buffer("repeats", torch.tensor(5))
        if run:
            self.run = run

    def run(self, net, x, t):
        for _ in range(int(self.repeats)):
            x = self.linear(x)

    def forward(self, x, t, y):
        self.run(self, x.flatten(2).transpose(1, 2), t)
        return x


def _pruned(net, x, t):
    net.linear(x[:, x[0, :, 0] > 0])  # about half of the tokens


@pytest.mark.parametrize(
    ("run", "least", "most"),
    [
        (None, 5 * 256 * 16, 5 * 256 * 16),
        (lambda net, x, t: net.linear(x) if t[0] > 500 else net.other(x[:, :9]), 9 * 16, 9 * 16),
        (lambda net, x, t: net.linear(x) if t[0] > 499 else net.other(x[:, :9]), 256 * 16, 256 * 16),
        (lambda net, x, t: net.linear(x) if net.other.weight.any() else x, 256 * 16, 256 * 16),
        (_pruned, 80 * 16, 176 * 16),
    ],
)
def test_values_that_decide_on_the_cost_are_real_and_noted(run, least, most):
    found = cost.measure(Tokens(run))
    assert least <= found.macs <= most
    assert found.notes == (
        "The forward pass does not run on shapes alone: the counts are for seed 0 and t = 500, "
        "and may depend on values.",
    )
    assert cost.measure(Tokens(run)) == found and cost.measure("tiny-unet").notes == ()


def test_a_name_has_one_cost_even_where_random_weights_decide():
    class Drawn(Tokens):
        def __init__(self):
            super().__init__()
            self.chances = nn.Parameter(torch.rand(64))

        def run(self, net, x, t):
            for _ in range(int((self.chances > 0.5).sum())):
                x = self.linear(x)

    registry.register("test-drawn")(Drawn)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one, other = cost.measure("test-drawn"), cost.measure("test-drawn")
    assert one == other and 0 < one.macs < 64 * 256 * 16
    with torch.device("meta"):
        named, unnamed = registry.create("test-drawn"), Drawn()
    assert cost.measure(named) == one  # is built again, with weights
    with pytest.raises(registry.UsageError, match=r"Drawn has no weights .* build it on the CPU"):
        cost.measure(unnamed)


def test_a_record_keeps_its_notes_and_is_as_before_without_any(tmp_path):
    noted = cost.measure(Tokens())
    assert json.loads(records.write(noted, tmp_path).read_text())["result"]["notes"] == list(noted.notes)
    (found,) = records.read(tmp_path)
    assert found.result.notes == noted.notes
    assert "notes" not in cost.measure("tiny-unet").record_values()


def complex_numbers(*shape):
    return torch.ones(shape, dtype=torch.complex64)


def _recurrent(kind):
    return lambda net, x, t: getattr(nn, kind)(4, 5, num_layers=2, bidirectional=True)(x[:, :7])


def _in_place(net, x, t):
    x[0, :4].clone().addmm_(x[0, :4], x[0, :4])


@torch.inference_mode()
def _inferred(net, x, t):
    nn.MultiheadAttention(4, 2, batch_first=True)(x, x, x)


def eights(*shape, dtype=torch.float8_e4m3fn):
    return torch.ones(shape).to(dtype)


def whole(*shape):
    return torch.ones(shape, dtype=torch.int8)


PRODUCTS = [
    (lambda net, x, t: torch.addbmm(x.new_ones(8, 8), *[x.new_ones(4, 8, 8)] * 2), 4 * 8**3),
    (lambda net, x, t: torch.baddbmm(*[x.new_ones(4, 8, 8)] * 3), 4 * 8**3),
    (lambda net, x, t: torch.addmv(x.new_ones(3), x.new_ones(3, 5), x.new_ones(5)), 15),
    (lambda net, x, t: torch.addr(x.new_ones(3, 5), x.new_ones(3), x.new_ones(5)), 15),
    (lambda net, x, t: torch.vdot(*[x.new_ones(7)] * 2), 7),
    (lambda net, x, t: torch.linalg.vecdot(x, x[:, :1]), 256 * 4),
    (lambda net, x, t: torch.linalg.vecdot(x, x, dim=1), 256 * 4),
    (lambda net, x, t: torch.linalg.vecdot(*[complex_numbers(3, 5)] * 2), 4 * 15),
    (lambda net, x, t: complex_numbers(2, 3, 4) @ complex_numbers(4, 5), 4 * 2 * 3 * 4 * 5),
    (lambda net, x, t: torch.einsum("bi,bij->bj", x[0], x[0].new_ones(256, 4, 3)), 256 * 4 * 3),
    (lambda net, x, t: torch.tensordot(x[0], x[0], ([0], [0])), 256 * 16),
    (lambda net, x, t: F.bilinear(x, x[..., :3], x.new_ones(7, 4, 3)), 256 * 7 * (4 + 1) * 3),
    (lambda net, x, t: torch.conv_tbc(x, x.new_ones(3, 4, 5), x.new_ones(5), 1), 1 * 256 * 3 * 4 * 5),
    (lambda net, x, t: torch._int_mm(whole(32, 16), whole(16, 8)), 32 * 16 * 8),
    (lambda net, x, t: torch._scaled_mm(eights(32, 16), eights(48, 16).T, *[torch.ones(())] * 2), 32 * 768),
    (lambda net, x, t: x[0].int() @ t.new_ones(4, 3, dtype=torch.int32), 256 * 4 * 3),
    (lambda net, x, t: F.conv_transpose1d(x.mT, x.new_ones(4, 6, 3)), 256 * 4 * 6 * 3),
    (lambda net, x, t: F.conv3d(x.reshape(1, 4, 4, 8, 8), x.new_ones(6, 2, 1, 3, 3), groups=2), 864 * 2 * 9),
    (lambda net, x, t: F.scaled_dot_product_attention(x, x, x[..., :3]), 256 * 256 * (4 + 3)),
    (_recurrent("LSTM"), 2 * 7 * 4 * 5 * ((4 + 5) + (10 + 5))),
    (_recurrent("GRU"), 2 * 7 * 3 * 5 * ((4 + 5) + (10 + 5))),
    (_in_place, 4**3),
    (_inferred, 4 * 256 * 16 + 2 * 256 * 256 * 4),
]  # fmt: skip


@pytest.mark.parametrize(("run", "macs"), PRODUCTS, ids=range(len(PRODUCTS)))
def test_every_product_counts_by_its_formula(run, macs):
    found = cost.measure(Tokens(run))
    assert found.macs == macs and not found.uncounted


def test_flex_attention_counts_densely_and_says_so():
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    mask = flex.create_block_mask(lambda b, h, q, k: q >= k, None, None, 256, 256, device="cpu")  # of 128²

    def run(net, x, t, **options):
        flex.flex_attention(*[x[:, None]] * 3, **options)

    dense = cost.measure(Tokens(run))
    masked = cost.measure(Tokens(lambda net, x, t: run(net, x, t, block_mask=mask)))
    assert dense.macs == masked.macs == 2 * 256 * 256 * 4
    words = "flex_attention counts as two dense matrix products, without score_mod and mask"
    assert (
        dense.notes[-1].startswith(words) and masked.notes[-1] == f"{words} (masks keep 75.0% of the blocks)."
    )


def test_of_a_condition_the_branch_that_is_taken_counts():
    def run(net, x, t):
        torch.cond(t.max() > 499, lambda x: net.linear(x), lambda x: x.clone(), (x,))

    found = cost.measure(Tokens(run))
    assert found.macs == 256 * 16 and len(found.notes) == 1 and not found.uncounted


def test_sparse_products_are_named_as_uncounted():
    network = Tokens(lambda net, x, t: net.sparse @ x[0])
    network.register_buffer("sparse", torch.eye(256).to_sparse())
    found = cost.measure(network)
    assert found.macs == 0 and found.uncounted == {"aten::mm (sparse_coo)": 1}
    network.sparse = torch.eye(256).to_sparse_csr()
    with pytest.raises(registry.UsageError, match=r"Tokens cannot be copied: .*SparseCsr"):
        cost.measure(network)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_scripted_part_is_named_in_one_line():
    network = Tokens()
    network.linear = torch.jit.script(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(registry.UsageError, match=r"'linear' of Tokens is TorchScript, .*without torch.jit"):
        cost.measure(network)


def test_what_runs_and_cannot_be_counted_is_no_mistake_of_the_network():
    def run(net, x, t):
        torch.nested.nested_tensor([x[0], x[0, :9]]).sum(-1, keepdim=True)

    with pytest.raises(registry.UsageError, match=r"^Tokens runs, but cannot be counted: ") as error:
        cost.measure(Tokens(run))
    assert error.traceback[-1].path.name == "trace.py"


def adopted(network, **overrides):
    return registry.backbone.adopt("", network, overrides)


def test_a_mistake_in_a_network_is_shown_as_it_is():
    with pytest.raises(KeyError, match="no such") as error:
        cost.measure(adopted(Odd, fail=True))
    assert error.traceback[-1].path.name == "test_cost.py" and error.value.__context__ is None


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda x: None, "Wrong: forward returns NoneType, not a tensor"),
        (lambda x: [x], "Wrong: forward returns list"),
        (lambda x: x[:, :2], r"Wrong: the output is \(1, 2, 8, 8\), not .*\(1, 4, 8, 8\)"),
    ],
)
@pytest.mark.parametrize("looks", [False, True])  # at values, which fake tensors do not have
def test_what_no_network_may_return_is_told_with_its_place(returned, words, looks):
    class Wrong(registry.Backbone):
        def forward(self, x, t, y):
            return returned(x) if not looks or x.sum().item() < 1e9 else x

    with pytest.raises(CodeError, match=words + r".*test_cost\.py, line \d+"):
        cost.measure(Wrong(input_size=8))


def test_values_that_zeros_for_weights_give_are_no_mistake():
    class Ratio(registry.Backbone):
        def __init__(self):
            super().__init__(input_size=8)
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x, t, y):
            return x / self.weight if t.max().item() < 2000 else x

    assert cost.measure(Ratio()).macs == 0


def test_a_cost_knows_its_request():
    assert cost.measure("DiT-S/8", depth=1).request == cost.measure("dit-s-8", depth=1.0).request
    by_name, built = cost.measure("test-formula").request, cost.measure(Formula()).request
    assert (by_name.model, built.model, built.config) == ("test-formula", "Formula", {})


@pytest.mark.parametrize(
    "record", sorted((ROOT / "results").glob("cost-udit-[st]-*.json")), ids=lambda p: p.name
)
def test_a_committed_record_is_measured_again_digit_for_digit(record, tmp_path):
    committed = json.loads(record.read_text())
    found = cost.measure(committed["request"]["model"], **committed["request"]["config"])
    path = records.write(found, tmp_path)
    written = json.loads(path.read_text())
    assert path.name == record.name
    assert (written["request"], written["result"]) == (committed["request"], committed["result"])


def test_live_tensors_are_counted_once_and_until_they_are_freed():
    weight, other = torch.ones(8), torch.ones(2)
    memory = LiveTensors(besides=[weight], live=100)
    for tensor in (weight, weight[:4], other, other.view(1, 2)):
        memory.add(tensor, "a")
    assert memory.live == memory.peaks["a"] == 100 + 2 * 4
    memory.add(torch.ones(3), "b")  # freed at once
    del tensor, other
    memory.mark("c")
    assert memory.peaks == {"a": 108, "b": 120, "c": 100}


def test_hooks_around_stages_see_items_of_containers_and_failures_and_go():
    inner = nn.ModuleDict({"x": nn.Identity(), "y": nn.ModuleList([nn.ReLU()])})
    last, seen = nn.Linear(1, 1), []
    with around({"inner": inner, "last": last}, seen.append, lambda name: seen.append(f"/{name}")):
        assert inner["x"](torch.ones(1)) == 1 and inner["y"][0](-torch.ones(1)) == 0  # the outputs stay
        with pytest.raises(RuntimeError):
            last(torch.ones(7))
    assert seen == ["inner", "/inner"] * 2 + ["last", "/last"]
    last(torch.ones(1))
    assert len(seen) == 6


@pytest.mark.slow
def test_a_first_measurement_equals_a_later_one():
    # Position tables are made once; the first network to need one must not pay for it.
    code = (
        "from bench import cost\n"
        "import registry\n"
        "first = cost.measure('udit-t').activation_bytes\n"
        "network = registry.create('udit-t')\n"
        "network(*network.example_inputs(1))\n"
        "assert cost.measure('udit-t').activation_bytes == first"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- time to the first number ----


@pytest.mark.slow
def test_a_count_imports_neither_dynamo_nor_its_compiler_and_leaves_it_whole():
    code = (
        "import sys, torch\n"
        "from bench import cost\n"
        "assert cost.measure('udit-t').macs\n"
        "assert not {'torch._dynamo', 'torch._inductor', 'diffusers'} & sys.modules.keys()\n"
        "import torch._dynamo\n"
        "assert not any('__dynamo_disable' in vars(part) for part in vars(torch._refs).values()"
        " if hasattr(part, '__dict__'))\n"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)) == 2\n"
        "assert cost.measure('udit-t').macs"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_methods_that_compile_themselves_run_as_written():
    class Plain(registry.Backbone):
        def __init__(self, name="plain"):
            super().__init__(input_size=8, in_channels=2, num_classes=0)
            self.parts = torch.nn.ModuleList(torch.nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))

        def body(self, x):
            for part in self.parts:
                x = part(x).relu() + x
            return x

        def forward(self, x, t, y):
            return self.body(x)

    class Compiled(Plain):
        body = torch.compile(Plain.body, backend="eager")

    expected = cost.measure(Plain())
    for _ in range(2):
        found = cost.measure(Compiled())
        assert (found.activation_bytes, found.macs) == (expected.activation_bytes, expected.macs)


def test_an_option_may_be_called_name(monkeypatch):
    monkeypatch.setitem(registry.backbones.__dict__, "_installed", {**registry.backbones._installed})
    monkeypatch.setattr(registry.backbones, "_entries", registry.backbones._installed)
    registry.register("named-option")(Named)
    assert cost.measure("named-option", name="b").parameters == 2 * cost.measure("named-option").parameters


class Named(registry.Backbone):
    def __init__(self, name="a"):
        super().__init__(input_size=8, in_channels=2, num_classes=0)
        self.parts = torch.nn.ModuleList(torch.nn.Conv2d(2, 2, 1) for _ in range(1 + (name == "b")))

    def forward(self, x, t, y):
        for part in self.parts:
            x = part(x)
        return x


def test_tables_are_marked_for_dynamo_as_by_pytorch():
    import torch._dynamo

    def table():
        pass

    marked = dict(vars(torch._dynamo.assume_constant_result(table)))
    vars(table).clear()
    assert vars(torch.compiler.assume_constant_result(table)) == marked != {}


def test_operators_that_ran_before_give_the_same_shapes():
    def run(net, x, t):
        y = x.half() * 2 + (x.half() * 2.0)
        z = torch.cat([x, x.mT.contiguous().mT], 1).transpose(1, 2).add_(1)
        return F.layer_norm(z.mT, (4,)), y.sum(dim=1, keepdim=True).expand(1, 7, 4).reshape(7, 4)

    assert cost.measure(Tokens(run)) == cost.measure(Tokens(run))
