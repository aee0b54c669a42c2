"""Ablations of DiCo: the printed cost of every row, and each part against a formula or another library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import registry
from bench import cost
from bench.studies import published
from registry import contract
from registry.networks import dico_ablation as parts

ROWS = {row.label: row for row in published.rows("dico") if row.model}
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "depth": (1, 1, 1, 1, 2),
    "num_heads": (2, 2, 4),
    "num_classes": 10,
}


def small(label: str) -> Any:
    """The network of a row, made narrow and shallow."""
    row = ROWS[label]
    assert row.model is not None
    if row.model == "dico-ablation":
        return registry.create(row.model, **{**row.overrides, **SMALL})
    narrow = {"dico-s": {"hidden_size": 8, "depth": (1, 1, 1, 1, 1)}}
    transformer = {"hidden_size": 48, "depth": 6, "num_heads": 2, "input_size": 8}
    return registry.create(row.model, num_classes=10, **narrow.get(row.model, transformer))


def disturbed(module: nn.Module) -> Any:
    """A module in float64, none of whose parameters is zero."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module.double().eval()


def maps(channels: int, height: int, width: int, samples: int = 2) -> Tensor:
    """Feature maps (N, C, H, W)."""
    return torch.randn(samples, channels, height, width, dtype=torch.float64).contiguous(
        memory_format=torch.channels_last
    )


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(N, C, H, W) -> (N, heads, H·W, C/heads)."""
    n, c, h, w = x.shape
    return x.reshape(n, heads, c // heads, h * w).transpose(2, 3)


def qkv(module: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values (N, C, H, W), as 1×1 convolutions."""
    return F.conv2d(x, module.qkv.weight[..., None, None], module.qkv.bias).chunk(3, dim=1)


def out(module: Any, mixed: Tensor, like: Tensor) -> Tensor:
    """(N, heads, H·W, C/heads) -> (N, C, H, W), through the last linear map."""
    joined = mixed.transpose(2, 3).reshape(like.shape)
    return F.conv2d(joined, module.out.weight[..., None, None], module.out.bias)


# ---- the rows ----


@pytest.mark.parametrize("label", ROWS)
def test_a_row_has_the_parameters_and_gflops_that_the_paper_prints(label: str) -> None:
    row = ROWS[label]
    assert row.model is not None
    with torch.device("meta"):
        network = registry.create(row.model, **row.overrides)
    learned = sum(p.numel() for p in network.parameters() if p.requires_grad)
    found = cost.measure(row.model, **row.overrides)
    assert not found.uncounted
    # The authors' programs multiply queries by the scale of attention, where the count here is of the logits.
    of_logits = sum(part.paper for part in found.operators if part.name == "attention scale")
    of_queries = {
        "DiT (iso.)": 12 * 256 * 384,
        "DiT (iso.&skip)": 12 * 256 * 384,
        "CM→Self-Attn": 2 * 1024 * 112 + 4 * 256 * 224 + 6 * 64 * 448 + 1024 * 224,
    }
    assert bool(of_logits) == (label in of_queries)
    count = found.paper_gflops * 1e9 - of_logits + of_queries.get(label, 0)
    assert (f"{learned / 1e6:.1f}", f"{count / 1e9:.2f}") == (row.printed["params"], row.printed["gflops"])


def test_rows_differ_from_dico_s_in_the_part_that_they_name_and_in_size() -> None:
    size = {"hidden_size", "depth", "mlp_ratio", "num_heads"}
    changed = {label: set(row.overrides) - size for label, row in ROWS.items()}
    assert all(len(changed[label]) == 1 for label, row in ROWS.items() if row.model == "dico-ablation")
    # The rows without ‡ in the paper keep the size.
    assert not any(set(ROWS[label].overrides) & size for label in ("GELU→ReLU", "3×3→5×5 DWC", "3×3→7×7 DWC"))


@pytest.mark.slow
@pytest.mark.parametrize("label", ROWS)
def test_the_networks_of_rows_honour_the_contract(label: str) -> None:
    found = contract.check(small(label))
    assert not [result for result in found if result.status == "fail"]


