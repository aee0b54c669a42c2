"""A compiled network turns channel pairs without complex products."""

import pytest
import torch
from torch import nn
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


@pytest.mark.slow
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


def test_what_a_graph_returned_is_not_overwritten(monkeypatch):
    """A replayed graph writes to the same memory at each call."""
    memory, modes = torch.zeros(2), []

    def compile_in_place(network, mode):
        modes.append(mode)
        network._compiled_call_impl = lambda x: memory.copy_(x)

    monkeypatch.setattr(nn.Module, "compile", compile_in_place)
    network = nn.Identity()
    compile_network(network, graphs=True)
    first, second = network(torch.ones(2)), network(torch.full((2,), 2.0))
    assert modes == ["reduce-overhead"]
    assert first.tolist() == [1, 1] and second.tolist() == [2, 2]


@pytest.mark.slow
def test_several_processes_share_gradients_while_the_rest_is_computed(tmp_path):
    """Wrapped for several processes, what is compiled has parts that end where a bucket of gradients does."""
    torch._dynamo.reset()
    parts = []

    def keep(graph, _inputs):
        parts.append(graph)
        return graph.forward

    network = opened("tiny-unet", SMALLEST["tiny-unet"] | {"widths": (48, 96, 128)})
    compile_network(network, backend=keep)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(network, bucket_cap_mb=1)
        wrapped(*network.example_inputs(2)).square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    mebibytes = sum(p.numel() * p.element_size() for p in network.parameters()) / 2**20
    assert mebibytes - 1 < len(parts) <= mebibytes + 1 and mebibytes > 4
