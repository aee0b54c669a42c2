"""Sampling: an image depends on the seed and its number alone, and nothing is lost or overwritten."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import registry
from bench import data
from bench.data import grid
from bench.sampling import Plan, export, open_run, open_weights, sample, write_picture
from bench.training import protocols
from bench.training.loop import train

PLAN = Plan("ddpm", "ancestral", "4", seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train("udit-t", protocols.load("smoke"), out)
    return out


@pytest.fixture(scope="module")
def network(run: Path) -> Any:
    return open_run(run).network


def made(network: Any, plan: Plan, num: int, out: Path, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    sample(network, grid.to_images, plan, num, out, of={}, **options)
    with np.load(out) as stored:
        return stored["arr_0"], stored["arr_1"]


def test_an_npz_in_the_suite_s_form_and_a_folder_hold_the_same_images(tmp_path: Path, network: Any) -> None:
    images, labels = made(network, PLAN, 7, tmp_path / "a.npz", batch_size=4)
    assert images.shape == (7, 16, 16, 3) and images.dtype == np.uint8 and labels.dtype == np.int64
    picture = sample(network, grid.to_images, PLAN, 7, tmp_path / "b", of={}, batch_size=4)
    found = sorted((tmp_path / "b").iterdir())
    assert [path.name for path in found] == [f"{i:06d}.png" for i in range(7)]
    assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in found]), images)
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "a.grid.png", "b", "b.grid.png"}
    assert Image.open(picture).size == (10 * 64, 64)


def test_the_loop_is_the_diffusion_s_own(tmp_path: Path, network: Any) -> None:
    """Against the loop called by hand with the noise that each image is told to have."""
    from bench.diffusion import objective, sampler
    from bench.utils import randomness

    images, labels = made(network, PLAN, 3, tmp_path / "a.npz")
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
    one, _ = made(network, PLAN, 40, tmp_path / "a.npz", batch_size=40)
    other, _ = made(network, PLAN, 40, tmp_path / "b.npz", batch_size=7)
    off = np.abs(one.astype(int) - other)
    assert off.max() <= 1 and (off > 0).mean() < 0.001
    fewer, _ = made(network, PLAN, 20, tmp_path / "c.npz", batch_size=7)
    assert np.array_equal(fewer[:14], other[:14])


def test_labels(tmp_path: Path, network: Any) -> None:
    _, labels = made(network, Plan("ddpm", "ddim", "1", labels="balanced"), 25, tmp_path / "a.npz")
    assert labels.tolist() == [i % 10 for i in range(25)]
    _, labels = made(network, Plan("ddpm", "ddim", "1", classes=(3, 7)), 60, tmp_path / "b.npz")
    assert set(labels) == {3, 7}
    many = Plan("ddpm", "ddim", "1").labels_of(torch.arange(10_000), 10)
    assert np.bincount(many).min() > 850


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"sampler": "ddim"}, {"sampler": "dpm++"}, {"cfg_scale": 3.0}]
)
def test_every_part_of_the_plan_counts(tmp_path: Path, network: Any, change: dict[str, Any]) -> None:
    asked = {"objective": "ddpm", "sampler": "ancestral", "steps": "4", "seed": 1} | change
    one, _ = made(network, PLAN, 4, tmp_path / "a.npz")
    other, _ = made(network, Plan(**asked), 4, tmp_path / "b.npz")
    assert not np.array_equal(one, other)


def test_a_killed_call_goes_on_and_gives_the_same_bytes(tmp_path: Path, run: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(f"""
import os, signal
from bench.sampling import Plan, export, open_run, sample
source = open_run({str(run)!r})
def tell(doing, done, total):
    if done >= 6:
        os.kill(os.getpid(), signal.SIGKILL)
