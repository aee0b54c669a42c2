"""Objectives and samplers of one's own."""

import itertools
import subprocess
import sys

import pytest
import torch

import bench.diffusion
import registry
from bench.diffusion.flow import Flow


def test_names_are_listed_without_torch():
    code = (
        "import sys, bench.diffusion as d\n"
        "assert d.objectives.names() == ['ddpm', 'flow']\n"
        "print(*d.samplers.names()); assert 'torch' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == "ancestral ddim dpm++ euler heun dopri5 euler-maruyama".split()


@pytest.mark.parametrize("name", bench.diffusion.samplers.names())
def test_every_sampler_is_registered_and_describes_itself(name):
    made = bench.diffusion.sampler(name)
    assert made.name == name and set(made.objectives) <= set(bench.diffusion.objectives.names())
    assert bench.diffusion.samplers.describe(name).summary


def test_a_sampler_of_one_s_own(plugins):
    @bench.diffusion.samplers.register("my-euler")
    class MyEuler(bench.diffusion.Sampler):
        """Euler's method, in steps that shrink towards the data."""

        objectives = ("flow",)

        def loop(self, objective, denoiser, x, noise, steps):
            times = torch.linspace(0, 1, int(steps) + 1, device=x.device).sqrt()
            for t, after in itertools.pairwise(times):
                x = x + (after - t) * denoiser(x, t.expand(len(x)))[:, : x.shape[1]]
            return x

    assert "my-euler" in bench.diffusion.samplers_for("flow")
    assert bench.diffusion.check_sampler("flow", "my-euler", "30") == 30
    x = torch.randn(2, 1, 4, 4)
    # dx/dt = -x: the exact solution is x/e
    made = bench.diffusion.sampler("My_Euler").sample(
        bench.diffusion.objective("flow"), lambda x, t: -x, x, None, "1000"
    )
    assert (made - x / torch.e).abs().max() < 5e-3
    with pytest.raises(registry.UsageError, match="my-euler is for objective flow, not ddpm"):
        bench.diffusion.check_sampler("ddpm", "my-euler", "30")


def test_an_objective_of_one_s_own(plugins):
    @bench.diffusion.objectives.register("my-flow")
    class MyFlow(Flow):
        """The flow at times that crowd at both ends."""

        def sample_timesteps(self, u):
            return torch.sin(torch.pi / 2 * u).square()

    made = bench.diffusion.objective("my-flow")
    assert made.name == "my-flow" and isinstance(made, Flow)
    with pytest.raises(registry.UsageError, match="not my-flow, which has: none"):
        bench.diffusion.check_sampler("my-flow", "euler", "30")


def test_what_is_no_sampler_is_refused(plugins):
    @bench.diffusion.samplers.register("wrong")
    class Wrong:
        pass

    with pytest.raises(registry.UsageError, match="is a Wrong, not a bench"):
        bench.diffusion.sampler("wrong")


def test_unknown_objective():
    with pytest.raises(registry.UsageError, match="Did you mean 'ddpm'"):
        bench.diffusion.objective("ddpn")
