"""Training: it learns, kills and process counts change nothing, and mistakes are told before it begins."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import registry
from bench import data
from bench.data.dataset import MemoryDataset
from bench.diffusion import objective
from bench.diffusion.edm import EDM
from bench.records.schema import SamplingSettings
from bench.sampling import Plan, sample
from bench.training import loop, protocols
from bench.training.loop import train
from bench.training.run import Run, load
from bench.training.trained import open_run
from bench.utils import locks
from bench.utils.process import threads
from registry import contract
from registry.errors import CodeError
from tests.device.checks import trainer_on

SMOKE = protocols.load("smoke")


def protocol(**training: Any) -> protocols.Protocol:
    return SMOKE.model_copy(update={"training": SMOKE.training.model_copy(update=training)})


def weights(run: Path, step: int, part: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{step:08d}" / f"{part}.safetensors")


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_run(a: Path, b: Path, step: int) -> None:
    for part in ("model", "ema", "optimizer"):
        ours, theirs = weights(a, step, part), weights(b, step, part)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part


def run_python(code: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*launch, code], capture_output=True, text=True, check=False, env=dict(os.environ))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 steps that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = train("udit-t", protocol(steps=24, checkpoint_every=6, keep=0), out, seed=3)
    assert done.step == 24 and not done.interrupted
    return out


# ---- that it learns ----


@pytest.mark.parametrize("name", ["ddpm", "flow"])
@pytest.mark.slow
def test_the_loss_of_one_image_falls_far_below_a_constant_predictor_s(tmp_path: Path, name: str) -> None:
    one = MemoryDataset(np.full((16, 8, 8, 1), 200, np.uint8), np.zeros(16, int), ["only"])
    data.register(f"one-image-{name}")(lambda: one)
    settings = protocol(steps=150, batch_size=16, learning_rate=3e-3, log_every=25, checkpoint_every=150)
    overrides = {"input_size": 4, "patch_size": 2}
    model = {"ddpm": "dit-s-2", "flow": "sit-s-2"}[name]
    train(model, settings, tmp_path / "run", data=f"one-image-{name}", overrides=overrides)
    assert Run(tmp_path / "run").manifest.request.training.objective == name
    # Predicting 0 for standard normal noise costs 1; for x0 − noise it costs 1 + x0².
    constant = 1.0 if name == "ddpm" else 1 + (200 / 127.5 - 1) ** 2
    assert logged(tmp_path / "run")[-1]["mse"] < 0.35 * constant


def test_every_step_is_adamw_on_the_mean_loss(tmp_path: Path) -> None:
    """Two steps by hand, from the data and random numbers that the run tells, with PyTorch's plain AdamW."""
    from bench.utils import randomness

    settings = protocol(
        steps=2, batch_size=6, checkpoint_every=1, keep=0, log_every=1, clip=0.5, warmup=3, ema_decay=0.7,
        betas=(0.8, 0.95),
    )  # fmt: skip
    out = tmp_path / "run"
    overrides = {"class_dropout_prob": 0.5}
    train("dit-s-4", settings, out, seed=5, overrides=overrides)
    torch.manual_seed(5)
    network = registry.create(
        "dit-s-4", input_size=8, num_classes=10, **SMOKE.overrides("dit-s-4"), **overrides
    )
    average = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(
        network.parameters(), weight_decay=0.0, lr=1.0, betas=(0.8, 0.95), foreach=False
    )
    digits, ddpm = data.load("digits"), objective("ddpm")
    order, places = randomness.permutation(5, "order", len(digits)), torch.arange(6)
    for step in range(2):
        indices = order[6 * step : 6 * step + 6]
        x0, y = digits.grids(indices), digits.labels(indices)
        u = randomness.uniform(5, "time", places, 2, step)
        noise = randomness.normal(5, "training noise", places, (4, 8, 8), step)
        t = (u[:, 0] * 1000).long()
        y = torch.where(u[:, 1] < 0.5, 10, y)
        x_t = ddpm.add_noise(x0, noise, t)
        loss = ddpm.losses(network.eval()(x_t, t, y), x0, noise, x_t, t)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1) / 4
        optimizer.step()
        for name, value in network.state_dict().items():
            average[name] = 0.7 * average[name] + 0.3 * value
        entry = logged(out)[step]
        assert entry["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert entry["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    for part, expected in (("model", network.state_dict()), ("ema", average)):
        found = weights(out, 2, part)
        assert all(torch.allclose(found[name], expected[name], atol=2e-6) for name in found)


def test_samples_that_cannot_be_made_do_not_end_the_training(tmp_path: Path, monkeypatch: Any) -> None:
    def images(_: Plan, network: Any, *__: Any) -> Any:
        raise CodeError("10 of 20 output values are not finite", network)

    monkeypatch.setattr(loop.Plan, "images", images)
    with pytest.warns(UserWarning, match="no sheet of samples: 10 of 20 output values are not finite"):
        result = train("tiny-unet", protocol(steps=2, checkpoint_every=1), tmp_path / "run")
    assert result.step == 2 and len(Run(tmp_path / "run").checkpoints()) == 2


def test_a_protocol_without_samples_makes_none_at_checkpoints(tmp_path: Path) -> None:
    judged = {"samples": False, "held_out": {"images": 64}}
    made = protocols.parse(SMOKE.model_dump() | {"evaluation": judged})
    train("tiny-unet", made, tmp_path / "run")
    assert len(Run(tmp_path / "run").checkpoints()) == 2 and not (tmp_path / "run" / "samples").exists()


def test_a_stratified_objective_spreads_the_times_of_each_whole_batch(
    tmp_path: Path, monkeypatch: Any
) -> None:
    drawn: list[torch.Tensor] = []

    def sample_timesteps(self: EDM, u: torch.Tensor) -> torch.Tensor:
        drawn.append(u)
        return 1 + u

    monkeypatch.setattr(EDM, "sample_timesteps", sample_timesteps)
    made = protocol(steps=2, checkpoint_every=2, objective="edm stratified=true")
    train("hdit-cifar10", made, tmp_path / "run", accumulation=2)
    for batch in torch.cat(drawn).view(2, -1):
        assert (batch * len(batch)).floor().tolist() == list(range(len(batch)))


@pytest.mark.slow
def test_an_objective_of_one_s_own_has_options_and_a_preview(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import bench, bench.diffusion, torch
from bench.diffusion.flow import Flow
from bench.training.trained import open_run
@bench.diffusion.objectives.register("shifted")
class Shifted(Flow):
    "Times nearer to the noise."
    preview = ("two", "2")
    def __init__(self, shift: float = 1.0):
        self.shift = shift
    def sample_timesteps(self, u):
        return u ** self.shift
@bench.diffusion.samplers.register("two")
class Two(bench.diffusion.Sampler):
    "Nothing."
    objectives = ("shifted",)
    def __init__(self, scale: float = 1.0):
        self.scale = scale
    def loop(self, objective, denoiser, x, noise, steps):
        return self.scale * x / objective.shift
out = {str(tmp_path / "run")!r}
bench.train("tiny-unet", out, protocol="smoke", objective="shifted shift=2.00")
source = open_run(out)
assert source.objective.shift == 2 and source.identity["run"]["training"]["objective"] == "shifted shift=2"
for name in ("two", "two scale=3"):
    bench.sample(out, out + name + ".npz", sampler=name, steps="2", num=2)
""")
    done = run_python(str(script))
    assert not done.returncode, done.stderr
    run = tmp_path / "run"
    assert len(list((run / "samples").glob("*.png"))) == len(Run(run).checkpoints())
    small, large = (np.load(f"{run}{name}.npz")["arr_0"].astype(float) for name in ("two", "two scale=3"))
    inside = (large > 0) & (large < 255)  # 127.5·x + 128, cut to an integer
    assert np.abs((large - 128) - 3 * (small - 128))[inside].max() <= 4


@pytest.mark.slow
def test_accumulation_changes_nothing_but_rounding(tmp_path: Path, whole: Path) -> None:
    train("udit-t", protocol(steps=24, checkpoint_every=24), tmp_path / "run", seed=3, accumulation=4)
    losses = [[entry["loss"] for entry in logged(run)] for run in (whole, tmp_path / "run")]
    assert np.allclose(*losses, rtol=1e-4)


# ---- kills and processes ----

KILLED = """
import os, signal, sys
import torch
torch.set_num_threads({threads})
from bench.training import protocols
from bench.training import run
from bench.training import loop as training
import safetensors.torch
smoke = protocols.load("smoke")
settings = smoke.model_copy(update={{"training": smoke.training.model_copy(update=dict(
    steps=24, checkpoint_every=6, keep=0))}})
calls = 0
def dying(function, at):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == at:
            if {half}:
                open(args[1], "wb").write(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
{patch}
training.train("udit-t", settings, {out!r}, seed=3, resume=True)
"""


@pytest.mark.slow
def test_a_run_keeps_the_number_of_threads_that_it_was_begun_with(tmp_path: Path, monkeypatch: Any) -> None:
    seen, take_step = [], loop.Trainer.take_step

    def step(trainer: loop.Trainer) -> dict[str, torch.Tensor]:
        seen.append(torch.get_num_threads())
        return take_step(trainer)

    monkeypatch.setattr(loop.Trainer, "take_step", step)
    before = torch.get_num_threads()
    for there, until in ((2, 1), (1, 2)):
        with threads(there):
            train("tiny-unet", protocol(steps=2), tmp_path / "run", until=until, resume=True)
            assert torch.get_num_threads() == there
    assert seen == [2, 2] and Run(tmp_path / "run").manifest.threads == 2
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_kills_at_any_moment_leave_the_same_weights(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    step = "training.Trainer.take_step = dying(training.Trainer.take_step, {})"
    save = "safetensors.torch.save_file = dying(safetensors.torch.save_file, {})"
    # In the middle of steps before and after a checkpoint, and while each file of one is written.
    for patch, half, newest in [(step.format(4), False, None), (save.format(3), True, None),
                                (step.format(10), False, 6), (save.format(5), True, 6)]:  # fmt: skip
        script = tmp_path / "killed.py"
        script.write_text(
            KILLED.format(patch=patch, half=half, out=str(out), threads=torch.get_num_threads())
        )
        ended = run_python(str(script))
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        found = Run(out).checkpoints()
        assert (int(found[-1].name) if found else None) == (12 if (half and newest == 6) else newest)
        for path in found:
            load(path)  # whole
    done = train("udit-t", protocol(steps=24, checkpoint_every=6, keep=0), out, seed=3, resume=True)
    assert done.step == 24
    assert_same_run(whole, out, 24)
    drop = ("images_per_second",)
    logs = [[{k: v for k, v in e.items() if k not in drop} for e in logged(run)] for run in (whole, out)]
    assert logs[0] == logs[1]
    assert not list((out / "checkpoints").glob(".bench-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_stops(tmp_path: Path, whole: Path, number: int) -> None:
    out = tmp_path / "run"
    settings = protocol(steps=24, checkpoint_every=24)

    def interrupt(entry: dict[str, Any]) -> None:
        if entry["step"] == 10:
            os.kill(os.getpid(), number)

    stopped = train("udit-t", settings, out, seed=3, log=interrupt)
    assert (stopped.interrupted, stopped.signal, stopped.step) == (True, number, 10)
    assert [int(path.name) for path in Run(out).checkpoints()] == [stopped.step]
    assert train("udit-t", settings, out, seed=3, resume=True).step == 24
    assert_same_run(whole, out, 24)


@pytest.mark.slow
def test_a_signal_that_comes_with_the_last_checkpoint_is_told(tmp_path: Path) -> None:
    def progress(description: str, done: int, total: int) -> None:
        if description == "writing a checkpoint" and done == total:
            os.kill(os.getpid(), signal.SIGTERM)

    result = train("udit-t", protocol(steps=4, checkpoint_every=4), tmp_path / "run", progress=progress)
    # All is done, so that nothing was interrupted; who goes on to more work must stop.
    assert (result.step, result.end, result.interrupted) == (4, 4, False)
    assert result.signal == signal.SIGTERM


TWO = """
import sys
import torch
from bench import sampling
from bench.diffusion import objective
from bench.diffusion.edm import EDM
from bench.training import protocols
from bench.training import loop as training
out, num = sys.argv[1] if len(sys.argv) > 1 else {out!r}, 11
smoke = protocols.load("smoke")
settings = smoke.model_copy(update={{"training": smoke.training.model_copy(update=dict(
    steps=24, checkpoint_every=6, keep=0))}})
training.train("udit-t", settings, {out!r}, seed=3)
from bench.records.schema import SamplingSettings
from bench.training.trained import open_run
source = open_run({whole!r})
settings = SamplingSettings(sampler="ancestral", steps="5", num=num, batch_size=3)
plan = sampling.Plan(objective("ddpm"), settings, seed=2)
sampling.sample(source.network, source.to_images, plan, {npz!r}, identity={{}})
"""


@pytest.mark.slow
def test_two_processes_see_what_one_sees(tmp_path: Path, whole: Path) -> None:
    script = tmp_path / "two.py"
    out, npz = tmp_path / "run", tmp_path / "two.npz"
    script.write_text(TWO.format(out=str(out), whole=str(whole), npz=str(npz)))
    ended = run_python(str(script), processes=2)
    assert ended.returncode == 0, ended.stderr
    assert np.allclose(*([e["loss"] for e in logged(run)] for run in (whole, out)), rtol=1e-4)
    for part in ("model", "ema"):  # gradients are added up in another order
        one, two = weights(whole, 24, part), weights(out, 24, part)
        assert all(torch.allclose(one[name], two[name], rtol=0, atol=2e-4) for name in one), part
    source = open_run(whole)
    settings = SamplingSettings(sampler="ancestral", steps="5", num=11, batch_size=3)
    sample(
        source.network,
        source.to_images,
        Plan(objective("ddpm"), settings, seed=2),
        tmp_path / "one.npz",
        identity={},
    )
    assert (tmp_path / "one.npz").read_bytes() == npz.read_bytes()


UNUSED = """
import torch, registry
from bench.training import protocols
from bench.training.loop import train
from registry.networks.tiny_unet import TinyUNet


@registry.register("has-a-part-that-is-not-used")
class Unused(TinyUNet):
    def __init__(self, input_size: int = 8, in_channels: int = 4, num_classes: int = 10):
        super().__init__(input_size=input_size, in_channels=in_channels, num_classes=num_classes)
        self.token = torch.nn.Parameter(torch.ones(3))


smoke = protocols.load("smoke")
settings = smoke.training.model_copy(update={"steps": 4, "checkpoint_every": 4})
train("has-a-part-that-is-not-used", smoke.model_copy(update={"training": settings}), OUT)
"""


@pytest.mark.slow
def test_two_processes_train_a_network_with_a_part_that_is_not_used(tmp_path: Path) -> None:
    for processes in (1, 2):
        script = tmp_path / f"{processes}.py"
        script.write_text(f"OUT = {str(tmp_path / str(processes))!r}\n{UNUSED}")
        ended = run_python(str(script), processes=processes)
        assert ended.returncode == 0, ended.stderr
    one, two = (logged(tmp_path / name) for name in ("1", "2"))
    assert np.allclose([e["loss"] for e in one], [e["loss"] for e in two], rtol=1e-4)


# ---- mistakes ----


def refused(says: str, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(registry.UsageError) as caught:
        train(*args, **kwargs)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_what_does_not_fit_is_told_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused("a batch of 2000 is more than the 1797 images", "udit-t", protocol(batch_size=2000), out)
    refused("cannot be cut into 3 equal parts", "udit-t", protocol(), out, accumulation=3)
    refused("takes grids of (3, 8, 8), but those of digits are (4, 8, 8)", "udit-t", protocol(), out,
            overrides={"in_channels": 3})  # fmt: skip
    refused("takes grids of (4, 16, 16)", "udit-t", protocol(), out, overrides={"input_size": 16})
    refused("has 9 classes, but digits has 10", "udit-t", protocol(), out, overrides={"num_classes": 9})
    refused("unknown backbone 'udit-x'", "udit-x", protocol(), out)
    refused("unknown dataset 'digit'", "udit-t", protocol(), out, data="digit")
    refused("no option 'width'", "udit-t", protocol(), out, overrides={"width": 3})
    assert not out.exists()


def test_a_folder_is_continued_only_by_the_same_run(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    before = (out / "run.json").read_bytes()
    refused("already holds a run", "udit-t", protocol(), out, seed=3)
    more = {"out": out, "resume": True}
    refused("started with seed = 3, not 4", "udit-t", protocol(), seed=4, **more)
    refused("model = 'udit-t', not 'dit-unet'", "dit-unet", protocol(), seed=3, **more)
    refused(
        "training.learning_rate = 0.001, not 0.1",
        "udit-t",
        protocol(learning_rate=0.1),
        seed=3,
        **more,
    )
    refused(
        "config.cosine = True, not False",
        "udit-t",
        protocol(),
        seed=3,
        overrides={"cosine": False},
        **more,
    )
    assert (out / "run.json").read_bytes() == before
    longer = train("udit-t", protocol(steps=26, checkpoint_every=13, keep=1), out, seed=3, resume=True)
    assert longer.step == 26 and [path.name for path in Run(out).checkpoints()] == ["00000026"]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    file = out / "checkpoints" / "00000024" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(f"the checkpoint {file} is damaged", "udit-t", protocol(steps=30), out, seed=3, resume=True)
    file.write_bytes((whole / file.relative_to(out)).read_bytes())
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # a bit of a weight
    file.write_bytes(content)
    refused(f"the checkpoint {file} is damaged (its content is not that of its checksum", "udit-t",
            protocol(steps=30), out, seed=3, resume=True)  # fmt: skip
    with pytest.raises(registry.UsageError, match=f"delete {file.parent}"):
        open_run(out)
    shutil.rmtree(file.parent)
    assert train("udit-t", protocol(steps=24, checkpoint_every=6), out, seed=3, resume=True).step == 24
    assert_same_run(whole, out, 24)


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    images = np.zeros((64, 16, 16, 1), np.uint8)

    class Spoiled(MemoryDataset):
        def grids(self, indices: np.ndarray, flip: np.ndarray | None = None) -> torch.Tensor:
            made = super().grids(indices, flip)
            self.asked = getattr(self, "asked", 0) + 1
            return made * math.nan if self.asked == 7 else made  # the first call is the check before step 0

    data.register("spoiled")(lambda: Spoiled(images, np.zeros(64, int), ["only"]))
    says = "the loss is not finite at step 5"
    refused(
        says, "dit-s-4", protocol(steps=20, checkpoint_every=4, log_every=4), tmp_path / "run", data="spoiled"
    )
    assert [int(path.name) for path in Run(tmp_path / "run").checkpoints()] == [4]


@pytest.mark.slow
def test_no_room_on_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    out, calls = tmp_path / "run", []
    save_file = safetensors.torch.save_file

    def full(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    refused("No space left on device; the last good one is that of step 4", "udit-t", protocol(), out)
    monkeypatch.undo()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["00000004"]
    load(Run(out).checkpoint())


def test_a_plain_module_trains_too(tmp_path: Path) -> None:
    class Plain(torch.nn.Module):
        def __init__(self, num_classes: int = 10) -> None:
            super().__init__()
            self.input_size = 8
            self.layer, self.drop = torch.nn.Conv2d(4, 4, 1), torch.nn.Dropout(0.5)

        def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.drop(self.layer(x))

    registry.register("plain-trained")(Plain)
    for name in ("a", "b"):  # its own randomness repeats too
        train("plain-trained", protocol(), tmp_path / name, overrides={"num_classes": 10})
    assert_same_run(tmp_path / "a", tmp_path / "b", 8)


class Unsure(registry.Backbone):
    """Learns a scale, its uncertainty u and a loss of its own."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(input_size=8, num_classes=num_classes)
        self.scale, self.u, self.far = (torch.nn.Parameter(torch.tensor(v)) for v in (0.5, 0.3, 2.0))

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> Any:
        if not self.training:
            return x * self.scale
        far = {"far": (self.far - t).square()}
        return registry.TrainingOutput(x * self.scale, self.u.expand(len(x)), far)


def test_what_a_network_returns_in_training_besides_its_prediction_is_trained(tmp_path: Path) -> None:
    registry.register("unsure")(Unsure)
    train("unsure", protocol(steps=2, log_every=1), tmp_path / "run", overrides={"num_classes": 10})
    for entry, u in zip(logged(tmp_path / "run"), (0.3, 0.299), strict=True):  # AdamW's step is its rate
        expected = entry["mse"] * math.exp(-u) + u + entry["far"]  # exactly, as u is that of all samples
        assert entry["log_variance"] == pytest.approx(u, abs=1e-5)
        assert entry["loss"] == pytest.approx(expected, rel=1e-5)
    learned = weights(tmp_path / "run", 2)
    assert all(abs(learned[name] - value) > 1e-3 for name, value in Unsure().state_dict().items())
    results = {result.check: result for result in contract.check(registry.create("unsure"))}
    assert results["gradients"].reason == "finite and not zero at all 3 parameters"
    assert results["train equals eval"].status == "pass"


@pytest.mark.parametrize("name", ["edm", "ddpm"])
@pytest.mark.slow
def test_forced_weight_normalisation_goes_on_to_the_bit(tmp_path: Path, name: str) -> None:
    for until in (4, None):
        train("edm2-xs", protocol(), tmp_path / "parts", objective=name, until=until, resume=True)
    train("edm2-xs", protocol(), tmp_path / "whole", objective=name)
    assert_same_run(tmp_path / "parts", tmp_path / "whole", 8)
    # Filters of 45 normal numbers as they are drawn are 10% off; the last step of Adam moves them by 1e-3.
    stored = weights(tmp_path / "whole", 8)["encoder.8x8.conv.weight"].flatten(1)
    assert (stored.square().mean(1).sqrt() - 1).abs().max() < 2e-3
    assert logged(tmp_path / "whole")[-1]["log_variance"] != 0


def test_a_loss_of_the_network_s_own_has_a_name_of_its_own() -> None:
    x, t = torch.zeros(2, 4, 8, 8), torch.zeros(2, dtype=torch.int64)
    named = registry.TrainingOutput(x, losses={"mse": torch.zeros(2)})
    with pytest.raises(registry.UsageError, match="a loss 'mse', which ddpm has: rename it"):
        objective("ddpm").training_losses(named, x, x, x, t)


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({}, r"\(4, 32, 32\), but those of digits are \(4, 8, 8\): .* the option input_size"),
        ({"in_channels": 3}, "the option in_channels and input_size"),
        ({"input_size": 8}, "has 1000 classes, but digits has 10: .* the option num_classes"),
    ],
)
def test_a_module_that_cannot_be_fitted_is_told_which_option_it_lacks(
    tmp_path: Path, attributes: dict[str, int], told: str
) -> None:
    class Fixed(torch.nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(4, 4, 3, padding=1)
            vars(self).update(attributes)

    name = f"fixed-{len(told)}"
    registry.register(name)(Fixed)
    with pytest.raises(registry.UsageError, match=told):
        train(name, protocol(), tmp_path / "run")


def test_weights_may_be_tied_shared_or_channels_last(tmp_path: Path) -> None:
    class Shared(torch.nn.Module):
        def __init__(self, num_classes: int = 10) -> None:
            super().__init__()
            self.input_size = 8
            self.first, self.second = (torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
            self.second.weight = self.first.weight
            table = torch.randn(2, 4, 1, 1)
            self.register_buffer("scale", table[0])
            self.register_buffer("shift", table[1])
            self.turn = torch.nn.Parameter(torch.ones(4, 1, 1, dtype=torch.complex64))
            self.to(memory_format=torch.channels_last)

        def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            x = self.second(self.first(x)) * self.scale + self.shift
            x = x * self.turn
            return x.real + x.imag

    registry.register("shared-weights")(Shared)
    overrides, settings = {"num_classes": 10}, protocol(posthoc_ema=(0.05, 0.1))
    train("shared-weights", settings, tmp_path / "whole", overrides=overrides)
    train("shared-weights", settings, tmp_path / "parts", overrides=overrides, until=4)
    train("shared-weights", settings, tmp_path / "parts", overrides=overrides, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 8)
    averaged = open_run(tmp_path / "whole", weights="0.1").network.turn
    assert averaged.imag.any()
    stored = weights(tmp_path / "whole", 8)
    assert torch.equal(stored["first.weight"], stored["second.weight"])
    assert not torch.equal(stored["scale"], stored["shift"])


class Nothing(registry.Backbone):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(input_size=8, num_classes=num_classes)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x


class Expanded(Nothing):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("table", torch.zeros(1).expand(4))


class ExtraState(Nothing):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 1}


class Hooked(Nothing):
    """Its state dict has the weights in another layout."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.weight = torch.nn.Parameter(torch.ones(2, 3))
        self.register_state_dict_post_hook(self.turn)
        self.register_load_state_dict_pre_hook(lambda _module, state, *_: self.turn(self, state))

    @staticmethod
    def turn(_module: torch.nn.Module, state: dict[str, torch.Tensor], *_: Any) -> None:
        state["weight"] = state["weight"].T.contiguous()


class Drawn(Nothing):
    """Its table is another in each process."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.weight = torch.nn.Parameter(torch.zeros(1))  # closed at first
        self.table = torch.randn(8)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + self.weight * self.table


class NullUntrained(Nothing):
    """Declares a null class, but drops no label."""

    null_class = 10

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.label = torch.nn.Embedding(num_classes + 1, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * self.label(y)[..., None, None]


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (NullUntrained, "in training no gradient reaches its weights in label.weight"),
        (Drawn, "drawn numbers that are no buffer"),
        (Nothing, "no trainable parameter"),
        (Expanded, "table of .* an expanded tensor"),
        (ExtraState, "_extra_state of .* is dict"),
        (Hooked, "weight of .* made by a hook"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is_written(
    tmp_path: Path, network: type, text: str
) -> None:
    name = f"untrainable-{network.__name__}"
    registry.register(name)(network)
    with pytest.raises(CodeError, match=rf"{text}.*test_training.py, line \d+"):
        train(name, protocol(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class OtherInputs(Nothing):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def example_inputs(self, batch_size: int = 1) -> tuple[torch.Tensor, ...]:
        return torch.randn(batch_size, 4, 8, 8), torch.randn(batch_size, 5, 3), torch.ones(batch_size)


def test_a_network_with_other_inputs_is_not_trained(tmp_path: Path) -> None:
    registry.register("x-text-t")(OtherInputs)
    refused("other inputs than x (N, C, H, W), t (N,) and y (N,): it can be counted and timed, not trained",
            "x-text-t", protocol(), tmp_path / "run")  # fmt: skip


# ---- runs that cannot be mixed ----


def test_a_run_is_continued_by_the_same_code_alone(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    monkeypatch.setattr(type(registry.backbones), "fingerprint", lambda *_: "0123456789ab")
    refused("started with other code of udit-t", "udit-t", protocol(steps=30), out, seed=3, resume=True)


def test_a_run_is_continued_by_the_same_version_of_the_trainer_alone(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    monkeypatch.setattr("bench.training.loop.VERSION", 0)
    refused(
        "started with versions.trainer = 1, not 0", "udit-t", protocol(steps=30), out, seed=3, resume=True
    )


def test_a_run_on_a_dataset_of_one_s_own_is_continued_with_its_code_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.full((16, 8, 8, 1), 200, np.uint8)
    data.register("own-set")(lambda: MemoryDataset(images, np.zeros(16, int), ["only"]))
    out = tmp_path / "run"
    train("dit-s-2", protocol(), out, data="own-set", overrides={"input_size": 4}, until=4)
    assert Run(out).manifest.request.plugins.keys() == {"dataset"}
    original = type(data.datasets).fingerprint
    monkeypatch.setattr(
        type(data.datasets), "fingerprint",
        lambda self, name: "0123456789ab" if self is data.datasets else original(self, name),
    )  # fmt: skip
    refused("started with other code of the dataset", "dit-s-2", protocol(), out, data="own-set", resume=True)
    monkeypatch.undo()
    assert train("dit-s-2", protocol(), out, data="own-set", resume=True).step == 8


def test_float16_is_for_cuda(tmp_path: Path) -> None:
    refused("fp16 needs a CUDA device", "udit-t", protocol(precision="fp16"), tmp_path / "run")


@pytest.mark.slow
def test_two_processes_cannot_train_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.5)
    out = tmp_path / "run"
    script = tmp_path / "holds.py"
    script.write_text(f"""
import sys, time
from bench.training.run import Run
with Run({str(out)!r}).locked():
    print("held", flush=True)
    time.sleep(60)
""")
    holder = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=dict(os.environ))
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    try:
        refused(f"{out} is in use by process {holder.pid} on ", "udit-t", protocol(), out)
        assert not (out / "run.json").exists()
    finally:
        holder.kill()  # what it leaves behind is no obstacle
        holder.wait()
        holder.stdout.close()
    assert train("udit-t", protocol(steps=2, checkpoint_every=2), out).step == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[" * 10_000, b"[]", b"{}", b'{"request": 3}', b'{"request": {"model": ["x"]}}'],
    ids=["empty", "no text", "nested", "list", "no key", "number", "wrong type"],
)
def test_a_damaged_run_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_bytes(content)
    refused(f"{out}/run.json", "udit-t", protocol(), out, resume=True)
    with pytest.raises(registry.UsageError, match=r"run\.json"):
        open_run(out)


@pytest.mark.slow
def test_until_stops_at_a_step_that_is_no_end(tmp_path: Path, whole: Path) -> None:
    out, settings = tmp_path / "run", protocol(steps=24, checkpoint_every=100, keep=0)
    assert train("udit-t", settings, out, seed=3, until=12).step == 12
    assert train("udit-t", settings, out, seed=3, resume=True).step == 24
    assert_same_run(whole, out, 12)
    assert_same_run(whole, out, 24)


# ---- a user's own code ----


def test_an_exception_of_a_dataset_keeps_its_place(tmp_path: Path) -> None:
    class Broken(MemoryDataset):
        workers = 2

        def grids(self, indices: np.ndarray, flip: np.ndarray | None = None) -> torch.Tensor:
            if len(indices) > 1:
                raise KeyError("mine")
            return super().grids(indices, flip)

    images = np.zeros((64, 16, 16, 1), np.uint8)
    data.register("broken")(lambda: Broken(images, np.zeros(64, int), ["only"]))
    with pytest.raises(KeyError, match="mine") as caught:
        train("dit-s-4", protocol(), tmp_path / "run", data="broken")
    assert caught.traceback[-1].path == Path(__file__)


@pytest.mark.parametrize("wrong", [lambda x: None, lambda x: x[:, :3]])
def test_a_network_that_returns_no_prediction_is_named(tmp_path: Path, wrong: Any) -> None:
    class Wrong(registry.Backbone):
        def __init__(self, num_classes: int = 10) -> None:
            super().__init__(input_size=8, num_classes=num_classes)
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> Any:
            return wrong(x * self.weight)

    name = f"wrong-{id(wrong)}"
    registry.register(name)(Wrong)
    with pytest.raises(CodeError, match=r"test_training.py, line \d+"):
        train(name, protocol(), tmp_path / "run")


def test_steps_that_overflow_float16_are_skipped_and_counted(tmp_path: Path) -> None:
    trainer = trainer_on(torch.device("cpu"), "tiny-unet", tmp_path, protocols.load("smoke"))
    trainer.step = 4

    def entry(*norms: float) -> dict[str, Any]:
        recent = [{"loss": torch.tensor(0.5), "gradient_norm": torch.tensor(norm)} for norm in norms]
        return trainer._entry(recent, 1.0)

    assert "skipped" not in entry(1.0, 2.0)
    trainer.scaler = torch.amp.GradScaler("cpu")
    assert (found := entry(math.inf, 1.0, math.nan, 2.0))["gradient_norm"] == 1.5 and found["skipped"] == 2
    assert (found := entry(1.0, 3.0))["gradient_norm"] == 2.0 and found["skipped"] == 0
    assert "gradient_norm" not in entry(math.inf) and "Infinity" not in (tmp_path / "log.jsonl").read_text()


@pytest.mark.slow
def test_noise_of_a_posterior_is_the_same_on_the_device_as_in_a_worker(tmp_path: Path) -> None:
    digits = data.load("digits")

    class Uncertain(MemoryDataset):
        posterior = True

        def grids(
            self, indices: np.ndarray, flip: np.ndarray | None = None, noise: torch.Tensor | None = None
        ) -> torch.Tensor:
            mean = super().grids(indices, flip)
            return mean if noise is None else torch.addcmul(mean, mean.abs(), noise)

    class Told(Uncertain):
        def moments(self, indices: np.ndarray, flip: np.ndarray | None = None) -> torch.Tensor:
            mean = MemoryDataset.grids(self, indices, flip)
            return torch.stack([mean, mean.abs()], 1)

        def drawn(self, moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return torch.addcmul(moments[:, 0], moments[:, 1], noise)

    images, labels = digits.images(np.arange(len(digits))), digits.labels(np.arange(len(digits))).numpy()
    weights = []
    for name, kind in (("uncertain", Uncertain), ("told", Told), ("digits", None)):
        if kind:
            data.register(name)(lambda kind=kind: kind(images, labels, digits.class_names))
        train("tiny-unet", SMOKE, tmp_path / name, data=name, accumulation=2)
        weights.append(load_file(tmp_path / name / "checkpoints/00000008/model.safetensors"))
    one, other, plain = weights
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not all(torch.equal(value, plain[name]) for name, value in one.items())