plan = Plan("ddpm", "ancestral", "4", seed=1)
out = {str(tmp_path / "a.npz")!r}
sample(source.network, source.to_images, plan, 10, out, of={{}}, batch_size=3, progress=tell)
""")
    killed = subprocess.run([sys.executable, str(script)], env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "a.npz").exists()
    network, told = open_run(run).network, []
    with pytest.raises(registry.UsageError, match="another question"):
        made(network, Plan("ddpm", "ancestral", "4", seed=2), 10, tmp_path / "a.npz", batch_size=3)
    made(network, PLAN, 10, tmp_path / "a.npz", batch_size=3, progress=lambda *now: told.append(now))
    assert told[0] == ("sampling", 6, 10)
    made(network, PLAN, 10, tmp_path / "b.npz", batch_size=3)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_averaged_weights_are_what_samples(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for part in ("ema", "model"):
        stored = load_file(run / "checkpoints" / "00000008" / f"{part}.safetensors")
        network = open_run(run, part).network
        assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())
    earlier = open_run(run / "checkpoints" / "00000004")
    assert earlier.of["step"] == 4 and not torch.equal(
        next(earlier.network.parameters()), next(open_run(run).network.parameters())
    )


def test_flow_samples_what_it_learned(tmp_path: Path) -> None:
    smoke = protocols.load("smoke")
    how = smoke.model_copy(
        update={
            "training": smoke.training.model_copy(update={"objective": "flow"}),
            "sampling": smoke.sampling.model_copy(update={"sampler": "heun", "steps": "2"}),
        }
    )
    train("sit-s-2", how, tmp_path / "run")
    source = open_run(tmp_path / "run")
    assert source.objective == "flow" and source.usual.sampler == "heun"
    images, _ = made(source.network, Plan("flow", "heun", "2"), 2, tmp_path / "a.npz")
    assert images.shape == (2, 16, 16, 3)


def refused(says: str, function: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(registry.UsageError) as caught:
        function(*args, **kwargs)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_mistakes_are_told_before_anything_runs(tmp_path: Path, run: Path, network: Any) -> None:
    out = tmp_path / "a.npz"
    refused("sampler euler is for objective flow", made, network, Plan("ddpm", "euler", "4"), 4, out)
    refused("has classes 0 … 9, not 10", made, network, Plan("ddpm", "ddim", "4", classes=(3, 10)), 4, out)
    refused("must be at least 1, not 0", made, network, PLAN, 0, out)
    unguided = registry.create("dit-s-4", input_size=8, num_classes=10, depth=1, class_dropout_prob=0.0)
    refused("no null class", made, unguided, Plan("ddpm", "ddim", "4", cfg_scale=1.5), 4, out)
    refused("no run.json", open_run, tmp_path)
    refused("no checkpoint of step 5", open_run, run / "checkpoints" / "00000005")
    assert list(tmp_path.iterdir()) == []
    out.write_text("mine")
    refused("exists: delete it", made, network, PLAN, 2, out)
    assert out.read_text() == "mine"


def test_weights_of_the_authors_are_sampled_and_decoded(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4)  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    theirs = registry.create("dit-s-4", depth=1, input_size=8)
    torch.save({"ema": theirs.state_dict()}, tmp_path / "dit.pt")
    overrides = {"depth": 1, "input_size": 8}
    source = open_weights(tmp_path / "dit.pt", "dit-s-4", overrides, vae=str(tmp_path / "vae"))
    assert (source.usual.sampler, source.usual.steps, source.usual.num) == ("ancestral", "250", 50_000)
    sample(source.network, source.to_images, Plan("ddpm", "ddim", "2"), 2, tmp_path / "a.npz", of=source.of)
    grids = Plan("ddpm", "ddim", "2").grids(theirs.eval(), torch.arange(2))
    decoded = vae.eval().decode(grids / vae.config.scaling_factor).sample
    with np.load(tmp_path / "a.npz") as stored, torch.no_grad():
        levels = torch.from_numpy(stored["arr_0"].astype(np.float32)).permute(0, 3, 1, 2)
        assert (levels - (127.5 * decoded + 128).clamp(0, 255).floor()).abs().max() <= 1


def test_a_dataset_is_exported_as_it_is(tmp_path: Path) -> None:
    digits = data.load("digits")
    export(digits, tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as stored:
        assert np.array_equal(stored["arr_0"][..., :1], digits.images(np.arange(len(digits))))
        assert np.array_equal(stored["arr_1"], digits.labels(np.arange(len(digits))).numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["digits.npz"]
    refused("exists: delete it", export, digits, tmp_path / "digits.npz")
    refused("ends in .npz", export, digits, tmp_path / "digits")


def test_a_picture_lays_images_out_in_rows(tmp_path: Path) -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(64, 1).repeat(64, 2).repeat(3, 3)
    write_picture(tmp_path / "p.png", images, 3)
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    assert sheet.shape == (128, 192, 3)
    assert sheet[::64, ::64, 0].tolist() == [[0, 1, 2], [3, 4, 0]]
