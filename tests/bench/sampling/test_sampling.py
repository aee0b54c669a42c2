"""Sampling: an image depends on the seed and its number alone, and nothing is lost or overwritten."""

import dataclasses
import functools
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import bench.diffusion
import registry
from bench import data
from bench import sample as bench_sample
from bench.cli.options import parse_overrides
from bench.data import grid
from bench.data.export import export
from bench.diffusion import objective, samplers
from bench.diffusion.flow import Flow
from bench.records.schema import SamplingSettings
from bench.sampling import Guide, Plan, Source, open_weights, sample, write_sheet
from bench.training import protocols
from bench.training.loop import train
from bench.training.run import Run
from bench.training.trained import open_guide, open_run
from bench.utils.precision import autocast
from registry.errors import CodeError
from tests.bench.place import Place
from tests.conftest import ROOT, SMALLEST
from tests.device.checks import opened


def plan(
    sampler: str, steps: str, num: int, *, seed: int = 1, classes: tuple[int, ...] = (), **options: Any
) -> Plan:
    """A plan of ddpm, or of flow where the sampler is one of its."""
    settings = SamplingSettings(sampler=sampler, steps=steps, num=num, **options)
    return Plan(objective("flow" if sampler == "heun" else "ddpm"), settings, classes, seed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train("udit-t", protocols.load("smoke"), out)
    return out


@pytest.fixture(scope="module")
def network(run: Path) -> Any:
    return open_run(run).network


def made(network: Any, plan: Plan, out: Path, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    sample(network, grid.to_images, plan, out, identity={}, **options)
    with np.load(out) as stored:
        return stored["arr_0"], stored["arr_1"]


def test_an_npz_in_the_suite_s_form_and_a_folder_hold_the_same_images(tmp_path: Path, network: Any) -> None:
    four = plan("ancestral", "4", 7, batch_size=4)
    images, labels = made(network, four, tmp_path / "a.npz")
    assert images.shape == (7, 16, 16, 3) and images.dtype == np.uint8 and labels.dtype == np.int64
    sheet = sample(network, grid.to_images, four, tmp_path / "b", identity={})
    found = sorted((tmp_path / "b").iterdir())
    assert [path.name for path in found] == [f"{i:06d}.png" for i in range(7)]
    assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in found]), images)
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "a.grid.png", "b", "b.grid.png"}
    assert Image.open(sheet).size == (10 * 66 - 2, 64)


def test_the_loop_is_the_diffusion_s_own(tmp_path: Path, network: Any) -> None:
    """Against the loop called by hand with the noise that each image has by its number."""
    from bench.diffusion import sampler
    from bench.utils import randomness

    images, labels = made(network, plan("ancestral", "4", 3), tmp_path / "a.npz")
    indices, y = torch.arange(3), torch.from_numpy(labels)
    u = randomness.uniform(1, "label", indices, 1)[:, 0]
    assert labels.tolist() == (u * 10).long().tolist()
    x = sampler("ancestral").sample(
        objective("ddpm"),
        lambda x, t: network.eval()(x, t, y),
        randomness.normal(1, "noise", indices, (4, 8, 8)),
        lambda step: randomness.normal(1, "step", indices, (4, 8, 8), step),
        "4",
    )
    levels = torch.from_numpy(images.astype(float)).permute(0, 3, 1, 2)[:, :1]
    expected = (127.5 * torch.nn.functional.pixel_shuffle(x, 2) + 128).clamp(0, 255)
    assert (expected - levels - 0.5).abs().max() < 0.51


def test_another_batch_size_changes_rounding_alone(tmp_path: Path, network: Any) -> None:
    one, _ = made(network, plan("ancestral", "4", 40, batch_size=40), tmp_path / "a.npz")
    other, _ = made(network, plan("ancestral", "4", 40, batch_size=7), tmp_path / "b.npz")
    off = np.abs(one.astype(int) - other)
    assert off.max() <= 1 and (off > 0).mean() < 0.001
    fewer, _ = made(network, plan("ancestral", "4", 20, batch_size=7), tmp_path / "c.npz")
    assert np.array_equal(fewer[:14], other[:14])


@pytest.mark.slow
@pytest.mark.parametrize(("options", "expected"), [({}, 1), ({"cfg_scale": 1.5}, 1),
                         ({"cfg_scale": 1.5, "guidance_interval": (0, 500)}, 2)])  # fmt: skip
