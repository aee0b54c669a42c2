"""What is particular to U-DiT: deployment, RoPE on any grid, the sizes it takes."""

import itertools
import math

import pytest
import torch

import registry
from registry.layers import attention, feed_forward, resampling
from tests.conftest import reference_network

SMALL = {"hidden_size": 16, "num_heads": 2, "input_size": 16, "class_dropout_prob": 0.0, "num_classes": 10}


def awake(network):
    """Non-zero everywhere: a fresh network's branches and output are closed."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter += 0.3 * noise / max(parameter[0].numel(), 1) ** 0.5
    return network


@pytest.mark.parametrize("ffn", ["mlp", "dwconv", "reparam"])
@pytest.mark.parametrize("downsampler", ["pixel-shuffle", "depthwise", "depthwise+shortcut", "conv"])
@torch.no_grad()
def test_deployed_equals_trained_in_float64(ffn, downsampler):
    network = awake(registry.create("udit-t", ffn=ffn, downsampler=downsampler, **SMALL).double())
    inputs = network.example_inputs(2)
    trained, deployed = network.train()(*inputs), network.deploy()(*inputs)
    assert trained.abs().max() > 0.1
    assert (trained - deployed).abs().max() < 1e-9


def test_eval_and_deploy_change_nothing_and_training_goes_on():
    network = awake(registry.create("udit-t", **SMALL))
    inputs = network.example_inputs(2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        first = network.eval()(*inputs)
        deployed = network.deploy()
        second = network.eval()(*inputs)
    assert torch.equal(first, second)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

    optimizer = torch.optim.SGD(network.train().parameters(), lr=0.1)
    network(*inputs).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    optimizer.step()
    with torch.no_grad():
        after = network.eval()(*inputs)
        assert not torch.equal(after, first)
        torch.testing.assert_close(deployed(*inputs), first, atol=1e-4, rtol=1e-4)  # keeps its weights
        torch.testing.assert_close(network.deploy()(*inputs), after, atol=1e-4, rtol=1e-4)


def test_deployed_form_has_the_merged_modules_and_is_frozen():
    deployed = registry.create("udit-t").deploy()
    kinds = {type(module) for module in deployed.modules()}
    assert not kinds & {feed_forward.ReparamFeedForward, resampling.DepthwiseShortcut}
    assert not deployed.training and not any(p.requires_grad for p in deployed.parameters())
    assert sum(p.numel() for p in deployed.parameters()) == 5_432_192  # that of the dwconv FFN


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (8, 2), (1, 7)])
def test_rope_turns_each_pair_by_its_own_coordinate(height, width):
    head_width = 12
    x = torch.randn(2, height * width, 3, head_width, dtype=torch.float64)
    turned = attention.rotate(x, attention.rope_2d(height, width, head_width, True, device=x.device))
    for row, column, pair in itertools.product(range(height), range(width), range(head_width // 2)):
        theta = 10000.0 ** (-4 * (pair // 2) / head_width)
        angle = (column if pair % 2 == 0 else row) * theta
        a, b = x[:, row * width + column, :, 2 * pair], x[:, row * width + column, :, 2 * pair + 1]
        got = turned[:, row * width + column, :, 2 * pair : 2 * pair + 2]
        expected = torch.stack(
            [a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)], dim=-1
        )
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_rope_logits_depend_on_the_offset_alone():
    height, width = 6, 4
    rotations = attention.rope_2d(height, width, 8, True, device=torch.device("cpu"))
    q, k = torch.randn(2, 8, dtype=torch.float64)
    tile = (1, height * width, 1, 1)
    q, k = (attention.rotate(z.view(1, 1, 1, 8).repeat(tile), rotations)[0, :, 0] for z in (q, k))
    logits = (q @ k.T).view(height, width, height, width)
    torch.testing.assert_close(logits[0, 0, 2, 1], logits[3, 2, 5, 3])
    assert not torch.isclose(logits[0, 0, 2, 1], logits[0, 0, 1, 2])


@torch.no_grad()
def test_grids_of_any_shape_that_divides_by_eight():
    network = reference_network("udit-t")
    t, y = torch.tensor([13]), torch.tensor([5])
    assert network(torch.randn(1, 4, 32, 48), t, y).shape == (1, 8, 32, 48)
    with pytest.raises(registry.UsageError, match=r"30×30 .* multiples of 8"):
        network(torch.randn(1, 4, 30, 30), t, y)
    with pytest.raises(registry.UsageError, match=r"30×30 .* multiples of 8"):
        registry.create("udit-t", input_size=30)


def test_tokens_split_into_every_second_row_and_column_and_merge_back():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    groups = resampling.split_tokens(x, 2)
    assert groups.shape == (8, 3, 2, 3)
    assert torch.equal(groups[0], x[0, :, ::2, ::2]) and torch.equal(groups[1], x[0, :, ::2, 1::2])
    assert torch.equal(groups[6], x[1, :, 1::2, ::2])
    assert torch.equal(resampling.merge_tokens(groups, 2), x)


def test_a_network_first_run_for_inference_can_be_trained():
    # Position tables are made once and shared; they must not remember inference mode.
    network = awake(registry.create("udit-t", **{**SMALL, "input_size": 40}))
    with torch.inference_mode():
        network(*network.example_inputs(1))
    network(*network.example_inputs(1)).sum().backward()


@pytest.mark.parametrize("name", ["udit-t", "dit-s-4", "uvit-s-2"])
def test_moved_from_the_meta_device_a_network_is_whole(name):
    small = {"input_size": 16} | ({} if name == "udit-t" else {"depth": 2})
    with torch.device("meta"):
        empty = registry.create(name, **small)
    built = awake(registry.create(name, **small))
    moved = registry.load_checkpoint(empty.to_empty(device="cpu"), built.state_dict())
    inputs = built.example_inputs(1)
    with torch.no_grad():
        assert torch.equal(moved.eval()(*inputs), built.eval()(*inputs))


def test_half_precision_keeps_exact_timesteps_and_positions():
    network = awake(registry.create("udit-t", **SMALL)).eval()
    inputs = network.example_inputs(2)
    with torch.no_grad():
        full, half = network(*inputs), network.bfloat16()(inputs[0].bfloat16(), *inputs[1:])
    assert half.dtype == torch.bfloat16
    assert (full - half.float()).norm() < 0.03 * full.norm()
