"""Every network against outputs of the original authors' programs (tests/reference)."""

import numpy as np
import pytest
import torch

from tests.conftest import MANIFEST, REFERENCE, reference_network
from tests.reference import recipe


@pytest.mark.parametrize("case", MANIFEST)
@torch.no_grad()
def test_output_and_parameters_equal_the_original(case):
    network = reference_network(case)
    assert sum(p.numel() for p in network.parameters()) == MANIFEST[case]["parameters"]
    expected = torch.from_numpy(np.load(REFERENCE / f"{case}.npz")["output"])
    x, t, y = map(torch.from_numpy, recipe.inputs(*MANIFEST[case]["input"][1:3], 1000))
    for form in (network, network.deploy()):
        if scale := MANIFEST[case]["cfg_scale"]:
            labels = torch.tensor([5, 999, 1000, 1000])
            output = form.forward_with_cfg(x.repeat(2, 1, 1, 1), t.repeat(2), labels, scale)
        else:
            output = form(x, t, y)
        assert (output - expected).abs().max() < 2e-5


@torch.no_grad()
def test_guidance_on_all_channels_guides_all_noise_channels_and_no_variance():
    torch.manual_seed(0)
    network = reference_network("dit-s-8")
    x, t, y = network.example_inputs(2)
    both, labels = torch.cat([x, x]), torch.cat([y, torch.full_like(y, 1000)])
    cond, uncond = network(both, t.repeat(2), labels).chunk(2)
    guided = network.forward_with_cfg(both, t.repeat(2), labels, 3.0, guided_channels=None)
    torch.testing.assert_close(guided[:2, :4], uncond[:, :4] + 3 * (cond - uncond)[:, :4])
    torch.testing.assert_close(guided[:2, 4:], cond[:, 4:])
    torch.testing.assert_close(guided[2:, 4:], uncond[:, 4:])
