"""Every network against outputs of the original authors' programs (tests/reference)."""

import numpy as np
import pytest
import torch

from tests.conftest import MANIFEST, REFERENCE, reference_network, reference_output


@pytest.mark.parametrize("case", MANIFEST)
def test_output_and_parameters_equal_the_original(case):
    network = reference_network(case)
    assert sum(p.numel() for p in network.parameters()) == MANIFEST[case]["parameters"]
    expected = torch.from_numpy(np.load(REFERENCE / f"{case}.npz")["output"])
    for form in (network, network.deploy()):
        assert (reference_output(form, case) - expected).abs().max() < 2e-5
