"""A compiled network turns channel pairs without complex products."""

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from bench.utils.compilation import compile_network
from registry.layers import attention
from tests.conftest import SMALLEST
from tests.device.checks import opened


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-15)])
def test_real_arithmetic_equals_the_complex_product_with_its_gradient(dtype, tolerance):
    torch._dynamo.reset()
    rotations = attention.rope_2d(3, 5, 12, dtype == torch.float64, device=torch.device("cpu"))
    x = torch.randn(2, 15, 3, 12, dtype=dtype, generator=torch.Generator().manual_seed(0))
    upstream, found = torch.randn_like(x), []

    @torch.compile(backend="eager", fullgraph=True)
    def compiled(x, rotations):  # what is compiled itself is not replaced, what it calls is
        return attention.rotate(x, rotations)

    def reference(x, rotations):
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rotations).flatten(-2)

    for call in (compiled, reference):
        leaf = x.clone().requires_grad_()
        out = call(leaf, rotations)
        found.append((out.detach(), *torch.autograd.grad(out, leaf, upstream)))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


def test_no_complex_arithmetic_is_compiled_forward_or_backward():
    torch._dynamo.reset()
    network = opened("udit-t", SMALLEST["udit-t"])
    graphs = []

    def keep(graph, _inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    inputs = network.example_inputs(2)
    expected = network.eval()(*inputs)
    compile_network(network, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)
    out = network(*inputs)
    out.square().mean().backward()
    torch.testing.assert_close(out, expected)
    assert len(graphs) == 2
    complex_ones = {
        str(node.target)
        for graph in graphs
        for node in graph.graph.nodes
        if node.op == "call_function"
        and isinstance(value := node.meta.get("val"), torch.Tensor)
        and value.is_complex()
    }
    assert not complex_ones
