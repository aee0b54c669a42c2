"""DDT: outputs of the authors' program, encoder and decoder apart, parameters and multiply-accumulates."""

import pytest
import torch

import registry
from bench import cost
from bench.diffusion import objective, sampler
from bench.diffusion.guidance import guided
from bench.diffusion.translation import translated
from tests.registry.networks import families

# Parameters, and multiply-accumulates of the released program.
COUNTS = {
    "ddt-b-2": (130_262_800, 26_915_635_200),
    "ddt-l-2": (457_648_144, 87_637_098_496),
    "ddt-xl-2": (674_646_352, 131_481_059_328),
}
CASES = {
    "ddt-small": {"hidden_size": 256, "depth": 6, "encoder_depth": 4, "num_heads": 4},
    "ddt-wide": {"hidden_size": 192, "depth": 4, "encoder_depth": 1, "num_heads": 3}
    | {"input_size": (16, 32), "in_channels": 3, "patch_size": 4, "num_classes": 10},
}
SMALL = {
    "hidden_size": 48,
    "depth": 3,
    "encoder_depth": 2,
    "num_heads": 2,
    "input_size": 8,
    "num_classes": 10,
}


def opened():
    """A small network, none of whose branches is closed."""
    torch.manual_seed(0)
    made = registry.create("ddt-b-2", **SMALL).eval()
    for parameter in made.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_output_state_and_its_reuse_equal_the_original(case):
    made, expected = families.network(case, "ddt-b-2", **CASES[case]), families.arrays(case)
    assert sum(p.numel() for p in made.parameters()) == families.MANIFEST[case]["parameters"]
    x, t, y = families.inputs(case)
    for form in (made, made.deploy()):
        assert (form(x, t, y) - expected["output"]).abs().max() < 5e-6
    state = made.encode(x, t, y)
    assert (state[:, :8] - expected["state"]).abs().max() < 5e-6
    assert (made.decode(-x, state) - expected["output_reuse"]).abs().max() < 5e-6


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_accumulates(name):
    found = cost.measure(name)
    assert (found.parameters, found.macs) == COUNTS[name]
    stages = {stage.name: stage.macs for stage in found.stages}
    # Two linear maps of every token are the decoder's modulation, one of every sample the encoder's.
    width, depth = {"ddt-b-2": (768, (8, 4)), "ddt-l-2": (1024, (20, 4)), "ddt-xl-2": (1152, (22, 6))}[name]
    inner, tokens = int(2 * (4 * width) / 3), 256
    block = tokens * (4 * width**2 + 3 * width * inner) + 2 * tokens**2 * width
    assert stages["encoder"] == depth[0] * (block + 6 * width**2)
    assert stages["decoder"] == depth[1] * (block + tokens * 6 * width**2)


@torch.inference_mode()
def test_the_encoder_runs_at_every_third_step_of_sampling(monkeypatch):
    network, flow = opened(), objective("flow")
    x, labels = torch.randn(2, 4, 8, 8), torch.tensor([3, 7])
    encoded, encode = [], network.encode
    monkeypatch.setattr(network, "encode", lambda x, t, y: (encoded.append(float(t[0])), encode(x, t, y))[1])

    def sampled(**options):
        encoded.clear()
        return sampler("euler").sample(flow, guided(network, labels, **options), x, None, "8")

    plain = sampled(cfg_scale=2.0, interval=(0.3, 1.0))
    assert encoded == [i / 8 for i in range(8)]
    reused = sampled(cfg_scale=2.0, interval=(0.3, 1.0), encoder_every=3)
    assert encoded == [0, 3 / 8, 6 / 8]
    assert 1e-4 < (plain - reused).abs().max() < 1
    assert (sampled(encoder_every=8) - sampled()).abs().max() > 1e-4 and len(encoded) == 8


@torch.inference_mode()
@pytest.mark.parametrize("under", ["flow", "ddpm", "edm"])
@pytest.mark.parametrize("options", [{}, {"cfg_scale": 2.0}])
def test_the_encoder_is_reused_under_every_objective(under, options, monkeypatch):
    network, process, labels = opened(), objective(under), torch.tensor([3, 7])
    states, encode = [], network.encode
    monkeypatch.setattr(network, "encode", lambda x, t, y: states.append(encode(x, t, y)) or states[-1])
    x, (early, late) = torch.randn(2, 4, 8, 8), process.sample_timesteps(torch.tensor([[0.4] * 2, [0.6] * 2]))
    plain = guided(translated(network, process), labels, **options)
    reused = guided(translated(network, process), labels, **options, encoder_every=2)
    expected, again = plain(x, early), plain(x, late)
    states.clear()
    assert torch.equal(reused(x, early), expected)
    (state,) = states
    monkeypatch.setattr(network, "encode", lambda x, t, y: state)
    assert torch.equal(found := reused(x, late), plain(x, late))
    assert (found - again).abs().max() > 1e-4


@torch.inference_mode()
def test_a_saved_condition_leaves_time_and_label_without_effect_and_any_grid_fits():
    network = opened()
    x, t, y = torch.randn(2, 4, 12, 8), torch.tensor([0.2, 0.6]), torch.tensor([1, 2])
    state = network.encode(x, t, y)
    assert torch.equal(network.decode(x, state), network(x, t, y))
    assert (network(x, t, y) - network(x, t + 0.1, y)).abs().max() > 1e-3
    assert (network(x, t, y) - network(x, t, y + 1)).abs().max() > 1e-4


def test_the_first_output_is_zero_and_bad_sizes_are_refused():
    made = registry.create("ddt-b-2", **SMALL)
    assert made(*made.example_inputs(2)).abs().max() == 0
    assert all(block.modulation.weight.abs().max() > 0 for block in made.encoder)  # but not closed
    for options, says in (
        ({"encoder_depth": 3}, "encoder_depth must be 0 to 2, of 3 blocks"),
        ({"hidden_size": 36, "num_heads": 6}, "head width that is a multiple of 4"),
    ):
        with pytest.raises(registry.UsageError, match=says):
            registry.create("ddt-b-2", **SMALL | options)
