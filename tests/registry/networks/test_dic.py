"""DiC and DiCo: parameters and counts of all nine, sparse skips, labels dropped together."""

import pytest
import torch

import registry
from bench import cost
from registry.layers.embeddings import Conditions

# Parameters and operations in the papers' convention, of the released programs.
COUNTS = {
    "dic-s": (32_835_752, 5_873_889_024, "5.9"),
    "dic-b": (129_529_160, 23_458_050_816, "23.5"),
    "dic-xl": (702_266_120, 116_136_592_128, "116.1"),
    "dic-h": (1_034_516_744, 204_397_757_184, "204.4"),
    "dico-s": (33_137_672, 4_248_541_568, "4.25"),
    "dico-b": (129_992_712, 16_879_923_200, "16.88"),
    "dico-l": (463_897_992, 60_236_662_176, "60.24"),
    "dico-xl": (701_151_368, 87_303_866_976, "87.30"),
    "dico-h": (1_037_408_328, 194_150_609_472, "194.15"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_printed_gflops(name):
    parameters, count, printed = COUNTS[name]
    found = cost.measure(name)
    assert found.parameters == parameters
    assert abs(found.paper_gflops * 1e9 - count) <= 1000  # crumbs of the step's embedding
    digits = len(printed.partition(".")[2])
    assert f"{found.paper_gflops:.{digits}f}" == printed


@pytest.mark.parametrize(
    ("depth", "skips"), [((6, 6, 5, 6, 6), 4), ((7, 7, 8, 7, 7), 6), ((1, 3, 1, 2, 2), 2)]
)
def test_one_block_in_three_has_a_skip(depth, skips):
    network = registry.create("dic-s", hidden_size=8, depth=depth, input_size=8)
    assert len(network.long_skips()) == skips
    assert network(*network.example_inputs(2)).shape == (2, 8, 8, 8)


def test_stages_that_do_not_mirror_each_other_are_refused():
    with pytest.raises(registry.UsageError, match="differ in skips"):
        registry.create("dic-s", hidden_size=8, depth=(3, 3, 3, 3, 4))


def test_a_dropped_label_is_dropped_at_all_widths():
    conditions = Conditions(10, (8, 16), 0.5).train()
    for table in conditions.label:
        torch.nn.init.zeros_(table.weight)
        torch.nn.init.ones_(table.weight[10:])  # the null class alone can be seen
    torch.manual_seed(0)
    t, y = torch.zeros(64), torch.arange(64) % 10
    narrow, wide = (c - embed(t) for c, embed in zip(conditions(t, y), conditions.time, strict=True))
    dropped = narrow.mean(1) > 0.5
    assert 16 < dropped.sum() < 48 and torch.equal(dropped, wide.mean(1) > 0.5)
