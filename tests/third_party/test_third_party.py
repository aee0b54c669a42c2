"""Every command works on networks of other packages, and each adapter has five lines at most."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import registry
from bench.diffusion import objective
from bench.diffusion.translation import translated
from registry.plugins import load_file
from tests.conftest import ROOT

FILE = Path(__file__).with_name("adapters.py")
PACKAGES = {"ddp": "denoising_diffusion_pytorch", "karras": "denoising_diffusion_pytorch"}
NATURAL = {
    "ddp-unet": "ddpm",
    "ddp-unet-x0": "ddpm",
    "karras-unet": "edm",
    "diffusers-dit": "ddpm",
    "diffusers-unet": "flow",
    "diffusers-sd": "ddpm",
    "edm-denoiser": "edm",
}
SAMPLERS = {"ddpm": ("ddim", "4"), "flow": ("heun", "2"), "edm": ("edm-heun", "2")}
TRAINED = [name for name in NATURAL if name != "diffusers-sd"]


@pytest.fixture(scope="module", autouse=True)
def adapters() -> Any:
    """Names that are registered here are gone after the tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.backbones, "_entries", entries := dict(registry.backbones._installed))
        patch.setitem(registry.backbones.__dict__, "_installed", entries)
        load_file(str(FILE))
        yield


def network(name: str, **options: Any) -> Any:
    if package := PACKAGES.get(name.partition("-")[0]):
        pytest.importorskip(package)
    return registry.create(name, **options)


@pytest.mark.parametrize("name", NATURAL)
def test_an_adapter_has_five_lines_at_most(name: str) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(FILE.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    ]
    (adapter,) = [each for each in functions if f"'{name}'" in ast.unparse(each.decorator_list[0])]
    assert adapter.body[-1].end_lineno - adapter.body[0].lineno + 1 <= 5  # type: ignore[operator]


@pytest.mark.parametrize("name", NATURAL)
def test_cost_is_that_of_the_network_itself(name: str, run_bench: Any) -> None:
    net = network(name, input_size=16)
    assert net.objective == NATURAL[name]
    code, out, _ = run_bench("flops", "--plugin", FILE, "-m", name, "--set", "input_size=16", "--json")
    (counted,) = json.loads(out)
    assert code == 0 and counted["parameters"] == sum(p.numel() for p in net.net.parameters())
    # PyTorch's own counter of multiplications and additions, of the network called alone.
    from torch.utils.flop_counter import FlopCounterMode

    x, t, y = net.eval().example_inputs(1)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        net.call(net.net, x, t, y)
    assert 2 * counted["macs"] == pytest.approx(flops.get_total_flops(), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", NATURAL)
def test_its_contract_holds(name: str, run_bench: Any) -> None:
    network(name)
    code, out, err = run_bench("check", "--plugin", FILE, "-m", name, "--set", "input_size=8", "--json")
    results = {result["check"]: result for result in json.loads(out)}
    assert code == 0, (out, err)
    assert results["meaning"]["status"] == "pass"


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_it_is_trained_sampled_and_scored(name: str, run_bench: Any, tmp_path: Path) -> None:
    """Under its natural objective, in the form that `bench train` chooses."""
    network(name)
    plugin = ("--plugin", FILE)
    run, images, reference = (tmp_path / part for part in ("run", "samples.npz", "digits.npz"))
    for arguments in (
        ("train", *plugin, "-m", name, "--protocol", "smoke", "--out", run),
        ("sample", *plugin, "--checkpoint", run, "--num", 16, "--out", images,
         "--sampler", SAMPLERS[NATURAL[name]][0], "--steps", SAMPLERS[NATURAL[name]][1]),
        ("export", "--data", "digits", "--out", reference),
        ("eval", "--samples", images, "--reference", reference),
    ):  # fmt: skip
        code, out, err = run_bench(*arguments)
        assert code == 0, (arguments, out, err)
    losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 4 and all(map(torch.isfinite, torch.tensor(losses)))


@pytest.mark.slow
def test_a_study_of_them_all_is_measured_and_reported(tmp_path: Path) -> None:
    """All under one objective, with one sampler, side by side."""
    names = []
    for name in TRAINED:
        try:
            network(name)
        except pytest.skip.Exception:
            continue
        names.append(name)
    rows = "".join(f'[[rows]]\nlabel = "{name}"\nbackbone = "{name}"\n' for name in names)
    head = 'title = "Of others"\nprotocol = "smoke"\nseeds = [0]\ncolumns = ["params", "gflops", "fid"]\n'
    (tmp_path / "others.toml").write_text(f'{head}training = {{ objective = "ddpm" }}\n{rows}')
    for command in ("ablate", "report"):
        done = subprocess.run(
            [sys.executable, "-m", "bench.cli", command, "others.toml", "--plugin", str(FILE)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "reports" / "others.md").read_text("utf-8")
    assert all(name in page for name in names)


@pytest.mark.slow
def test_all_are_timed_side_by_side(run_bench: Any, tmp_path: Path) -> None:
    models = [part for name in ("diffusers-sd", "diffusers-unet", "edm-denoiser") for part in ("-m", name)]
    code, out, err = run_bench(
        "throughput", "--plugin", FILE, *models, "--input-size", 16, "--repeats", 6, "--batch-size", 2,
        "--sampling", "--steps", 2, "--json", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, (out, err)


def test_a_network_of_diffusers_denoises_as_its_scheduler_has_it() -> None:
    """The noise of a trained DDPM step, and a flow of diffusers' own convention, against its schedulers."""
    from diffusers import DDPMScheduler

    net = network("diffusers-unet", in_channels=4, input_size=8).eval()
    x0, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    # diffusers: x = (1 − σ)·x0 + σ·noise, timestep 1000·σ, and the model gives noise − x0.
    sigma = torch.tensor([0.3, 0.8])
    mixed = (1 - sigma.view(-1, 1, 1, 1)) * x0 + sigma.view(-1, 1, 1, 1) * noise
    with torch.no_grad():
        theirs = net.net(mixed, 1000 * sigma).sample
        ours = net(mixed, 1 - sigma, None)
    assert torch.allclose(ours, -theirs, atol=1e-5)
    # The same network asked for noise at a step: its velocity there, at equal SNR.
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02)
    step = torch.tensor([100, 700])
    x_t = scheduler.add_noise(x0, noise, step)
    a = scheduler.alphas_cumprod[step].view(-1, 1, 1, 1)
    scale = 1 / (a.sqrt() + (1 - a).sqrt())
    with torch.no_grad():
        found = translated(net, objective("ddpm"))(x_t, step, None)
        velocity = -net.net(scale * x_t, (1000 * scale * (1 - a).sqrt()).flatten()).sample
    assert torch.allclose(found, scale * x_t - scale * a.sqrt() * velocity, atol=1e-4)
