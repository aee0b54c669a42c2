"""The sampling loop against that of the original program (tests/reference/diffusion.npz)."""

import numpy as np
import pytest
import torch

import registry
from bench.diffusion.gaussian import Diffusion, respaced
from tests.conftest import REFERENCE

STORED = np.load(REFERENCE / "diffusion.npz")


def stand_in(x, t):
    """The denoiser behind the stored values."""
    s = (t / 1000).view(-1, 1, 1, 1)
    return torch.cat([0.6 * x + 0.3 * torch.sin(3 * x + s), torch.tanh(0.5 * x - s)], dim=1)


@pytest.mark.parametrize("respacing", ["10", "ddim10"])
def test_ancestral_loop_equals_the_original(respacing):
    generator = np.random.default_rng(111)

    def draw():
        return torch.from_numpy(generator.standard_normal((2, 4, 8, 8)).astype(np.float32))

    diffusion = Diffusion(respacing)
    assert diffusion.timesteps == STORED[f"timesteps_{respacing}"].tolist()
    samples = diffusion.sample(stand_in, draw(), draw)
    assert (samples - torch.from_numpy(STORED[f"p_sample_{respacing}"])).abs().max() < 1e-5


def test_respacings():
    assert respaced("ddim10") == STORED["timesteps_ddim10"].tolist()
    assert respaced("ddim50") == list(range(0, 1000, 20))
    assert respaced("250") == [round(i * 999 / 249) for i in range(250)]
    assert respaced("1000") == list(range(1000)) and respaced("1") == [0]


@pytest.mark.parametrize("respacing", ["0", "1001", "fast", "ddim", "ddim999", "", "-5"])
def test_no_such_respacing(respacing):
    with pytest.raises(registry.UsageError):
        respaced(respacing)


def test_all_steps_recover_a_single_image_from_the_true_noise():
    # A denoiser that knows x0 predicts the true noise; the loop must then end at x0.
    torch.manual_seed(0)
    x0 = torch.randn(1, 4, 4, 4)
    kept = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))

    def knows(x, t):
        a = kept[t].view(-1, 1, 1, 1)
        noise = (x - a.sqrt() * x0) / (1 - a).sqrt()
        return torch.cat([noise, torch.zeros_like(x)], dim=1).float()

    assert (Diffusion("50").sample(knows, torch.randn(1, 4, 4, 4)) - x0).abs().max() < 1e-4
