"""EDM2: outputs, training and counts of the authors' program, and its first weights."""

import re

import pytest
import torch

import registry
import registry.contract
from bench import cost
from registry.networks.edm2 import EDM2, MPLayer
from tests.conftest import SMALLEST
from tests.reference.families import recipe2
from tests.registry.networks import families

SMALL = {"input_size": 16, "num_classes": 10, "model_channels": 64, "channel_mult": (1, 2, 3),
         "num_blocks": 2}  # fmt: skip
CASES = {"edm2-small": SMALL, "edm2-xs": {}}
TINY = SMALLEST["edm2-xxs"]
# Parameters and multiply-accumulates.
COUNTS = {
    "edm2-xxs": (31_309_029, 11_346_257_920),
    "edm2-xs": (124_713_253, 44_953_718_784),
    "edm2-s": (280_212_837, 100_822_382_592),
    "edm2-m": (497_807_781, 178_952_249_344),
    "edm2-l": (777_498_085, 279_343_319_040),
    "edm2-xl": (1_119_283_749, 401_995_591_680),
    "edm2-xxl": (1_523_164_773, 546_909_067_264),
}


def built(case):
    """The network of a case, and its inputs: x, the noised image that the denoiser sees, σ, y."""
    x, sigma, y = families.inputs(case, "sigma")
    network = registry.load_checkpoint(registry.create("edm2-xs", **CASES[case]), families.state(case))
    return network, x, x * (sigma**2 + 0.25).sqrt().view(-1, 1, 1, 1), sigma, y


def ours(name):
    """Our name of a parameter of theirs."""
    for pattern, replacement in EDM2.checkpoint_names:
        name = re.sub(pattern, replacement, name)
    return name


def close(found, expected, within=5e-6):
    assert (found - expected).abs().max() < within * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_outputs_and_parameters_equal_the_original(case):
    network, x, noised, sigma, y = built(case)
    stored = families.arrays(case)
    assert sum(p.numel() for p in network.parameters()) == families.MANIFEST[case]["parameters"]
    for form in (network.eval(), network.deploy()):
        close(form(noised, sigma, y), stored["output"])
        close(form.log_variance(sigma.log() / 4), stored["logvar"])
        if "raw" in stored:
            close(form.raw(x, sigma.log() / 4, y), stored["raw"])


def test_training_normalises_stored_and_used_weights_as_the_original():
    network, _, noised, sigma, y = built("edm2-small")
    stored = families.arrays("edm2-small-train")
    output = network.train()(noised, sigma, y)
    close(output.prediction.detach(), stored["output"])
    assert output.log_variance.shape == (2,) and not output.losses
    weighting = torch.from_numpy(recipe2.draws(77, 1, (2, 4, 16, 16))[0])
    (output.prediction * weighting).sum().backward()
    parameters = dict(network.named_parameters())
    for name, expected in stored.items():
        if name.startswith("output") or name == "logvar_linear.weight":  # which the stored pass left out
            continue
        parameter = parameters[ours(name.removeprefix("grad:"))]
        found = parameter.grad if name.startswith("grad:") else parameter.detach()
        close(found.flatten()[: len(expected)], expected)
    close(network(noised, sigma, y).prediction.detach(), stored["output_second"])
    close(network.eval()(noised, sigma, y).detach(), stored["output_eval_after"])


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_accumulates(name):
    found = cost.measure(name)
    assert (found.parameters, found.macs) == COUNTS[name]
    assert not found.uncounted


def test_in_pixels():
    found = cost.measure("edm2-s", in_channels=3)
    assert (found.parameters, found.macs) == (280_209_381, 100_808_226_816)


def test_at_the_start_weights_are_normal_and_the_output_is_the_skip_alone():
    torch.manual_seed(0)
    network = registry.create("edm2-xxs", input_size=16).eval()
    x, sigma, y = network.example_inputs(2)
    skip = 0.25 / (sigma**2 + 0.25).view(-1, 1, 1, 1) * x
    assert torch.allclose(network(x, sigma, y), skip, atol=1e-6)
    weights = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, MPLayer)])
    assert abs(weights.mean()) < 1e-3 and abs(weights.std() - 1) < 1e-3
    assert len(network.emb_fourier.freqs) == 64 and 0 <= network.emb_fourier.phases.min() < 0.5


@torch.no_grad()
def test_no_label_is_a_vector_of_zeros_and_a_guide_without_classes_ignores_it():
    torch.manual_seed(0)
    network = opened(registry.create("edm2-xxs", **TINY))
    x, sigma, y = network.example_inputs(2)
    network.emb_label.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    seen = []
    network(x, sigma, y), network(x, sigma)
    assert torch.equal(seen[0], 10**0.5 * torch.eye(10)[y]) and not seen[1].any()
    guide = opened(registry.create("edm2-xxs", **TINY | {"num_classes": 0}))
    assert guide.emb_label is None and network.null_class is None
    assert torch.equal(guide(x, sigma, y), guide(x, sigma))


def opened(network):
    """Gains that are not zero, so that everything has an effect."""
    for name, parameter in network.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.constant_(parameter, 0.5)
    return network.eval()


def test_it_honours_the_contract():
    results = registry.contract.check(registry.create("edm2-xxs", **TINY, dropout=0.1))
    assert {result.status for result in results} == {"pass", "n/a"}, results


def test_heads_that_do_not_divide_a_width_are_refused():
    with pytest.raises(registry.UsageError, match="40 channels cannot be cut into 3 attention heads"):
        registry.create("edm2-xxs", input_size=8, model_channels=10, channels_per_head=12)
