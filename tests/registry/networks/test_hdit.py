"""HDiT against its authors' program, attention written out query by query, and the published sizes."""

import itertools

import numpy as np
import pytest
import torch

import registry
from bench import cost
from registry.networks.hdit import AxialRope, NeighbourhoodAttention, WindowAttention
from tests.registry.networks import families

CASES = {
    "hdit-cifar10": {},
    "hdit-eps": {
        "widths": (128, 128), "depths": (1, 2), "head_width": (64, 32), "mlp_ratio": (2.0, 3.0),
        "mapping_width": 128, "mapping_depth": 1, "mapping_ratio": 2.0, "in_channels": 4, "patch_size": 1,
        "num_classes": 6, "input_size": 8,
    },
    "hdit-windows": {
        "widths": (128, 128, 192, 256), "depths": (2, 1, 1, 1), "head_width": (64, 32, 64, 64),
        "attention": ("shifted-window", "neighbourhood", "none", "global"), "mlp_ratio": (3.0, 2.0, 2.0, 2.0),
        "kernel_size": 5, "mapping_width": 128, "mapping_depth": 1, "mapping_ratio": 2.0, "num_classes": 0,
        "input_size": (32, 64),
    },
}  # fmt: skip
SMALL = {
    "widths": (16, 32, 32), "depths": (2, 1, 1), "attention": ("shifted-window", "neighbourhood", "global"),
    "head_width": 16, "kernel_size": 3, "window_size": 4, "mapping_width": 32, "input_size": 16,
    "patch_size": 1, "num_classes": 10,
}  # fmt: skip


def reference(case):
    """Our network with the weights of a case."""
    network = registry.create("hdit-cifar10", **CASES[case])
    state = families.state(case)
    own = {name.removesuffix(".rope.freqs"): tensor for name, tensor in network.state_dict().items()}
    for name in families.MANIFEST[case]["fixed"]:  # frequencies, which it computes
        state[name] = own[name.partition(".self_attn.")[0].rpartition(".")[0]]
    scale = families.MANIFEST[case].get("qk_rows_scaled", 1)
    for name, weight in state.items():
        if name.endswith("qkv_proj.weight"):
            weight[: 2 * weight.shape[1]] *= scale
    return registry.load_checkpoint(network, state).eval()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_outputs_equal_the_authors(case):
    network, arrays = reference(case), families.arrays(case)
    assert sum(p.numel() for p in network.parameters()) == families.MANIFEST[case]["parameters"]
    x, sigma, y = families.inputs(case, "sigma")
    x = x[:, :, : families.MANIFEST[case]["input"][2]]
    augmentation = np.random.default_rng(8).standard_normal((2, 9), dtype=np.float32)
    others = [torch.from_numpy(augmentation)] if case == "hdit-windows" else []
    noised = x * (sigma**2 + 0.25).sqrt().view(-1, 1, 1, 1)
    for form in (network, network.deploy()):
        assert (form.raw(x, sigma, y, *others) - arrays["output"]).abs().max() < 2e-5
        assert (form(noised, sigma, y, *others) - arrays["denoised"]).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("hdit-mnist", 9_187_360, 346_566_656),
        ("hdit-cifar10", 20_981_809, 1_967_390_720),
        ("hdit-flowers", 22_361_274, 11_636_047_872),
        ("hdit-flowers-windows", 22_361_274, 11_730_419_712),
        ("hdit-imagenet-256", 557_416_522, 197_586_845_696),
        ("hdit-ffhq-1024", 85_079_300, 206_075_854_848),
    ],
)
def test_parameters_and_counts_of_the_published_sizes(name, parameters, macs):
    found = cost.measure(name)
    assert (found.parameters, found.macs, found.uncounted) == (parameters, macs, {})


def random_heads(height, width):
    torch.manual_seed(0)
    return torch.randn(3, 2, height, width, 2, 8, dtype=torch.float64)


def query_by_query(q, k, v, seen):
    """Softmax(q·k) v with the keys, (row, column) each, that `seen` gives for a query's row and column."""
    out = torch.empty_like(v)
    for row, column in itertools.product(range(q.shape[1]), range(q.shape[2])):
        rows, columns = zip(*seen(row, column), strict=True)
        keys, values = k[:, rows, columns], v[:, rows, columns]  # (N, keys, h, d)
        weights = torch.einsum("nhd,nkhd->nkh", q[:, row, column], keys).softmax(1)
        out[:, row, column] = torch.einsum("nkh,nkhd->nhd", weights, values)
    return out


