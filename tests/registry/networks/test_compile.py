"""torch.compile sees every family whole, forward and backward, and compiles no batch size anew."""

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

import registry
from registry.training_output import parts_of
from tests.conftest import SMALLEST


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@torch.no_grad()
def opened(name):
    """The smallest network of a family, none of whose branches is closed."""
    torch.manual_seed(0)
    network = registry.create(name, **SMALLEST[name])
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)
    return network


def test_the_smallest_networks_are_of_every_family():
    def families(names):
        factories = map(registry.backbones.factory, names)
        return {getattr(factory, "func", factory).__name__ for factory in factories}

    ours = [name for name in registry.names() if registry.backbones.find(name).origin.startswith("registry.")]
    # UVit2D's inputs are token ids, and its size is diffusers' own; ADMUpsampler takes a small image too. Two
    # differ from another in the schedule that they declare alone.
    others = {"UVit2D", "ADMUpsampler", "ADMCosine", "UViTLinear"}
    assert families(SMALLEST) == families(ours) - others


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "deployed"),
    # Merged for inference, U-DiT's modules are others; those of all other families stay as they are.
    [*((name, False) for name in SMALLEST), ("udit-t", True)],
)
def test_a_family_is_one_graph_for_all_batch_sizes_with_its_gradients(name, deployed):
    network = opened(name)
    network = network.deploy().requires_grad_() if deployed else network.train()
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=count, bw_compiler=count)
    compiled = torch.compile(network, backend=backend, fullgraph=True)  # raises at a graph break
    # From 4 up: below, PyTorch's choice among convolutions depends on the batch on a CPU.
    for batch in (4, 9):
        inputs = network.example_inputs(batch)
        for tensor in inputs:  # as PyTorch itself does from the second size on
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        gradients = []
        for call in (network, compiled):
            network.zero_grad()
            torch.manual_seed(0)  # of the dropped labels
            torch.cat([part.flatten() for part in parts_of(call(*inputs))]).square().mean().backward()
            gradients.append({k: p.grad for k, p in network.named_parameters() if p.grad is not None})
        eager, ours = gradients
        assert eager and eager.keys() == ours.keys()
        for key, gradient in eager.items():
            torch.testing.assert_close(ours[key], gradient, msg=key)
    assert len(graphs) == 2  # forward and backward