def test_by_default_it_is_dico_s() -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "depth": (2, 1, 1, 1, 2), "num_classes": 10}
    theirs = contract._opened(registry.create("dico-s", **sizes))
    ours = registry.create("dico-ablation", **sizes).eval()
    renamed = {part: f"mixer.{part}" for part in ("expand", "depthwise", "contract")}
    renamed["channel_attention"] = "mixer.channels.0"
    state = {}
    for name, value in theirs.state_dict().items():
        stage, *rest = name.split(".")
        if stage in ("encoder1", "encoder2", "middle", "decoder2", "decoder1"):
            rest[1:2] = [renamed.get(rest[1], rest[1])]
        state[".".join([stage, *rest])] = value
    ours.load_state_dict(state)
    inputs = theirs.example_inputs(2)
    with torch.no_grad():
        assert torch.equal(ours(*inputs), theirs(*inputs))
    options = registry.backbones.options("dico-ablation")
    for name, parameter in registry.backbones.options("dico-s").items():
        assert options[name].default == parameter.default, name


# ---- the convolution module ----


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_the_convolution_module(kernel_size: int, activation: parts.ActivationKind) -> None:
    module = disturbed(parts.ConvolutionModule(8, kernel_size, activation, nn.Identity()))
    x = maps(8, 6, 8)
    wide = torch.einsum("oi,nihw->nohw", module.expand.weight[..., 0, 0], x)
    wide = wide + module.expand.bias[:, None, None]
    around = F.pad(wide, [kernel_size // 2] * 4).unfold(2, kernel_size, 1).unfold(3, kernel_size, 1)
    mixed = torch.einsum("nchwij,cij->nchw", around, module.depthwise.weight[:, 0])
    mixed = mixed + module.depthwise.bias[:, None, None]
    active = {"relu": mixed.clamp_min(0), "gelu": mixed * (1 + torch.erf(mixed / 2**0.5)) / 2}[activation]
    expected = torch.einsum("oi,nihw->nohw", module.contract.weight[..., 0, 0], active)
    torch.testing.assert_close(module(x), expected + module.contract.bias[:, None, None])


def test_relu_takes_the_place_of_every_gelu_in_blocks() -> None:
    network = small("GELU→ReLU")
    kinds = [type(part) for part in network.modules() if isinstance(part, nn.GELU | nn.ReLU)]
    assert kinds == [nn.ReLU] * 2 * sum(SMALL["depth"])


def test_gates_of_channels() -> None:
    x = maps(16, 4, 6)
    means = x.mean((2, 3))
    compact = disturbed(parts.channel_weights("compact", 16, 2))
    gate = torch.sigmoid(means @ compact[0].weight[..., 0, 0].T + compact[0].bias)
    torch.testing.assert_close(compact(x), x * gate[..., None, None])
    squeeze = disturbed(parts.channel_weights("squeeze-excitation", 16, 2))
    assert squeeze[0].out_channels == 16 // 8
    inner = (means @ squeeze[0].weight[..., 0, 0].T + squeeze[0].bias).clamp_min(0)
    gate = torch.sigmoid(inner @ squeeze[2].weight[..., 0, 0].T + squeeze[2].bias)
    torch.testing.assert_close(squeeze(x), x * gate[..., None, None])
    assert parts.channel_weights("none", 16, 2)(x) is x


def test_attention_between_channels() -> None:
    module = disturbed(parts.ChannelSelfAttention(16, 4))
    x = maps(16, 4, 6)
    wide = F.conv2d(F.conv2d(x, module.qkv.weight), module.depthwise.weight, padding=1, groups=48)
    q, k, v = (part.reshape(2, 4, 4, 24) for part in wide.chunk(3, dim=1))
    cosine = torch.einsum("nhct,nhdt->nhcd", q, k)
    cosine = cosine / torch.einsum("nhc,nhd->nhcd", q.norm(dim=-1), k.norm(dim=-1))
    weights = torch.softmax(cosine * module.temperature, dim=-1)
    mixed = torch.einsum("nhcd,nhdt->nhct", weights, v).reshape(x.shape)
    torch.testing.assert_close(module(x), F.conv2d(mixed, module.out.weight))


# ---- attentions ----


def test_self_attention_is_that_of_pytorch() -> None:
    module = disturbed(parts.SelfAttention(16, 4))
    other = nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    other.load_state_dict(
        {
            "in_proj_weight": module.qkv.weight,
            "in_proj_bias": module.qkv.bias,
            "out_proj.weight": module.out.weight,
            "out_proj.bias": module.out.bias,
        }
    )
    x = maps(16, 4, 6)
    tokens = x.flatten(2).transpose(1, 2)
    expected = other(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_are_a_mask_on_attention_over_all_cells(shifted: bool) -> None:
    module = disturbed(parts.WindowAttention(8, 2, shifted))
    height, width = 16, 24
    x = maps(8, height, width)
    row, column = np.mgrid[:height, :width].reshape(2, -1)
    # Windows begin at 0, 8, …; shifted ones at 4, 12, … and those at the border are cut off there.
    begin = 4 if shifted else 0
    window = np.stack([(row - begin) // 8, (column - begin) // 8])
    together = (window[:, :, None] == window[:, None, :]).all(0)
    apart = np.clip(np.stack([row[:, None] - row, column[:, None] - column]), -7, 7) + 7
    bias = module.bias.view(2, 15, 15)[:, torch.from_numpy(apart[0]), torch.from_numpy(apart[1])]
    mask = bias.masked_fill(~torch.from_numpy(together), -torch.inf)
    q, k, v = (heads_of(part, 2) for part in qkv(module, x))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])
    torch.testing.assert_close(module(x), out(module, mixed, x))


def test_every_second_block_shifts_its_windows_where_there_are_several() -> None:
    network = small("CM→Window Attn")
    assert [block.mixer.shift for block in network.decoder1] == [0, 4]
    deep = registry.create("dico-ablation", mixer="window", **{**SMALL, "depth": (3, 0, 2, 0, 0)})
    assert [block.mixer.shift for block in deep.encoder1] == [0, 4, 0]
    assert [block.mixer.shift for block in deep.middle] == [0, 0]  # 8×8: one window


def test_focused_linear_attention_weighs_cells_by_products_of_features() -> None:
    module = disturbed(parts.FocusedLinearAttention(8, 2, (4, 6)))
    x = maps(8, 4, 6)
    q, k, v = qkv(module, x)

    def features(x: Tensor) -> Tensor:
        """|x|·x³/|x³| of what ReLU leaves, over all channels of a cell."""
        x = (x.clamp_min(0) + 1e-6) / torch.log1p(module.sharpness.exp())[:, None, None]
        return x**3 * (x.norm(dim=1) / (x**3).norm(dim=1))[:, None]

    q, k = features(q), features(k + module.positions.permute(2, 0, 1))
    similar = heads_of(q, 2) @ heads_of(k, 2).transpose(2, 3)  # (N, heads, T, T): quadratic, on purpose
    mixed = similar @ heads_of(v, 2) / (similar.sum(-1, keepdim=True) + 1e-6 * 24)
    by_head = v.reshape(4, 4, 4, 6)  # the heads share their kernels
    local = F.conv2d(by_head, module.depthwise.weight, module.depthwise.bias, padding=2, groups=4)
    torch.testing.assert_close(module(x), out(module, mixed + heads_of(local.reshape(v.shape), 2), x))


def interpolated(coarse: Tensor, height: int, width: int) -> Tensor:
    """(…, 7, 7) -> (…, H, W), bilinear between the middles of cells."""

    def weights(size: int) -> Tensor:
        at = ((torch.arange(size, dtype=torch.float64) + 0.5) * 7 / size - 0.5).clamp(0, 6)
        return (1 - (at[:, None] - torch.arange(7)).abs()).clamp_min(0)

    return torch.einsum("...ij,hi,wj->...hw", coarse, weights(height), weights(width))


def test_agents_read_from_all_cells_and_cells_from_agents() -> None:
    module = disturbed(parts.AgentAttention(8, 2, (8, 16)))
    x = maps(8, 8, 16)
    q, k, v = qkv(module, x)
    agents = heads_of(q.unflatten(3, (8, 2)).mean(4), 2)  # 8×8: means of 1×2 cells

    def bias(table: Any) -> Tensor:
        return (interpolated(table.coarse, 8, 16) + table.rows + table.columns).flatten(2)

    local = F.conv2d(v, module.depthwise.weight, module.depthwise.bias, padding=1, groups=8)
    q, k, v = (heads_of(part, 2) for part in (q, k, v))
    read = F.scaled_dot_product_attention(agents, k, v, attn_mask=bias(module.gather)[None])
    mixed = F.scaled_dot_product_attention(
        q, agents, read, attn_mask=bias(module.spread).transpose(1, 2)[None]
    )
    torch.testing.assert_close(module(x), out(module, mixed + heads_of(local, 2), x))


# ---- DiT with long skips ----


def test_skips_join_the_first_blocks_to_the_last() -> None:
    sizes: dict[str, Any] = {"hidden_size": 48, "num_heads": 2, "input_size": 8, "num_classes": 10}
    network = contract._opened(registry.create("dit-skip", depth=12, **sizes))
    (trunk,) = network.blocks
    assert len(network.long_skips()) == 5
    went: dict[int, tuple[Tensor, Tensor]] = {}
    for number, block in enumerate(trunk.blocks):
        block.register_forward_hook(lambda _, args, y, number=number: went.update({number: (args[0], y)}))
    with torch.no_grad():
        network(*network.example_inputs(2))
        for number in range(5):
            last = 11 - number
            joined = torch.cat([went[last - 1][1], went[number][1]], dim=-1)
            torch.testing.assert_close(went[last][0], trunk.fuse[4 - number](joined))
        assert all(went[number][0] is went[number - 1][1] for number in range(1, 7))


def test_without_what_skips_carry_it_is_dit() -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 48,
        "depth": 6,
        "num_heads": 2,
        "input_size": 8,
        "num_classes": 10,
    }
    dit = contract._opened(registry.create("dit-s-2", **sizes))
    skipped = registry.create("dit-skip", **sizes).eval()
    state = {
        name.replace("blocks.", "blocks.0.blocks.", 1): value for name, value in dit.state_dict().items()
    }
    for number in range(2):
        state[f"blocks.0.fuse.{number}.weight"] = torch.eye(48, 96)
        state[f"blocks.0.fuse.{number}.bias"] = torch.zeros(48)
    skipped.load_state_dict(state)
    inputs = dit.example_inputs(2)
    with torch.no_grad():
        torch.testing.assert_close(skipped(*inputs), dit(*inputs))


# ---- mistakes ----


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"kernel_size": 4}, "kernel_size 4 is even"),
        ({"kernel_size": -1}, "kernel_size must be positive"),
        ({"depth": (1, 1, 1, 1, -1)}, "negative number of blocks"),
        ({"mixer": "window", "input_size": 16}, "multiples of 32"),
        ({"mixer": "agent", "num_heads": (3, 3, 3)}, "not a multiple of num_heads 3"),
        ({"channel_attention": "self-attention", "num_heads": (3, 3, 3)}, "not a multiple of num_heads 3"),
    ],
)
def test_what_cannot_be_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(registry.UsageError, match=message):
        registry.create("dico-ablation", **{**SMALL, **overrides})


@pytest.mark.parametrize("mixer", ["agent", "focused-linear"])
def test_networks_with_a_bias_for_each_cell_take_the_size_they_were_built_for(mixer: str) -> None:
    network = registry.create("dico-ablation", mixer=mixer, **{**SMALL, "input_size": (32, 64)})
    x, t, y = network.example_inputs(1)
    assert network(x, t, y).shape == (1, 8, 32, 64)
    with pytest.raises(registry.UsageError, match="input_size=32"):
        network(x[..., :32], t, y)