@pytest.mark.parametrize(
    ("height", "width", "size"), [(16, 16, 7), (8, 12, 5), (7, 24, 7), (5, 5, 5), (11, 9, 3), (16, 8, 1)]
)
def test_neighbourhoods_are_squares_moved_inside(height, width, size):
    def seen(row, column):
        first = [min(max(i - size // 2, 0), n - size) for i, n in ((row, height), (column, width))]
        return itertools.product(*(range(start, start + size) for start in first))

    q, k, v = random_heads(height, width)
    found = NeighbourhoodAttention(16, 8, 4, size).attend(q, k, v)
    assert (found - query_by_query(q, k, v, seen)).abs().max() < 1e-12


@pytest.mark.parametrize(("height", "width", "shift"), [(8, 12, 0), (8, 12, 2), (4, 4, 2)])
def test_windows_are_rolled_and_do_not_see_across_borders(height, width, shift):
    def window(row, column):
        """The window of a token, and on which side of the border it is."""
        rolled = [(i + shift) % n for i, n in ((row, height), (column, width))]
        return [(i // 4, i < shift) for i in rolled]

    def seen(row, column):
        every = itertools.product(range(height), range(width))
        return [other for other in every if window(*other) == window(row, column)]

    q, k, v = random_heads(height, width)
    found = WindowAttention(16, 8, 4, 4, shift).attend(q, k, v)
    assert (found - query_by_query(q, k, v, seen)).abs().max() < 1e-12


def test_rotations_depend_on_distance_and_heads_share_out_frequencies():
    rope = AxialRope(32, 16)
    expected = [np.pi * 10 ** (i / 4) for i in range(4)]
    assert torch.allclose(rope.freqs, torch.tensor([expected[0::2], expected[1::2]], dtype=torch.float32))
    straight, crossed = rope(2, 4)  # cell centres at ±0.25 and at −0.75 … 0.75
    angle = torch.atan2(crossed[1, 3, 1, 4:8], straight[1, 3, 1, 4:8])
    turned = torch.tensor([0.25 * f for f in expected[1::2]] + [0.75 * f for f in expected[1::2]])
    assert torch.allclose(angle.cos(), turned.cos(), atol=1e-5)
    assert torch.allclose(angle.sin(), turned.sin(), atol=1e-5)
    assert (straight[..., 8:] == 1).all() and not crossed[..., 8:].any()


def test_neighbourhoods_count_what_a_query_sees_and_the_note_says_what_is_computed():
    small = {"widths": (16,), "depths": (1,), "attention": ("neighbourhood",), "head_width": 8}
    made = registry.create("hdit-cifar10", **small, input_size=24, patch_size=2, kernel_size=5)
    found = cost.measure(made)
    attended = 12 * 12 * 25 * 2 * 16
    linear = 12 * 12 * (2 * 12 * 16 + 4 * 16 * 16 + 3 * 48 * 16) + 2 * 256 * 16
    mapping = 2 * 256 * 256 + 2 * 3 * 768 * 256
    assert found.macs == attended + linear + mapping
    assert found.notes == (
        "Local attention counts the keys that a query sees; 4.0 times as many are computed, and masked.",
    )
    assert cost.measure("hdit-cifar10").notes == ()


def test_local_attention_holds_no_scores_of_all_pairs():
    tokens, heads = 64 * 64, 6
    assert cost.measure("hdit-imagenet-256").activation_bytes < 0.4 * tokens**2 * heads * 4


def test_initial_weights():
    torch.manual_seed(0)
    network = registry.create("hdit-cifar10", **SMALL)
    x, y, sigma = torch.randn(2, 3, 16, 16), torch.tensor([3, 10]), torch.tensor([0.5, 2.0])
    assert not network.raw(x, sigma, y).any()
    expected = torch.tensor([0.5, 0.25 / 4.25]).view(2, 1, 1, 1) * x
    assert torch.allclose(network(x, sigma, y), expected)
    zero = {name for name, p in network.named_parameters() if not p.any()}
    closed = ("norm.gain.weight", "attention.out.weight", "down.weight", "patch_out.weight")
    assert zero == {name for name, _ in network.named_parameters() if name.endswith(closed)}
    level = network.down_levels[0]
    assert (level.layers[0].attention.scale == 10).all() and (network.splits[0].fac == 0.5).all()
    assert [layer.attention.shift for layer in level.layers] == [0, 2]
    assert 0.8 < network.condition.label.table.weight.std() < 1.2
    assert network.condition.label.table.weight.shape == (11, 32)


def test_layers_of_odd_number_are_shifted_on_the_way_up_too():
    network = registry.create("hdit-cifar10", **{**SMALL, "depths": (3, 1, 1)})
    shifts = [
        [layer.attention.shift for layer in levels[0].layers]
        for levels in (network.down_levels, network.up_levels)
    ]
    assert shifts == [[0, 2, 0], [2, 0, 2]]


@torch.no_grad()
def test_it_takes_any_grid_that_its_levels_divide():
    network = registry.create("hdit-cifar10", **SMALL).eval()
    assert (network.objective, network.null_class, network.size_multiple) == ("edm", 10, 4)
    sigma, y = torch.tensor([1.0]), torch.tensor([0])
    assert network(torch.randn(1, 3, 12, 20), sigma, y).shape == (1, 3, 12, 20)
    with pytest.raises(registry.UsageError, match="does not fit into a 4×20 input, whose level 1 has 2"):
        network(torch.randn(1, 3, 4, 20), sigma, y)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"depths": (2, 1)}, "depths has 2 entries for 3 levels"),
        ({"attention": ("global",)}, "attention has 1 entries for 3 levels"),
        ({"head_width": (16, 16)}, "head_width has 2 entries for 3 levels"),
        ({"head_width": 12}, "head_width 12 must be a multiple of 8 that divides the width 16"),
        ({"kernel_size": 9}, "kernel_size 9 does not fit into a 16×16 input, whose level 1 has 8 tokens"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"mapping_width": 33}, "mapping_width must be even"),
        ({"widths": (), "depths": (), "attention": ()}, "widths has 0 entries"),
        ({"depths": (2, 0, 1)}, "depths must be positive"),
        ({"window_size": 5}, "multiples of 20"),
        ({"sigma_data": 0.0}, "sigma_data must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides, says):
    with torch.device("meta"), pytest.raises(registry.UsageError, match=says):
        registry.create("hdit-cifar10", **{**SMALL, **overrides})
