"""`bench train`, `bench sample`, `bench export`: what they leave, and how they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import registry
from bench.sampling import plan
from bench.utils import bars
from tests.conftest import ROOT

MICRO = ("train", "--model", "tiny-unet", "--protocol", "micro", "--out")


def begin(*args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.cli", *map(str, args)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


def test_train_sample_and_what_they_leave(run_bench, tmp_path, monkeypatch):
    run = tmp_path / "run"
    code, out, _ = run_bench("train", "-m", "sit-s-2", "--protocol", "smoke", "--out", run)
    assert code == 0 and "is trained to step 8" in out
    assert {path.name for path in run.iterdir()} == {"checkpoints", "log.jsonl", "run.json", "samples"}
    code, _, err = run_bench("sample", "--checkpoint", run, "--sampler", "ddim", "--out", tmp_path / "a.npz")
    assert code == 2 and "sampler ddim is for objective ddpm, not flow" in err
    options = ("--sampler", "heun", "--steps", "2", "--num", "3")
    code, out, _ = run_bench("sample", "--checkpoint", run, "--out", tmp_path / "a.npz", *options)
    assert code == 0 and "3 images in" in out
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["arr_0"].shape == (3, 16, 16, 3) and stored["arr_1"].tolist() == [0, 1, 2]
        images = stored["arr_0"]
    guide = ("--guide", run / "checkpoints" / "00000004")
    for scale in ("1", "3"):
        guided = ("--out", tmp_path / f"{scale}.npz", *guide, "--guide-scale", scale)
        assert run_bench("sample", "--checkpoint", run, *options, *guided)[0] == 0
    assert np.abs(np.load(tmp_path / "1.npz")["arr_0"].astype(int) - images).max() <= 1  # rounded elsewhere
    assert np.abs(np.load(tmp_path / "3.npz")["arr_0"].astype(int) - images).max() > 1
    code, _, err = run_bench("sample", "--checkpoint", run, "--out", tmp_path / "b.npz", *options, *guide)
    assert code == 2 and "give --guide and --guide-scale together" in err
    for alone in (("--guided-channels", 2), ("--guidance-interval", 100, 500)):
        code, _, err = run_bench("sample", "--checkpoint", run, "--out", tmp_path / "b.npz", *options, *alone)
        assert code == 2 and f"{alone[0]} needs guidance" in err
    seen = []

    def told(network, labels, cfg_scale, guided_channels, interval, encoder_every):
        seen.append((cfg_scale, interval, encoder_every))
        return lambda x, t: network(x, t, labels)

    monkeypatch.setattr(plan, "guided", told)
    guidance = ("--cfg-scale", "2", "--guidance-interval")
    code, *_ = run_bench(
        "sample", "--checkpoint", run, "--out", tmp_path / "b.npz", *options, *guidance, 0.125, 1,
        "--encoder-every", 3,
    )  # fmt: skip
    assert code == 0 and set(seen) == {(2, (0.125, 1), 3)}


def test_weights_are_sampled_as_their_backbone_declares(run_bench, tmp_path, monkeypatch):
    from bench.sampling import sources

    monkeypatch.setattr(
        sources, "decoder", lambda *_: lambda grids: np.zeros((len(grids), 8, 8, 3), np.uint8)
    )
    opened, whole = [], sources.Source
    monkeypatch.setattr(sources, "Source", lambda *parts: opened.append(parts) or whole(*parts))
    for name, options in (("sit-s-4", ()), ("uvit-s-2", ("--sampler", "dpm++", "--steps", "2"))):
        network = registry.create(name, depth=2, input_size=8, num_classes=10)
        torch.save(network.state_dict(), tmp_path / "weights.pt")
        overrides = ("-s", "depth=2", "-s", "input_size=8", "-s", "num_classes=10")
        weights = ("--checkpoint", tmp_path / "weights.pt", "--model", name, *overrides)
        how_many = ("--num", "2", *(options or ("--steps", "1")))
        code, _, err = run_bench("sample", *weights, *how_many, "--out", tmp_path / f"{name}.npz")
        assert code == 0, err
    (_, _, flow, defaults, _), (_, _, ddpm, _, _) = opened
    assert flow.name == "flow" and defaults.sampler == "heun"
    assert ddpm.name == "ddpm" and ddpm.betas[0] == pytest.approx(0.00085)


def test_export(run_bench, tmp_path):
    code, out, _ = run_bench("export", "--data", "digits", "--out", tmp_path / "digits.npz")
    assert code == 0 and "1797 images of digits" in out.replace("\n", "")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("train", "--model", "udit-t", "--seed", str(10**22)), "a seed is a number from 0"),
        (("train", "--model", "udit-t", "--set", "depth=1,2"), "depth"),
        (("train", "--model", "udit-t", "--protocol", "mirco"), "Did you mean 'micro'?"),
        (
            ("train", "--model", "udit-t", "--protocol", "smoke", "--tracker", "tensorbord"),
            "tracker tensorbord",
        ),
        (("sample", "--checkpoint", "nowhere"), "no such file or folder: nowhere"),
        (("sample", "--checkpoint", __file__), "is a file of weights: add --model"),
    ],
)
def test_a_mistake_is_one_line(run_bench, tmp_path, args, says):
    code, _, err = run_bench(*args, "--out", tmp_path / "out.npz")
    assert code == 2 and says in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_train_is_one_line_and_its_status(tmp_path, number):
    process = begin(*MICRO, tmp_path / "run")
    wait_for(tmp_path / "run" / "log.jsonl", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and out == ""
    assert (
        err.startswith("stopped at step ")
        and err.endswith("with --resume continues\n")
        and err.count("\n") == 1
    )
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_a_signal_to_sample_is_one_line_and_its_status(run_bench, tmp_path):
    run_bench("train", "-m", "udit-t", "--protocol", "smoke", "--out", tmp_path / "run")
    arguments = ("sample", "--checkpoint", tmp_path / "run", "--out", tmp_path / "a.npz", "--num", 50_000)
    process = begin(*arguments)
    wait_for(tmp_path / ".a.npz.partial", process)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and err == "stopped: the same command resumes\n"


def test_without_a_terminal_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(bars, "EVERY", 0.0)
    with bars.bar() as tell:
        tell("training", 3, 10, "loss 0.50")
        monkeypatch.setattr(bars, "EVERY", 60.0)
        tell("training", 4, 10)
    assert capsys.readouterr().err == "training: 3/10 loss 0.50\n"
