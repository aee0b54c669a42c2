"""ADM: outputs of the authors' program, the released sizes, first weights, and the second stage."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import registry
from bench import cost
from tests.conftest import REFERENCE
from tests.reference import recipe
from tests.reference.families import recipe2

FOLDER = REFERENCE / "families"
CASES = {
    "adm-small": {
        "input_size": 32, "hidden_size": 64, "channel_mult": (1, 2, 3), "attention_rates": (2, 4),
    },
    "adm-latent-heads": {
        "input_size": 16, "in_channels": 4, "num_classes": 10, "hidden_size": 64, "channel_mult": (1, 1, 2),
        "num_res_blocks": 1, "attention_rates": (1, 4), "head_width": 0, "num_heads": 4,
        "new_attention_order": True, "scale_shift_norm": False, "resblock_updown": False,
        "learn_sigma": False,
    },
}  # fmt: skip
SMALL = {"input_size": 16, "hidden_size": 32, "channel_mult": (1, 2), "attention_rates": (2,),
         "head_width": 16}  # fmt: skip
# Parameters and multiply-accumulates of the released sizes.
COUNTS = {
    "adm-64": (295_904_454, 109_678_018_560),
    "adm-128": (421_529_606, 306_927_894_528),
    "adm-256": (553_838_086, 1_119_832_768_512),
    "adm-512": (558_997_638, 1_982_334_763_008),
    "adm-u-64-256": (311_795_910, 631_642_374_144),
    "adm-u-128-512": (308_835_270, 2_504_784_986_112),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_output_and_parameters_equal_the_original(case):
    facts = json.loads((FOLDER / "manifest.json").read_text())[case]
    shapes = json.loads((FOLDER / f"{case}.keys.json").read_text())
    network = registry.create("adm-256", **CASES[case])
    assert sum(p.numel() for p in network.parameters()) == facts["parameters"]
    state = {name: torch.from_numpy(recipe2.weight(name, shape)) for name, shape in shapes.items()}
    registry.load_checkpoint(network, state)
    _, channels, side, _ = facts["input"]
    x, _, y = map(torch.from_numpy, recipe.inputs(channels, side, facts["num_classes"]))
    expected = torch.from_numpy(np.load(FOLDER / f"{case}.npz")["output"])
    for form in (network.eval(), network.deploy()):
        assert (form(x, torch.tensor(facts["t"]), y) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_accumulates(name):
    found = cost.measure(name)
    assert (found.parameters, found.macs) == COUNTS[name]
    assert not found.uncounted and not found.notes


def test_the_released_network_without_classes():
    found = cost.measure("adm-256", num_classes=0)
    assert (found.parameters, found.macs) == (552_814_086, COUNTS["adm-256"][1])


def test_what_the_released_sizes_declare():
    for name in COUNTS:
        with torch.device("meta"):
            network = registry.create(name)
        assert network.null_class is None and network.learn_sigma and network.objective == "ddpm"
        assert network.beta_schedule == ("cosine" if name == "adm-64" else "linear")
        assert {m.new_attention_order for m in network.modules() if hasattr(m, "new_attention_order")} == {
            name == "adm-64"
        }
    assert registry.create("adm-256", **SMALL, class_dropout_prob=0.1).null_class == 1000


@pytest.mark.parametrize("switches", [{}, {"scale_shift_norm": False, "resblock_updown": False}])
def test_branches_and_the_output_begin_at_zero(switches):
    torch.manual_seed(0)
    network = registry.create("adm-256", **SMALL, **switches)
    zero = {name for name, p in network.state_dict().items() if name.endswith("weight") and not p.any()}
    ends = {f"{name}.weight" for name, _ in network.named_modules() if name.endswith((".conv2", ".out"))}
    assert zero == ends | {"head.2.weight"} and len(ends) > 12
    assert not network(*network.example_inputs(2)).any()
    assert abs(network.label.table.weight.std() - 1) < 0.01  # PyTorch's own


def test_the_second_stage_sees_the_enlarged_image_behind_its_own():
    torch.manual_seed(0)
    stage = registry.create("adm-u-64-256", **SMALL, num_classes=10).eval()
    for parameter in stage.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    # The same network with both images as one input.
    whole = registry.create("adm-256", **SMALL, in_channels=6, learn_sigma=False, num_classes=10).eval()
    whole.load_state_dict(stage.state_dict())
    x, t, y, low_res = stage.example_inputs(2)
    assert low_res.shape == (2, 3, 4, 4)
    enlarged = F.interpolate(low_res, (16, 16), mode="bilinear", align_corners=False)
    expected = whole(torch.cat([x, enlarged], dim=1), t, y)
    assert torch.equal(stage(x, t, y, low_res), expected) and expected.std() > 0.01


def test_heads_are_of_a_width_or_of_a_number():
    widths = {"hidden_size": 32, "channel_mult": (1, 2), "attention_rates": (1, 2)}
    for options, heads in (({"head_width": 16}, {2, 4}), ({"head_width": 0, "num_heads": 2}, {2})):
        network = registry.create("adm-256", input_size=8, **widths, **options)
        assert {m.num_heads for m in network.modules() if hasattr(m, "num_heads")} == heads


def test_a_dropout_in_the_blocks_acts_in_training_alone():
    network = registry.create("adm-64", **SMALL, num_classes=0)
    torch.nn.init.normal_(network.head[-1].weight)
    for block in network.modules():
        if hasattr(block, "conv2"):
            torch.nn.init.normal_(block.conv2.weight, std=0.1)
    inputs = network.example_inputs(2)
    assert not torch.equal(network(*inputs), network(*inputs))
    assert torch.equal(network.eval()(*inputs), network(*inputs))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hidden_size": 24}, "multiples of norm_num_groups 32"),
        ({"head_width": 24}, "head_width 24 does not divide 64"),
        ({"head_width": 0, "num_heads": 5}, "not a multiple of num_heads 5"),
        ({"input_size": 15}, "must be multiples of 2"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"channel_mult": ()}, "channel_mult must be positive"),
        ({"attention_rates": (0,)}, "attention_rates must be positive"),
    ],
)
def test_options_that_make_no_network(options, says):
    with pytest.raises(registry.UsageError, match=says):
        registry.create("adm-256", **{**SMALL, **options})
