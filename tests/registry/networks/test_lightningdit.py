"""LightningDiT: outputs of the authors' program, parameters and multiply-accumulates of all nine sizes."""

import pytest
import torch

import registry
from bench import cost
from bench.diffusion.guidance import guided
from registry.layers.norms import RMSNorm
from tests.registry.networks import families

# Parameters, those of them that are trained, and multiply-accumulates of the released program.
COUNTS = {
    "lightningdit-b-1": (130_556_192, 130_359_584, 23_008_247_808),
    "lightningdit-b-2": (130_531_600, 130_334_992, 23_001_956_352),
    "lightningdit-l-2": (458_120_176, 457_858_032, 80_680_845_312),
    "lightningdit-xl-1": (675_256_736, 674_961_824, 118_626_140_160),
    "lightningdit-xl-2": (675_219_856, 674_924_944, 118_616_702_976),
    "lightningdit-1p0b-1": (1_029_401_120, 1_029_007_904, 179_150_389_248),
    "lightningdit-1p0b-2": (1_029_351_952, 1_028_958_736, 179_137_806_336),
    "lightningdit-1p6b-1": (1_631_767_120, 1_631_308_368, 283_350_007_808),
    "lightningdit-1p6b-2": (1_631_709_760, 1_631_251_008, 283_335_327_744),
}
OFF = {"num_classes": 10, "qk_norm": True, "swiglu": False, "rms_norm": False}
CASES = {
    "lightningdit-small": ("lightningdit-b-1", {"hidden_size": 256, "depth": 4, "num_heads": 4}),
    "lightningdit-qknorm": (
        "lightningdit-b-2",
        {"input_size": 16, "hidden_size": 192, "depth": 3, "num_heads": 3, **OFF, "rope": False}
        | {"shift": False, "learn_sigma": True},
    ),
    "lightningdit-eps": (
        "lightningdit-b-2",
        {"input_size": 8, "patch_size": 1, "hidden_size": 128, "depth": 2, "num_heads": 2, **OFF},
    ),
}


def network(case):
    model, overrides = CASES[case]
    made = families.network(case, model, **overrides)
    scale = families.MANIFEST[case].get("qk_rows_scaled", 1)
    for block in made.blocks:
        for parameter in block.attention.qkv.parameters():
            parameter.detach()[: 2 * len(parameter) // 3].mul_(scale)
    return made


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_output_and_parameters_equal_the_original(case):
    made, expected = network(case), families.arrays(case)["output"]
    assert sum(p.numel() for p in made.parameters()) == families.MANIFEST[case]["parameters"]
    for form in (made, made.deploy()):
        assert (form(*families.inputs(case)) - expected).abs().max() < 5e-6


@torch.inference_mode()
def test_three_of_32_channels_are_guided_from_the_interval_s_begin():
    case = "lightningdit-small"
    made, expected = network(case), families.arrays(case)
    x, _, y = families.inputs(case)
    for i, setting in enumerate(families.MANIFEST[case]["cfg"]):
        interval = (setting["start"], 1.0) if setting["interval"] else None
        output = guided(made, y, setting["scale"], interval=interval)(x, torch.full((2,), setting["t"]))
        assert (output[:, :5] - expected[f"cfg{i}"]).abs().max() < 1e-5


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_accumulates(name):
    parameters, trained, macs = COUNTS[name]
    with torch.device("meta"):
        made = registry.create(name)
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == trained
    found = cost.measure(made)
    assert (found.parameters, found.macs) == (parameters, macs)


def test_tables_of_a_checkpoint_are_taken_or_passed_over():
    case = "lightningdit-small"
    model, overrides = CASES[case]
    made = registry.create(model, **overrides)
    tables = {f"feat_rope.freqs_{name}": torch.zeros(256, 64) for name in ("cos", "sin")}
    state = families.state(case) | tables | {"pos_embed": made.pos_embed + 1}
    assert torch.equal(registry.load_checkpoint(made, state).pos_embed, state["pos_embed"])
    with pytest.raises(registry.UsageError, match=r"1 left over: feat_rope\.other"):
        registry.load_checkpoint(made, state | {"feat_rope.other": torch.zeros(1)})


def test_a_grid_that_is_not_square_turns_by_row_and_column():
    from registry.networks.lightningdit import rotations

    turns = rotations(2, 3, 8, True, device=torch.device("cpu"))
    assert turns.shape == (6, 4)
    angles = turns[5].angle()  # row 1, column 2
    assert torch.allclose(angles, torch.tensor([1, 0.01, 2, 0.02], dtype=torch.float64))


@pytest.mark.filterwarnings("error")
def test_rms_norms_under_autocast_keep_its_precision_and_warn_of_nothing():
    torch.manual_seed(0)
    made = registry.create(
        "lightningdit-b-2", hidden_size=48, depth=1, num_heads=2, input_size=8, qk_norm=True
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, t, y = made.example_inputs(2)
    with torch.autocast("cpu", torch.bfloat16):
        output = made(x, t, y)
    whole = made(x, t, y)
    assert output.dtype == torch.bfloat16 and (output - whole).abs().max() < 0.05 * whole.abs().max()
    norm, z = RMSNorm(48), torch.randn(3, 48)
    torch.nn.init.normal_(norm.weight)
    expected = z * norm.weight / (z.square().mean(1, keepdim=True) + 1e-6).sqrt()
    assert (norm(z) - expected).abs().max() < 1e-5


def test_the_first_output_is_zero_and_bad_widths_are_refused():
    made = registry.create("lightningdit-b-2", hidden_size=48, depth=1, num_heads=2, input_size=8)
    assert made(*made.example_inputs(2)).abs().max() == 0
    for options, says in (
        ({"hidden_size": 50, "num_heads": 2}, "multiple of 4"),
        ({"hidden_size": 36, "num_heads": 6}, "head width that is a multiple of 4"),
        ({"hidden_size": 48, "num_heads": 5}, "not a multiple of num_heads"),
    ):
        with pytest.raises(registry.UsageError, match=says):
            registry.create("lightningdit-b-2", depth=1, **options)