def test_compiled_once_for_all_steps_and_batches(
    tmp_path: Path, network: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: int
) -> None:
    """The last batch is short; within the interval a call has twice as many inputs as without."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    images, labels = made(
        network, plan("ancestral", "4", 7, batch_size=4, **options), tmp_path / "a.npz", compiled=True
    )
    assert len(graphs) == expected
    whole, of_whole = made(network, plan("ancestral", "4", 8, batch_size=4, **options), tmp_path / "b.npz")
    assert np.array_equal(images, whole[:7]) and np.array_equal(labels, of_whole[:7])
    made(network, plan("ancestral", "4", 3, batch_size=99), tmp_path / "c.npz", compiled=True)
    assert max(len(node.meta["example_value"]) for graph in graphs[expected:] for node in graph.graph.nodes
               if node.op == "placeholder" and "l_x" in node.name.lower()) == 3  # fmt: skip


class Casts(TorchDispatchMode):
    """Counts operators, and those among them that change a dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.casts = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.all += 1
        self.casts += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", [name for name in SMALLEST if name != "uvit2d"])
def test_weights_are_cast_once_where_the_bits_stay_the_same(model: str) -> None:
    network = opened(model, SMALLEST[model])
    settings = SamplingSettings(sampler="ancestral", steps="4", num=2)
    reduced = Plan(objective(network.objective), settings, precision="bf16")
    inputs, found = network.example_inputs(2), []
    deployed = reduced.deployed(network)
    for form in (network.deploy(), deployed):
        with torch.no_grad(), autocast("bf16", "cpu"), Casts() as counted:
            found.append((form(*inputs), counted))
    (expected, at_every_call), (output, once) = found
    assert torch.equal(output, expected)
    held = {p.dtype for p in deployed.parameters()}
    if model in "dic-s dico-s dit-s-4 dit-skip edm2-xxs sit-s-2 tiny-unet udit-t uvit-s-2".split():
        assert torch.bfloat16 in held and once.all < at_every_call.all
        assert once.all - once.casts == at_every_call.all - at_every_call.casts
    if model == "unet2d":  # diffusers' casts the embedding of the class to the dtype of its weights
        assert held == {torch.float32}
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_weights_cast_once_give_the_images_of_autocast(network: Any) -> None:
    reduced = dataclasses.replace(plan("ancestral", "4", 4, cfg_scale=1.5), precision="bf16")
    at_every_call = reduced.grids(network.deploy(), torch.arange(4))
    assert torch.equal(reduced.grids(reduced.deployed(network), torch.arange(4)), at_every_call)


def test_labels(tmp_path: Path, network: Any) -> None:
    _, labels = made(network, plan("ddim", "1", 25, labels="balanced"), tmp_path / "a.npz")
    assert labels.tolist() == [i % 10 for i in range(25)]
    _, labels = made(network, plan("ddim", "1", 60, classes=(3, 7)), tmp_path / "b.npz")
    assert set(labels) == {3, 7}
    many = plan("ddim", "1", 1).labels_of(torch.arange(10_000), 10)
    assert np.bincount(many).min() > 850


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"sampler": "ddim"}, {"sampler": "dpm++"}, {"cfg_scale": 3.0}]
)
def test_every_part_of_the_plan_counts(tmp_path: Path, network: Any, change: dict[str, Any]) -> None:
    one, _ = made(network, plan("ancestral", "4", 4), tmp_path / "a.npz")
    other, _ = made(
        network, plan(**{"sampler": "ancestral", "steps": "4", "num": 4} | change), tmp_path / "b.npz"
    )
    assert not np.array_equal(one, other)


def test_guided_channels_are_the_network_s_own_unless_given(network: Any) -> None:
    def grids(**options: Any) -> torch.Tensor:
        return plan("ddim", "2", 2, cfg_scale=3.0, **options).grids(network.eval(), torch.arange(2))

    assert torch.equal(grids(), grids(guided_channels=3))  # of U-DiT, as published
    assert not torch.equal(grids(), grids(guided_channels=0))
    assert torch.equal(grids(guided_channels=0), grids(guided_channels=4))


