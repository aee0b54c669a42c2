"""torch.compile sees every family whole, forward and backward, and compiles no batch size anew."""

import pytest
import torch

import registry
from tests.conftest import SMALLEST

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, _inputs):
        self.graphs += 1
        return graph.forward


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
    def family(name):
        return registry.backbones.find(name).registration.target

    # UVit2D's inputs are token ids, and its size is diffusers' own.
    assert {family(name) for name in SMALLEST} == {family(name) for name in registry.names()} - {"UVit2D"}


@pytest.mark.parametrize("name", SMALLEST)
def test_deployed_networks_are_one_graph_for_all_batch_sizes(name):
    network, backend = opened(name).deploy(), Counting()
    compiled = torch.compile(network, backend=backend, fullgraph=True)  # raises at a graph break
    found = []
    # From 4 up: below, PyTorch's choice among convolutions depends on the batch on a CPU.
    for batch in (4, 5, 9):
        inputs = network.example_inputs(batch)
        with torch.inference_mode():
            torch.testing.assert_close(compiled(*inputs), network(*inputs))
        found.append(backend.graphs)
    assert found == [1, 2, 2]  # one for the first, one for all others


@pytest.mark.parametrize("name", SMALLEST)
def test_training_is_one_graph_with_its_gradients(name):
    network = opened(name).train()
    inputs = network.example_inputs(2)
    gradients = []
    for call in (network, torch.compile(network, backend="aot_eager", fullgraph=True)):
        network.zero_grad()
        torch.manual_seed(0)  # of the dropped labels
        call(*inputs).square().mean().backward()
        gradients.append({k: p.grad for k, p in network.named_parameters() if p.grad is not None})
    eager, compiled = gradients
    assert eager and eager.keys() == compiled.keys()
    for key, gradient in eager.items():
        torch.testing.assert_close(compiled[key], gradient, msg=key)
