"""FlowDCN against its authors' program, a direct formula of its sampling, and the published sizes."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

import registry
from bench import cost
from registry.networks.flowdcn import DeformableConvolution, sample_sum
from tests.registry.networks import families

SMALL = {"hidden_size": 32, "depth": 2, "num_groups": 4, "num_classes": 10}
CASES = {
    "flowdcn-small": {"hidden_size": 128, "num_groups": 2, "depth": 2, "input_size": 16},
    "flowdcn-rgb": {
        "hidden_size": 96, "num_groups": 4, "depth": 2, "patch_size": 4, "in_channels": 3, "num_classes": 10,
        "learn_sigma": False,
    },
}  # fmt: skip


def reference(case):
    """Our network with the weights of a case."""
    network = registry.create("flowdcn-s-2", **CASES[case])
    state = families.state(case)
    for i, block in enumerate(network.blocks):  # the grid, which it computes
        state[f"blocks.{i}.attn.deformables_prior"] = block.deformable.prior.detach()
    table = "y_embedder.embedding_table.weight"
    if case == "flowdcn-rgb":  # the authors' table has one row more where labels are dropped; none reads it
        assert len(state[table]) == len(network.condition.label.table.weight) + 1
        state[table] = state[table][:-1]
    return registry.load_checkpoint(network, state).eval()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_output_equals_the_authors(case):
    network = reference(case)
    x, t, y = families.inputs(case)
    expected = families.arrays(case)["output"]
    for form in (network, network.deploy()):
        assert (form(x, t, y)[:, : x.shape[1]] - expected).abs().max() < 5e-6


# Blocks, width, groups, parameters, and multiply-accumulates without the sampling.
SIZES = {
    "flowdcn-s-2": (12, 384, 6, 30_300_632, 4_800_528_384),
    "flowdcn-b-2": (12, 768, 12, 120_099_512, 19_192_479_744),
    "flowdcn-l-2": (24, 1024, 16, 421_503_952, 68_202_790_912),
    "flowdcn-xl-2": (28, 1152, 16, 618_948_120, 100_124_540_928),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_counts_of_the_published_sizes(name):
    depth, width, groups, parameters, macs = SIZES[name]
    found = cost.measure(name)
    assert (found.parameters, found.macs, found.uncounted) == (parameters, macs, {})
    # The paper's convention counts products too: of each token with the values of 36 cells in each block.
    sampled = depth * 256 * 36 * width
    others = found.paper_gflops * 1e9 - macs - sampled
    points = depth * 256 * groups * 9
    assert 0 < others < 20 * points + 12 * depth * 256 * width


def directly(value, column, row, weight):
    """The sampling one number at a time, as the authors' kernels have it."""
    n, height, width, groups, _ = value.shape
    out = torch.zeros_like(value)
    for i, r, c, g in itertools.product(range(n), range(height), range(width), range(groups)):
        for k in range(column.shape[-1]):
            x, y = float(column[i, r, c, g, k]), float(row[i, r, c, g, k])
            x0, y0 = math.trunc(x), math.trunc(y)
            for xi, wx in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
                for yi, wy in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
                    if 0 <= xi < width and 0 <= yi < height:
                        out[i, r, c, g] += weight[i, r, c, g, k] * wx * wy * value[i, yi, xi, g]
    return out


def some_points(n=2, rows=3, columns=4, groups=2, width=5):
    torch.manual_seed(0)
    value = torch.randn(n, rows, columns, groups, width, dtype=torch.float64)
    column, row, weight = torch.randn(3, n, rows, columns, groups, 9, dtype=torch.float64)
    return value, 1.5 + 4 * column, 1.0 + 3 * row, weight


def test_sampling_is_the_direct_formula_also_outside_the_grid():
    value, column, row, weight = some_points()
    assert ((column > -2) & (column < -1)).any() and ((row > -1) & (row < 0)).any() and (column > 4).any()
    assert (sample_sum(value, column, row, weight) - directly(value, column, row, weight)).abs().max() < 1e-12


