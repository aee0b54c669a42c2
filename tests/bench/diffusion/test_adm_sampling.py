"""ADM's published sampling, against the authors' program: x0 clamped, and guided by a classifier."""

import json

import numpy as np
import pytest
import torch

import bench.diffusion
from bench.diffusion import objective, sampler
from bench.diffusion.guidance import classifier_gradient
from tests.bench.diffusion.test_ddpm import stand_in
from tests.conftest import REFERENCE
from tests.reference.families import recipe2

STORED = np.load(REFERENCE / "families/adm-process.npz")
RUNS = json.loads((REFERENCE / "families/manifest.json").read_text())["adm-process"]["runs"]


def log_probability(x, t):
    """Whose gradient is the stored runs' 0.2·cos(x + 0.1·y) − 0.1·x·(1 − t/1000), for labels 5 and 9."""
    y, s = torch.tensor([5.0, 9.0]).view(-1, 1, 1, 1), (t / 1000).view(-1, 1, 1, 1)
    return (0.2 * torch.sin(x + 0.1 * y) - 0.05 * x.square() * (1 - s)).flatten(1).sum(1)


@pytest.mark.parametrize("run", RUNS)
def test_the_loops_equal_the_original(run):
    facts = RUNS[run]
    ddpm = objective("ddpm", beta_schedule=facts["schedule"])
    assert ddpm.respaced(facts["respacing"]).timesteps == sorted(STORED[f"{run}_timesteps"].tolist())
    loop = sampler("ddim clip=true" if facts["ddim"] else "ancestral clip=true")
    if facts["scale"]:
        loop.gradient = classifier_gradient(log_probability, facts["scale"])
    draws = torch.from_numpy(recipe2.draws(facts["seed"], 11, (2, 4, 8, 8)))
    made = loop.sample(ddpm, stand_in, draws[0], lambda step: draws[step + 1], facts["respacing"])
    assert (made - torch.from_numpy(STORED[run])).abs().max() < 1e-5


def test_the_cosine_schedule_is_the_original_s():
    betas = objective("ddpm", beta_schedule="cosine").betas
    np.testing.assert_allclose(betas, STORED["betas_cosine"], rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"prediction_type": "v_prediction"}])
@pytest.mark.parametrize("name", ["ancestral clip=true", "ddim clip=true", "ddim clip=true eta=0.5"])
def test_a_clamped_loop_ends_at_the_clamped_image(name, options):
    torch.manual_seed(0)
    x0, x = torch.randn(2, 1, 4, 4, 4)
    ddpm = objective("ddpm", **options)
    alphas_cumprod = torch.from_numpy(np.cumprod(1 - ddpm.betas)).float()

    def knows(x, t):
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        epsilon = (x - a.sqrt() * x0) / (1 - a).sqrt()
        return epsilon if not options else a.sqrt() * epsilon - (1 - a).sqrt() * x0

    def noise(_):
        return torch.randn_like(x)

    made = sampler(name).sample(ddpm, knows, x, noise, "50")
    assert (made - x0.clamp(-1, 1)).abs().max() < 1e-4 and x0.abs().max() > 2
    assert (
        sampler(name.replace("true", "false")).sample(ddpm, knows, x, noise, "50") - x0
    ).abs().max() < 1e-4


def test_the_gradient_is_taken_in_inference_mode_too():
    x, t = torch.randn(2, 1, 3, 3), torch.tensor([1, 2])
    gradient = classifier_gradient(lambda x, t: -(x.square().flatten(1).sum(1) * t), 0.5)
    with torch.inference_mode():
        found = gradient(torch.clone(x), t.clone())
    assert torch.allclose(found, -x * t.view(-1, 1, 1, 1))


def test_the_option_is_left_out_of_records_where_it_is_off():
    canonical = bench.diffusion.canonical
    assert canonical(bench.diffusion.samplers, "ancestral clip=false") == "ancestral"
    assert canonical(bench.diffusion.samplers, "DDIM clip=True") == "ddim clip=true"
