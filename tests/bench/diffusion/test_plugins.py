"""Objectives and samplers of one's own."""

import itertools
import re
import subprocess
import sys

import pytest
import torch

import bench.diffusion
import registry
from bench.diffusion.ddpm_samplers import DDIM
from bench.diffusion.flow import Flow


def test_names_are_listed_without_torch():
    code = (
        "import sys, bench.diffusion as d\n"
        "assert d.objectives.names() == ['ddpm', 'edm', 'flow']\n"
        "print(*d.samplers.names()); assert 'torch' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == "ancestral ddim dpm++ edm-heun euler heun dopri5 euler-maruyama".split()


PAPERS = {
    "ancestral": "2006.11239", "ddim": "2010.02502", "dpm++": "2211.01095", "edm-heun": "2206.00364",
    "euler": "2401.08740", "heun": "2401.08740", "dopri5": "2401.08740", "euler-maruyama": "2401.08740",
}  # fmt: skip


@pytest.mark.parametrize("name", bench.diffusion.samplers.names())
def test_every_sampler_is_registered_and_describes_itself(name):
    made = bench.diffusion.sampler(name)
    assert made.name == name and set(made.objectives) <= set(bench.diffusion.objectives.names())
    told = bench.diffusion.samplers.describe(name)
    assert told.summary and told.paper == f"arXiv {PAPERS[name]}"


def test_objectives_name_their_own_papers():
    objectives = bench.diffusion.objectives
    told = {name: objectives.describe(name).paper for name in objectives.names()}
    assert told == {"ddpm": "arXiv 2006.11239", "edm": "arXiv 2206.00364", "flow": "arXiv 2401.08740"}


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

    @bench.diffusion.objectives.register("late-flow")
    class LateFlow(Flow):
        """A subclass of an objective."""

    assert bench.diffusion.samplers_for("late-flow") == bench.diffusion.samplers_for("flow")
    assert bench.diffusion.check_sampler("late-flow", "my-euler", "30") == 30


def test_an_objective_of_one_s_own(plugins):
    @bench.diffusion.objectives.register("my-flow")
    class MyFlow(Flow):
        """The flow at times that crowd at both ends."""

        def sample_timesteps(self, u):
            return torch.sin(torch.pi / 2 * u).square()

    made = bench.diffusion.objective("my-flow")
    assert made.name == "my-flow" and isinstance(made, Flow)
    assert bench.diffusion.check_sampler("my-flow", "euler", "30") == 30  # as its base class
    with pytest.raises(registry.UsageError, match="not my-flow, which has: euler, heun, "):
        bench.diffusion.check_sampler("my-flow", "ddim", "30")


def test_options_stand_behind_the_name_or_are_arguments():
    """One sampler however it is written, and it is the one that its class makes."""
    torch.manual_seed(0)
    x, ddpm = torch.randn(2, 1, 4, 4), bench.diffusion.objective("ddpm")
    noises = torch.randn(10, 2, 1, 4, 4)

    def made(sampler):
        return sampler.sample(ddpm, lambda x, t: x.tanh(), x, lambda step: noises[step], "10")

    own = made(DDIM(0.5))
    for text, options in (("ddim eta=0.5", {}), ("DDIM", {"eta": 0.5}), ("ddim eta=0", {"eta": ".5"})):
        assert torch.equal(made(bench.diffusion.sampler(text, **options)), own)
    assert not torch.equal(made(bench.diffusion.sampler("ddim")), own)
    dopri5 = bench.diffusion.sampler("dopri5 rtol=1e-5")
    assert (dopri5.name, dopri5.atol, dopri5.rtol) == ("dopri5", 1e-6, 1e-5)
    cosine = bench.diffusion.objective("ddpm beta_schedule=cosine prediction_type=v_prediction")
    assert (cosine.betas == bench.diffusion.objective("ddpm", beta_schedule="cosine").betas).all()
    assert cosine.prediction_type == "v_prediction"
    assert bench.diffusion.check_sampler("ddpm beta_schedule=cosine", "ddim eta=1", "ddim50") == 50


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ddim et=1", "takes no option 'et'. Did you mean 'eta'"),
        ("ddim eta=much", "option eta must be float, not 'much'"),
        ("ddim eta=1.5", "eta from 0 to 1, not 1.5"),
        ("ddim eta=NaN", "eta from 0 to 1, not nan"),
        ("dopri5 rtol=0", "tolerances above 0"),
        ("euler-maruyama last_step=1", "last_step between 0 and 1"),
        ("euler size=2", "takes no option 'size'. It takes: "),
    ],
)
def test_wrong_options_are_one_line(text, says):
    with pytest.raises(registry.UsageError, match=re.escape(says)) as caught:
        bench.diffusion.sampler(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("DDIM", "ddim"),
        ("ddim eta=0.0", "ddim"),
        ("ddim  eta=.50", "ddim eta=0.5"),
        ("dopri5 rtol=1e-3 atol=1e-8", "dopri5 atol=1e-08"),
        ("ddim et=1", "ddim et=1"),
        ("unknown eta=1", "unknown eta=1"),
    ],
)
def test_one_form_however_it_is_written(text, form):
    assert bench.diffusion.canonical(bench.diffusion.samplers, text) == form
    assert bench.diffusion.canonical(bench.diffusion.samplers, form) == form


def test_what_is_no_sampler_is_refused(plugins):
    @bench.diffusion.samplers.register("wrong")
    class Wrong:
        pass

    with pytest.raises(registry.UsageError, match="is a Wrong, not a bench"):
        bench.diffusion.sampler("wrong")


def test_unknown_objective():
    with pytest.raises(registry.UsageError, match="Did you mean 'ddpm'"):
        bench.diffusion.objective("ddpn")