def test_left_of_the_grid_it_extrapolates():
    value = torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 1, 1)
    at = lambda column: sample_sum(  # noqa: E731
        value,
        torch.full((1, 1, 3, 1, 9), column),
        torch.zeros(1, 1, 3, 1, 9),
        torch.full((1, 1, 3, 1, 9), 1 / 9),
    )[0, 0, 0].item()
    assert at(-0.25) == pytest.approx(1.25 * 1 - 0.25 * 10)
    assert at(-1.25) == pytest.approx(-0.25 * 1)
    assert at(2.25) == pytest.approx(0.75 * 100)
    assert at(-2.5) == at(3.0) == 0


def test_gradients_are_those_of_finite_differences():
    inputs = [tensor.requires_grad_() for tensor in some_points(n=1, rows=2, columns=2, width=2)]
    assert torch.autograd.gradcheck(sample_sum, inputs)


@torch.no_grad()
def test_at_whole_offsets_it_is_a_convolution():
    torch.manual_seed(0)
    operator = DeformableConvolution(6, 2)
    operator.scale.fill_(torch.logit(torch.tensor(1 / 6)))  # the prior's own 3×3 grid
    kernel = torch.randn(2, 9)
    operator.weights.bias.copy_(kernel.flatten())
    x = torch.randn(2, 5 * 4, 6)
    values = operator.value(x).transpose(1, 2).view(2, 6, 5, 4)
    convolved = F.conv2d(values, kernel.view(2, 1, 3, 3).repeat_interleave(3, 0), padding=1, groups=6)
    expected = operator.out(convolved.flatten(2).transpose(1, 2))
    assert (operator(x, 5, 4) - expected).abs().max() < 1e-5


def test_training_holds_no_copy_of_the_values_for_each_cell():
    operator = DeformableConvolution(384, 6)
    x = torch.randn(1, 256, 384, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        operator(x, 16, 16)
    weights = {p.untyped_storage().data_ptr() for p in operator.parameters()}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    size = sum(nbytes for pointer, nbytes in storages.items() if pointer not in weights)
    assert size < 12 * 256 * 384 * 4


def test_initial_weights():
    torch.manual_seed(0)
    network = registry.create("flowdcn-s-2", **SMALL)
    x, t, y = network.example_inputs(2)
    assert not network(x, t, y).any()
    assert network.embed.weight.any() and not network.embed.bias.any()
    assert network.condition.label.table.weight.shape == (11, 32)
    assert not any(parameter.any() for parameter in network.head.parameters())
    for block in network.blocks:
        assert float(block.modulation.weight.detach().std()) == pytest.approx(
            1 / math.sqrt(3 * 32), rel=0.1
        )  # not closed
        operator = block.deformable
        for layer in (operator.offsets, operator.scales, operator.weights):
            assert not layer.weight.any()
        assert not operator.offsets.bias.any() and operator.weights.bias.any()
        reach = torch.sigmoid(operator.scale).flatten()
        assert torch.allclose(reach, torch.tensor([0.2499, 0.4999, 0.7499, 0.9999]), atol=1e-6)
        assert operator.prior[0, 0, 0, 0, :4].tolist() == [[-1, -1], [0, -1], [1, -1], [-1, 0]]
        assert not operator.prior.requires_grad
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert not any(name.endswith("prior") for name in trained)


def test_it_takes_any_grid_and_says_what_it_cannot_take():
    network = registry.create("flowdcn-s-2", **SMALL, input_size=(8, 12)).eval()
    x, t, y = network.example_inputs(2)
    assert network(x, t, y).shape == (2, 8, 8, 12)
    assert network(torch.randn(2, 4, 16, 6), t, y).shape == (2, 8, 16, 6)
    assert (network.objective, network.guided_channels, network.null_class) == ("flow", None, 10)
    with pytest.raises(registry.UsageError, match="hidden_size 32 is not a multiple of num_groups 5"):
        registry.create("flowdcn-s-2", hidden_size=32, num_groups=5)
