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
        if scale := MANIFEST[case]["cfg_scale"]:  # guided on the first three channels
            labels = torch.tensor([5, 999, 1000, 1000])
            output = form(x.repeat(2, 1, 1, 1), t.repeat(2), labels)
            cond, uncond = output[:2, :3], output[2:, :3]
            output[:, :3] = (uncond + scale * (cond - uncond)).repeat(2, 1, 1, 1)
        else:
            output = form(x, t, y)
        assert (output - expected).abs().max() < 2e-5