@pytest.mark.parametrize("name", samplers.names())
def test_samples_that_are_not_finite_are_refused_with_every_sampler(tmp_path: Path, name: str) -> None:
    sampler_ = bench.diffusion.sampler(name)
    network = registry.create("tiny-unet", in_channels=3, num_classes=10, widths=(8, 16, 16))
    calls = []

    def later(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(inputs)  # values of the first calls, two before the loop, are looked at for themselves
        return output if len(calls) <= 3 else output * torch.nan

    network.register_forward_hook(later)
    settings = SamplingSettings(sampler=name, steps="8", num=2)
    own = Plan(objective(sampler_.objectives[0]), settings, precision="bf16")
    says = rf"samples of tiny-unet are not finite \(sampler {re.escape(name)}, 8 steps, bf16\)"
    with pytest.raises(registry.UsageError, match=says):
        sample(network, grid.to_images, own, tmp_path / "a.npz", identity={})
    assert len(calls) > 3 and not (tmp_path / "a.npz").exists()


@pytest.mark.slow
def test_a_cell_whose_samples_are_not_finite_leaves_no_record(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("""
import torch
import registry

@registry.register("late")
class Late(registry.Backbone):
    def __init__(self, input_size=32, num_classes=1000, in_channels=4):
        super().__init__(input_size=input_size, num_classes=num_classes, in_channels=in_channels)
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, y):
        # In sampling, at timestep 0; the held-out loss is measured on 64 images at once.
        fine = self.training | (t.view(-1, 1, 1, 1) > 0) | (len(x) == 64)
        return torch.where(fine, x + self.bias, torch.inf)
""")
    rows = '[[rows]]\nlabel = "it"\nbackbone = "late"\n'
    place = Place(tmp_path, f'title = "t"\nseeds = [0]\ncolumns = ["fid"]\n{rows}')
    done = place.bench("--plugin", str(tmp_path / "late.py"))
    told = " ".join(done.stderr.split())
    assert done.exit_code == 1 and "samples of late are not finite (sampler ddim, 3 steps, fp32)" in told
    assert "Traceback" not in told and not place.scores()
    (run,) = (path for path in place.work.iterdir() if path.name.startswith("late"))
    assert not list((run / "samples").glob("*.png"))  # the previews that it cannot have stop no training
    assert Run(run).checkpoints()


@pytest.mark.slow
def test_a_killed_call_goes_on_and_gives_the_same_bytes(tmp_path: Path, run: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(f"""
import os, signal
from bench.sampling import sample
from bench.training.trained import open_run
from tests.bench.sampling.test_sampling import plan
source = open_run({str(run)!r})
def progress(description, done, total):
    if done >= 6:
        os.kill(os.getpid(), signal.SIGKILL)
out = {str(tmp_path / "a.npz")!r}
sample(source.network, source.to_images, plan("ancestral", "4", 10, batch_size=3), out, identity={{}},
       progress=progress)
""")
    killed = subprocess.run(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "a.npz").exists()
    network, progress = open_run(run).network, []
    with pytest.raises(registry.UsageError, match="another request"):
        made(network, plan("ancestral", "4", 10, batch_size=3, seed=2), tmp_path / "a.npz")
    same = plan("ancestral", "4", 10, batch_size=3)
    made(network, same, tmp_path / "a.npz", progress=lambda *now: progress.append(now))
    assert progress[0] == ("sampling", 6, 10)
    made(network, same, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_call_killed_between_its_images_and_its_sheet_goes_on(
    tmp_path: Path, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "a.npz"
    with monkeypatch.context() as patched:
        patched.setattr("bench.sampling.images.write_sheet", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(network, plan("ddim", "2", 4), out)
    written = out.read_bytes()
    made(network, plan("ddim", "2", 4), out)
    assert out.read_bytes() == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.grid.png", "a.npz"]
    with pytest.raises(registry.UsageError, match="exists: delete it"):
        made(network, plan("ddim", "2", 4), out)


def test_code_that_has_changed_since_the_training_is_told(run: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(registry.backbones, "fingerprint", lambda name: "0" * 12)
    with pytest.warns(UserWarning, match="the code of udit-t has changed since .* was trained"):
        open_run(run)


def test_a_run_under_another_objective_is_sampled_by_its_sampler(tmp_path: Path) -> None:
    train("tiny-unet", protocols.load("smoke"), tmp_path / "run", objective="flow")
    assert open_run(tmp_path / "run").defaults.sampler == "heun"


def test_the_averaged_weights_are_what_samples(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for part in ("ema", "model"):
        stored = load_file(run / "checkpoints" / "00000008" / f"{part}.safetensors")
        network = open_run(run, part).network
        assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())
    earlier = open_run(run / "checkpoints" / "00000004")
    assert earlier.identity["step"] == 4 and not torch.equal(
        next(earlier.network.parameters()), next(open_run(run).network.parameters())
    )


def test_flow_samples_what_it_learned(tmp_path: Path) -> None:
    smoke = protocols.load("smoke")
    heun = smoke.model_copy(update={"sampling": SamplingSettings(sampler="heun", steps="2", num=4)})
    train("sit-s-2", heun, tmp_path / "run")
    source = open_run(tmp_path / "run")
    assert source.objective.name == "flow" and source.defaults.sampler == "heun"
    images, _ = made(source.network, plan("heun", "2", 2), tmp_path / "a.npz")
    assert images.shape == (2, 16, 16, 3)


# ---- guidance by another network ----


def test_every_sampler_is_guided_by_another_network(run: Path, network: Any) -> None:
    opened = open_guide(run / "checkpoints" / "00000004", 2.0)
    network, guide = network.deploy(), dataclasses.replace(opened, network=opened.network.deploy())
    indices = torch.arange(2)
    for name in ("ancestral", "ddim", "dpm++"):
        told = dataclasses.replace(plan(name, "4", 2), guide=guide)

        def by_hand(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.cat([2 * network(x, t, y)[:, :4] - guide.network(x, t, y)[:, :4],
                              network(x, t, y)[:, 4:]], 1)  # fmt: skip

        stand_in = torch.nn.Module()
        for attribute in ("name", "in_channels", "out_channels", "input_size", "num_classes"):
            setattr(stand_in, attribute, getattr(network, attribute))
        stand_in.forward = by_hand  # type: ignore[method-assign]
        expected = plan(name, "4", 2).grids(stand_in, indices)
        torch.testing.assert_close(told.grids(network, indices), expected)
        assert not torch.equal(expected, plan(name, "4", 2).grids(network, indices))


def test_a_guide_is_part_of_what_is_continued(tmp_path: Path, run: Path, network: Any) -> None:
    def stopped(*_: Any) -> None:
        if _[1] > 2:
            raise KeyboardInterrupt

    def guided(scale: float) -> Plan:
        return dataclasses.replace(plan("ddim", "2", 6, batch_size=2), guide=open_guide(run, scale))

    out = tmp_path / "a.npz"
    with pytest.raises(KeyboardInterrupt):
        made(network, guided(2.0), out, progress=stopped)
    for other in (guided(3.0), plan("ddim", "2", 6, batch_size=2)):
        with pytest.raises(registry.UsageError, match="guide"):
            made(network, other, out)
    images, _ = made(network, guided(2.0), out)
    assert len(images) == 6


def test_a_place_that_something_else_has_taken_keeps_it_and_loses_no_images(
    tmp_path: Path, network: Any
) -> None:
    def stopped(*_: Any) -> None:
        if _[1] > 2:
            raise KeyboardInterrupt

    out, six = tmp_path / "a.npz", plan("ddim", "2", 6, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        made(network, six, out, progress=stopped)
    out.write_bytes(b"mine")
    refused("exists: delete it", made, network, six, out)
    assert out.read_bytes() == b"mine"
    out.unlink()
    assert len(made(network, six, out)[0]) == 6


class Own(Flow):
    """A user's objective, which does not say what networks are given."""

    name = "own"
    variables = None


class AtSigma(torch.nn.Module):
    """A network of DDPM's steps as a denoiser at σ, which is exact where σ is that of a step."""

    objective, in_channels, out_channels = "edm", 4, 4

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.name, self.input_size, self.num_classes = "at-sigma", network.input_size, network.num_classes

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        t = ((1 / alphas_cumprod - 1).sqrt().log() - sigma.double().log()[:, None]).abs().argmin(1)
        s = sigma.view(-1, 1, 1, 1)
        return x - s * self.network(x / (1 + s**2).sqrt(), t, y)[:, :4]


def test_a_guide_of_another_objective_is_asked_at_equal_snr(network: Any) -> None:
    network = network.deploy()
    guide = Guide(AtSigma(network), objective("edm"), 3.0, {})
    for name in ("ancestral", "ddim"):
        plain = plan(name, "4", 2)
        found = dataclasses.replace(plain, guide=guide).grids(network, torch.arange(2))
        # It is the network itself in another form, and so has no effect.
        assert (found - plain.grids(network, torch.arange(2))).abs().max() < 1e-3


def test_a_guide_that_does_not_fit_is_told_before_anything_runs(
    tmp_path: Path, run: Path, network: Any
) -> None:
    guide = open_guide(run, 2.0)
    without_classes = registry.create("edm2-xxs", **SMALLEST["edm2-xxs"] | {"num_classes": 0})
    for changed, says in (
        ({"network": registry.create("dit-s-2", num_classes=10)}, "grids of (4, 32, 32), not (4, 8, 8)"),
        ({"network": registry.create("dit-s-2", num_classes=3, input_size=8)}, "it has 3 classes, not 10"),
        ({"objective": Own(), "network": without_classes}, "it has objective own, not ddpm"),
    ):
        told = dataclasses.replace(plan("ddim", "2", 2), guide=dataclasses.replace(guide, **changed))
        refused(says, made, network, told, tmp_path / "a.npz")
    refused("needs --guide-model NAME", open_guide, tmp_path / "weights.pt", 2.0)


def test_a_file_of_weights_guides(tmp_path: Path, run: Path, network: Any) -> None:
    overrides = protocols.load("smoke").overrides("udit-t") | {"input_size": 8, "num_classes": 10}
    torch.save(network.state_dict(), tmp_path / "guide.pt")
    guide = open_guide(tmp_path / "guide.pt", 2.0, model=registry.label("udit-t", overrides))
    told = dataclasses.replace(plan("ddim", "2", 2), guide=guide)
    plain, _ = made(network, plan("ddim", "2", 2), tmp_path / "a.npz")
    assert np.array_equal(made(network, told, tmp_path / "b.npz")[0], plain)  # by itself
    assert guide.identity["weights"] and guide.objective.name == "ddpm"


def refused(says: str, function: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(registry.UsageError) as caught:
        function(*args, **kwargs)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_mistakes_are_told_before_anything_runs(tmp_path: Path, run: Path, network: Any) -> None:
    out = tmp_path / "a.npz"
    refused("sampler euler is for objective flow, not ddpm", made, network, plan("euler", "4", 4), out)
    refused("has classes 0 … 9, not 10", made, network, plan("ddim", "4", 4, classes=(3, 10)), out)
    refused("a seed is a number from 0", made, network, plan("ddim", "4", 4, seed=10**23), out)
    refused("num = 0", protocols.changed, open_run(run).defaults, {"num": 0})
    refused("cfg_scale = inf: input should be a finite number", protocols.changed, open_run(run).defaults,
            {"cfg_scale": float("inf")})  # fmt: skip
    refused("cfg_scale = -1", protocols.changed, open_run(run).defaults, {"cfg_scale": -1})
    never = plan("ddim", "4", 4, cfg_scale=1.5, guidance_interval=(1, 200))
    refused("from 1 to 200 is never applied", made, network, never, out)
    between = dataclasses.replace(plan("dopri5", "100", 4, cfg_scale=1.5, guidance_interval=(0.41, 0.42)),
                                  objective=objective("flow"))  # fmt: skip
    between.check(network)  # its times follow from the network
    refused("guidance_interval needs guidance", bench_sample, run, out, guidance_interval=(0, 1))
    refused("guided_channels needs guidance", bench_sample, run, out, guided_channels=2)
    unguided = registry.create("dit-s-4", input_size=8, num_classes=10, depth=1, class_dropout_prob=0.0)
    refused("no null class", made, unguided, plan("ddim", "4", 4, cfg_scale=1.5), out)
    falling = dataclasses.replace(
        plan("ddim", "4", 4, guidance_interval=(900, 100)), guide=open_guide(run, 2.0)
    )
    refused("interval must rise, not go from 900 to 100", made, network, falling, out)
    for name in ("a.png", "a.NPZ"):
        refused(f"{name} is no place for many images", made, network, plan("ddim", "4", 4), tmp_path / name)
    refused("no run.json", open_run, tmp_path)
    refused("no checkpoint of step 5", open_run, run / "checkpoints" / "00000005")
    refused("weights are ema, model, or a width", open_run, run, "emma")
    refused("stores no averages of other widths", open_run, run, "0.08")
    assert list(tmp_path.iterdir()) == []
    out.write_text("mine")
    refused("exists: delete it", made, network, plan("ddim", "4", 2), out)
    assert out.read_text() == "mine"
    for options in ({"vae": "any"}, {"vae_precision": "bf16"}):
        refused("images of digits need no VAE", open_run, run, **options)


@pytest.mark.parametrize(
    "made_of_x", [lambda x: None, lambda x: x[:, :, :4], lambda x: x[:, :3], lambda x: x * math.nan]
)
def test_a_network_that_returns_no_prediction_is_named(tmp_path: Path, made_of_x: Any) -> None:
    class Wrong(registry.Backbone):
        def __init__(self) -> None:
            super().__init__(input_size=8, num_classes=10)

        def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> Any:
            return made_of_x(x)

    with pytest.raises(CodeError, match=r"test_sampling.py, line \d+"):
        made(Wrong(), plan("ddim", "2", 2), tmp_path / "a.npz")


def test_too_little_room_is_found_before_anything_is_made(tmp_path: Path, network: Any) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        refused("cannot make room for 0.8 MB", made, network, plan("ddim", "4", 1000), tmp_path / "a.npz")
        refused("cannot make room for 1.4 MB", export, data.load("digits"), tmp_path / "b.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_the_authors_are_sampled_and_decoded(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4)  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    theirs = registry.create("dit-s-4", depth=1, input_size=8)
    torch.save({"ema": theirs.state_dict()}, tmp_path / "dit.pt")
    overrides = {"depth": 1, "input_size": 8}
    defaults = protocols.load("paper").sampling
    source = open_weights(tmp_path / "dit.pt", "dit-s-4", overrides, defaults, vae=str(tmp_path / "vae"))
    torch.save({"old": theirs.state_dict(), "new": theirs.state_dict()}, tmp_path / "two.pt")
    two_sets = tmp_path / "two.pt", "dit-s-4", overrides, defaults, str(tmp_path / "vae")
    refused("'old', 'new', and 2 of them fit", open_weights, *two_sets)
    chosen = open_weights(*two_sets, key="new").identity
    assert chosen["key"] == "new" and "key" not in source.identity
    shutil.copytree(tmp_path / "vae", tmp_path / "other")
    other = open_weights(tmp_path / "dit.pt", "dit-s-4", overrides, defaults, vae=str(tmp_path / "other"))
    assert other.identity != source.identity  # what is continued has one decoder
    two = plan("ddim", "2", 2)
    sample(source.network, source.to_images, two, tmp_path / "a.npz", identity=source.identity)
    grids = two.grids(theirs.eval(), torch.arange(2))
    decoded = vae.eval().decode(grids / vae.config.scaling_factor).sample
    with np.load(tmp_path / "a.npz") as stored, torch.no_grad():
        levels = torch.from_numpy(stored["arr_0"].astype(np.float32)).permute(0, 3, 1, 2)
        assert (levels - (127.5 * decoded + 128).clamp(0, 255).floor()).abs().max() <= 1


_ADM = ["hidden_size=16", "channel_mult=[1,2]", "num_res_blocks=1", "head_width=16", "norm_num_groups=4",
        "num_classes=10", "new_attention_order=false"]  # fmt: skip
_UVIT = ["hidden_size=32", "depth=2", "num_heads=2"]


@pytest.mark.parametrize(("model", "settings"), [("adm-64", _ADM), ("uvit-s-2-cifar10", _UVIT)])
def test_weights_for_pixels_need_no_decoder(
    tmp_path: Path, run_bench: Any, monkeypatch: pytest.MonkeyPatch, model: str, settings: list[str]
) -> None:
    """From a file of weights to PNGs to scores."""
    monkeypatch.setattr("bench.data.autoencoder.load", None)  # nothing is decoded
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    overrides = parse_overrides(["input_size=16", *settings])
    theirs = registry.create(model, **overrides).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    of_network = [text for setting in ("input_size=16", *settings) for text in ("--set", setting)]
    code, _, err = run_bench("sample", "--checkpoint", tmp_path / "weights.pth", "--model", model,
                             "--out", tmp_path / "made", "--num", 6, "--steps", 4, *of_network)  # fmt: skip
    assert (code, err) == (0, "")
    images = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "made").iterdir())])
    objective_ = objective("ddpm", beta_schedule="cosine" if model == "adm-64" else "linear")
    settings_ = SamplingSettings(sampler="ancestral clip=true", steps="4", num=6)
    grids = Plan(objective_, settings_).grids(theirs, torch.arange(6))
    levels = (127.5 * grids + 128).clamp(0, 255).floor().permute(0, 2, 3, 1).numpy()
    assert images.shape == (6, 16, 16, 3) and np.abs(images - levels).max() <= 1 and images.std() > 5
    code, out, err = run_bench("eval", "--samples", tmp_path / "made", "--reference", tmp_path / "made",
                               "--score", "precision")  # fmt: skip
    assert (code, err) == (0, "") and "1.000" in out


def test_which_weights_make_pixels(tmp_path: Path) -> None:
    defaults = protocols.load("paper").sampling

    def opened(channels: int, **options: Any) -> Source:
        overrides = {"in_channels": channels, "widths": (8, 8, 8), "input_size": 8}
        torch.save(registry.create("tiny-unet", **overrides).state_dict(), tmp_path / "w.pt")
        return open_weights(tmp_path / "w.pt", "tiny-unet", overrides, defaults, **options)

    ramp = torch.linspace(-1.2, 1.2, 64).view(1, 1, 8, 8)
    grey, colour = opened(1), opened(3)
    assert grey.defaults.sampler == colour.defaults.sampler == "ancestral clip=true"
    for made in (grey.to_images(ramp), colour.to_images(ramp.expand(-1, 3, -1, -1))):
        assert made.dtype == np.uint8 and made.shape == (1, 8, 8, 3)
        expected = (127.5 * ramp + 128).clamp(0, 255).floor()[0, 0, ..., None]
        assert np.array_equal(made[0], expected.expand(-1, -1, 3).numpy())
    # Four channels are latents, unless they are said to be pixels: those of a grey image by space-to-depth.
    with pytest.raises(registry.UsageError, match="the VAE 'none' is not on this machine"):
        opened(4, vae="none")
    assert opened(4, pixels=True).to_images(torch.zeros(1, 4, 8, 8)).shape == (1, 16, 16, 3)
    with pytest.raises(registry.UsageError, match="the VAE 'none' is not on this machine"):
        opened(3, vae="none")
    with pytest.raises(registry.UsageError, match="pixels need no decoder"):
        opened(3, vae="none", pixels=True)


def test_a_dataset_is_exported_as_it_is(tmp_path: Path) -> None:
    digits = data.load("digits")
    export(digits, tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as stored:
        assert np.array_equal(stored["arr_0"][..., :1], digits.images(np.arange(len(digits))))
        assert np.array_equal(stored["arr_1"], digits.labels(np.arange(len(digits))).numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["digits.npz"]
    refused("exists: delete it", export, digits, tmp_path / "digits.npz")
    refused("ends in .npz", export, digits, tmp_path / "digits")


def test_an_export_killed_before_it_was_tidied_up_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    digits, out = data.load("digits"), tmp_path / "digits.npz"
    with monkeypatch.context() as patched:
        patched.setattr("bench.utils.arrays.ResumableArrays.delete", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export(digits, out)
    written = out.read_bytes()
    export(digits, out)
    assert out.read_bytes() == written and [path.name for path in tmp_path.iterdir()] == ["digits.npz"]
    with pytest.raises(KeyboardInterrupt):
        export(digits, tmp_path / "b.npz", progress=interrupted)
    (tmp_path / "b.npz").write_bytes(b"somebody's")
    refused("exists: delete it", export, digits, tmp_path / "b.npz")
    assert (tmp_path / "b.npz").read_bytes() == b"somebody's"


def test_a_sheet_lays_images_out_in_lines_with_a_gap(tmp_path: Path) -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(64, 1).repeat(64, 2).repeat(3, 3)
    write_sheet(tmp_path / "p.png", images, 3)
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    assert sheet.shape == (2 * 66 - 2, 3 * 66 - 2, 3)
    assert sheet[::66, ::66, 0].tolist() == [[0, 1, 2], [3, 4, 255]]
    assert (sheet[:, 64:66] == 255).all() and (sheet[64:66] == 255).all()
