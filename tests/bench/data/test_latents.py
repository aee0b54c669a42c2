"""Latents on disk: equal to what diffusers gives directly, whole after a kill, damage named."""

import json
import math
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

import bench.data
import bench.diffusion
import registry
from bench.data import autoencoder, grid, latents
from bench.data.dataset import MemoryDataset
from bench.data.encoding import encode
from bench.data.folder import Folder
from bench.data.latents import INDEX, read_index
from bench.records.schema import SamplingSettings
from bench.sampling import Plan
from bench.sampling import plan as sampling_plan
from bench.sampling.sources import decoder
from bench.utils import precision, randomness
from registry.errors import UsageError
from tests.conftest import SMALLEST

COUNT, SIDE, SCALE = 11, 32, 0.5


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny AutoencoderKL with random weights that reduces sides by 2."""
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        scaling_factor=SCALE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        array = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        path = root / "cat dog fox".split()[number % 3] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(array).save(path)
    return root


@pytest.fixture(scope="module")
def encoded(vae: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoded") / "latents"
    encode(Folder(photos, SIDE), out, str(vae), posterior="sample", batch_size=3, shard_size=4)
    return out


@pytest.fixture(scope="module")
def moments(vae: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("moments") / "latents"
    encode(Folder(photos, SIDE), out, str(vae), batch_size=3, shard_size=4)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


# ---- equal to diffusers ----


def test_latents_are_those_of_diffusers(encoded: Path, vae: Path, photos: Path) -> None:
    data = bench.data.load("latents", root=str(encoded))
    data.check()
    assert (data.shape, len(data), data.class_names) == ((4, 16, 16), COUNT, ["cat", "dog", "fox"])
    assert data.flippable and not data.posterior and data.vae == str(vae)
    direct = AutoencoderKL.from_pretrained(vae)
    images = Folder(photos, SIDE)
    everything = np.arange(COUNT)
    assert torch.equal(data.labels(everything), images.labels(everything))
    for view in range(2):
        x = images.grids(everything, np.full(COUNT, bool(view)))
        noise = randomness.normal(0, "posterior", torch.arange(COUNT), (4, 16, 16), step=view)
        with torch.no_grad():
            posterior = direct.encode(x).latent_dist
        expected = SCALE * (posterior.mean + posterior.std * noise)
        found = data.grids(everything, np.full(COUNT, bool(view)))
        assert found.dtype == torch.float32 and (found - expected).abs().max() < 1e-5
    mixed = data.grids(everything, everything % 2 == 1)
    assert torch.equal(mixed[::2], data.grids(everything[::2]))
    assert torch.equal(mixed[1], data.grids(everything[1:2], np.ones(1, bool))[0])


def test_the_posterior_is_drawn_anew_by_the_noise_given(
    moments: Path, encoded: Path, vae: Path, photos: Path
) -> None:
    data = bench.data.load("latents", root=moments)
    data.check()
    assert data.posterior and data.flippable and data.shape == (4, 16, 16)
    assert np.load(moments / "latents-00000.npy").shape == (4, 2, 2, 4, 16, 16)
    with torch.no_grad():
        x = Folder(photos, SIDE).grids(np.arange(1), np.ones(1, bool))
        posterior = AutoencoderKL.from_pretrained(vae).encode(x).latent_dist
    noise = torch.randn(4096, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn = data.grids(np.zeros(4096, int), np.ones(4096, bool), noise)
    # Mean and deviation of 4,096 draws, in units of their standard errors, over 1,024 numbers each.
    mean, std = SCALE * posterior.mean[0], SCALE * posterior.std[0]
    z = (drawn.mean(0) - mean) / std * 64
    assert z.abs().max() < 5 and abs(z.std() - 1) < 0.1
    z = (drawn.std(0) / std - 1) * 8192**0.5
    assert z.abs().max() < 5 and abs(z.std() - 1) < 0.1
    assert (drawn[:2] - (mean + std * noise[:2])).abs().max() < 1e-5
    given = data.moments(np.zeros(4096, int), np.ones(4096, bool))
    assert torch.equal(torch.addcmul(given[:, 0], given[:, 1], noise), drawn)
    # Without noise it is the frozen sample of the seed.
    frozen, mirrored = bench.data.load("latents", root=encoded), np.arange(COUNT) % 3 == 0
    for flip in (None, mirrored):
        expected = frozen.grids(np.arange(COUNT), flip)
        assert (data.grids(np.arange(COUNT), flip) - expected).abs().max() < 1e-6
    assert data.digest != frozen.digest


# ---- normalised by channel ----


@pytest.mark.parametrize("kind", ["sample", "moments"])
def test_normalised_by_the_set_every_channel_has_mean_0_and_deviation_1(
    encoded: Path, moments: Path, kind: str
) -> None:
    root, everything = {"sample": encoded, "moments": moments}[kind], np.arange(COUNT)
    plain = bench.data.load("latents", root=root)
    data = bench.data.load("latents", root=root, normalise="set")
    sides = [data.grids(everything, np.full(COUNT, bool(view))) for view in range(2)]
    both = torch.cat(sides).double()
    slack = 1e-5 if kind == "sample" else 0.05  # of moments, the statistics are those of all samples
    assert both.mean((0, 2, 3)).abs().max() < slack and (both.std((0, 2, 3)) - 1).abs().max() < slack + 1e-3
    raw = torch.cat([plain.grids(everything, np.full(COUNT, bool(view))) for view in range(2)])
    assert (raw.std((0, 2, 3)) - 1).abs().min() > 0.1  # it does something
    # The pictures are those of the latents as they were.
    made = data.to_images(sides[0]).astype(int)
    assert np.abs(made - plain.to_images(raw[:COUNT])).max() <= 1
    assert data.digest != plain.digest


def test_statistics_of_a_file(encoded: Path, vae: Path, tmp_path: Path) -> None:
    stats = {"mean": torch.arange(4.0).view(1, 4, 1, 1), "std": torch.arange(1.0, 5).view(1, 4, 1, 1)}
    torch.save(stats, tmp_path / "latents_stats.pt")
    data = bench.data.load("latents", root=encoded, normalise=str(tmp_path / "latents_stats.pt"))
    plain = bench.data.load("latents", root=encoded).grids(np.arange(3))
    grids = data.grids(np.arange(3))
    assert torch.allclose(grids, (plain / SCALE - stats["mean"]) / stats["std"], atol=1e-6)
    # Samples of weights are decoded by the inverse.
    made = decoder(str(vae), normalise=tmp_path / "latents_stats.pt")(grids)
    assert np.abs(made.astype(int) - data.to_images(grids)).max() <= 1
    (tmp_path / "bad.json").write_text('{"mean": [0, 0], "std": [1, 0]}')
    (tmp_path / "two.json").write_text('{"mean": [0, 0], "std": [1, 1]}')
    (tmp_path / "none.json").write_text('{"mean": [0]}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save(torch.zeros(4), tmp_path / "tensor.pt")
    for normalise, says in (
        ("sets", "no statistics of latents: sets is no file"),
        (str(tmp_path / "bad.json"), "finite and the latter above 0"),
        (str(tmp_path / "two.json"), "the statistics are of 2 channels, the latents have 4"),
        *(
            (str(tmp_path / name), f"{name} holds no mean and std of channels: {error}")
            for name, error in (
                ("none.json", "KeyError"),
                ("deep.json", "RecursionError"),
                ("empty.pt", "EOFError"),
                ("tensor.pt", "TypeError: it is a Tensor"),
            )
        ),
    ):
        with pytest.raises(UsageError, match=re.escape(says)):
            bench.data.load("latents", root=encoded, normalise=normalise)


def test_a_folder_from_before_there_were_statistics_gets_them(
    vae: Path, photos: Path, encoded: Path, tmp_path: Path
) -> None:
    folder = copy(encoded, tmp_path)
    (folder / "statistics.json").unlink()
    with pytest.raises(UsageError, match=r"statistics.json is no file"):
        bench.data.load("latents", root=folder, normalise="set")
    encode(Folder(photos, SIDE), folder, str(vae), posterior="sample", batch_size=3, shard_size=4)
    assert files(folder) == files(encoded)


def test_images_are_those_of_diffusers(encoded: Path, vae: Path) -> None:
    data = bench.data.load("latents", root=encoded)
    grids = data.grids(np.arange(COUNT)).repeat(2, 1, 1, 1)  # more than are decoded at once
    direct = AutoencoderKL.from_pretrained(vae)
    with torch.no_grad():
        expected = (127.5 * direct.decode(grids / SCALE).sample + 128).clamp(0, 255)
    found = data.to_images(grids)
    assert found.dtype == np.uint8 and found.shape == (2 * COUNT, SIDE, SIDE, 3)
    assert np.abs(found - (expected.permute(0, 2, 3, 1).numpy() - 0.5)).max() < 0.51
    with pytest.raises(UsageError, match="decodes latents of 4 channels, not 3"):
        data.to_images(grids[:, :3])


def test_mean_half_precision_and_no_flips(vae: Path, photos: Path, tmp_path: Path) -> None:
    encode(Folder(photos, SIDE), tmp_path / "o", str(vae), flipped=False, posterior="mean", dtype="float16")
    assert np.load(tmp_path / "o" / "latents-00000.npy").dtype == np.float16
    data = bench.data.load("latents", root=tmp_path / "o")
    with torch.no_grad():
        mean = AutoencoderKL.from_pretrained(vae).encode(Folder(photos, SIDE).grids(np.arange(COUNT)))
    assert (data.grids(np.arange(COUNT)) - SCALE * mean.latent_dist.mean).abs().max() < 2e-3
    assert not data.posterior and not data.flippable and "--no-flip" in data.flip_note
    with pytest.raises(UsageError, match="encode with --flip"):
        data.grids(np.arange(2), np.array([False, True]))


def test_a_shift_comes_off_before_scaling_and_goes_on_after(vae: Path, tmp_path: Path) -> None:
    shifted = copy(vae, tmp_path)
    config = json.loads((shifted / "config.json").read_text())
    (shifted / "config.json").write_text(json.dumps({**config, "shift_factor": 0.25}))
    plain, network = autoencoder.load(str(vae)), autoencoder.load(str(shifted))
    z = torch.randn(2, 4, 8, 8)
    assert np.array_equal(network.decode((z - 0.25) * SCALE), plain.decode(z * SCALE))


@torch.no_grad()
def test_latents_of_edm2_are_normalised_by_channel(vae: Path, photos: Path, tmp_path: Path) -> None:
    encode(Folder(photos, SIDE), tmp_path / "o", f"edm2:{vae}", posterior="mean", flipped=False)
    data, direct = bench.data.load("latents", root=tmp_path / "o"), AutoencoderKL.from_pretrained(vae)
    pixels = torch.from_numpy(Folder(photos, SIDE).images(np.arange(COUNT))).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(4, 1, 1) for v in ((5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28)))
    z = direct.encode(pixels).latent_dist.mean
    found = data.grids(np.arange(COUNT))
    assert (found - (z - mean) / std * 0.5).abs().max() < 1e-5
    decoded = direct.decode(found / 0.5 * std + mean).sample.clamp(0, 1) * 255
    images = data.to_images(found)
    assert np.abs(images - (decoded.permute(0, 2, 3, 1).numpy() - 0.5)).max() < 0.51
    encode(Folder(photos, SIDE), tmp_path / "m", f"edm2:{vae}", flipped=False)
    noise = torch.randn(1, 4, 16, 16)
    drawn = bench.data.load("latents", root=tmp_path / "m").grids(np.arange(1), None, noise)
    deviation = direct.encode(pixels[:1]).latent_dist.std
    assert (drawn - found[:1] - deviation / std * 0.5 * noise).abs().max() < 1e-5


@pytest.mark.parametrize(
    "changes",
    [{"scaling_factor": 0.0}, {"scaling_factor": -0.2}, {"scaling_factor": math.nan},
     {"scaling_factor": math.inf}, {"shift_factor": math.nan}],
)  # fmt: skip
def test_a_scale_that_makes_no_images_is_refused(vae: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    other = copy(vae, tmp_path)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UsageError, match=r"the VAE's config\.json has scaling_factor [-\w.]+ and shift"):
        autoencoder.load(str(other))


def test_a_vae_whose_images_are_not_finite_is_refused(vae: Path) -> None:
    network = autoencoder.Autoencoder(AutoencoderKL.from_pretrained(vae))
    network.network.decoder.conv_out.bias.data[0] = math.inf
    with pytest.raises(UsageError, match="the VAE decodes these latents to numbers that are not finite"):
        network.decode(torch.zeros(1, 4, 8, 8))


def test_a_vae_takes_tf32_where_sampling_does_and_never_when_it_encodes(
    vae: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands for a GPU, whose convolutions take TF32 unless it is switched off."""
    seen: list[bool] = []
    decode, encode_ = AutoencoderKL.decode, AutoencoderKL.encode

    def see(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            seen.append(torch.backends.cudnn.allow_tf32)
            return function(*arguments)

        return call

    monkeypatch.setattr(AutoencoderKL, "decode", see(decode))
    monkeypatch.setattr(AutoencoderKL, "encode", see(encode_))
    for module in (autoencoder, sampling_plan):
        monkeypatch.setattr(module, "tf32", lambda enabled, _: precision.tf32(enabled, "cuda:0"))
    autoencoder.load.cache_clear()
    encode(Folder(photos, SIDE), tmp_path / "e", str(vae), batch_size=8)
    assert seen and not any(seen)
    network = registry.create("udit-t", **SMALLEST["udit-t"])
    for enabled in (True, False):
        seen.clear()
        settings = SamplingSettings(sampler="ddim", steps="1", num=2, tf32=enabled)
        plan = Plan(bench.diffusion.objective("ddpm"), settings)
        plan.images(network.deploy(), torch.arange(2), autoencoder.load(str(vae)).decode)
        assert seen == [enabled]


def test_bf16_is_that_of_the_vae_cast(vae: Path, photos: Path, tmp_path: Path) -> None:
    images = Folder(photos, SIDE)
    index = encode(images, tmp_path / "o", str(vae), posterior="mean", precision="bf16")
    assert index.precision == "bf16" and read_index(tmp_path / "o" / INDEX).precision == "bf16"
    with pytest.raises(UsageError, match=r"holds latents of something else \(precision\)"):
        encode(images, tmp_path / "o", str(vae), posterior="mean")
    made = autoencoder.load(str(vae), "bf16")
    direct = AutoencoderKL.from_pretrained(vae).to(torch.bfloat16, memory_format=torch.channels_last)
    everything = np.arange(COUNT)
    with torch.no_grad():
        mean = direct.encode(images.grids(everything).bfloat16()).latent_dist.mean.float() * made.scale
        z = torch.randn(80, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        decoded = direct.decode((z[:64] / made.scale).bfloat16()).sample
    found = bench.data.load("latents", root=tmp_path / "o").grids(everything)
    assert (found - mean).norm() < 1e-2 * mean.norm()
    assert made.at_once == 64
    ours = made.decode(z)
    assert ours.shape[0] == 80 and np.abs(ours[:64].astype(int) - grid.to_images(decoded)).max() <= 3


@pytest.mark.parametrize(("limit", "expected"), [(1024, 768), (300, 150), (-1, 2**16)])
def test_as_many_shards_stay_open_as_there_may_be(
    monkeypatch: pytest.MonkeyPatch, limit: int, expected: int
) -> None:
    """ImageNet has 626, which fit into the usual limit; all of them are read in any order."""
    monkeypatch.setattr(latents.resource, "getrlimit", lambda _: (limit, limit))
    assert latents._most_open() == expected


def test_workers_read_what_the_main_process_reads(encoded: Path) -> None:
    data = bench.data.load("latents", root=encoded)
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again.grids(np.arange(COUNT)), data.grids(np.arange(COUNT)))
    assert len(pickle.dumps(data)) < 2000 + 8 * COUNT


# ---- encoding ----


def test_neither_processes_nor_interruptions_change_a_byte(
    moments: Path, vae: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = Folder(photos, SIDE), tmp_path / "o"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        assert not (out / "index.json").exists()
        monkeypatch.setenv("RANK", rank)
        encode(images, out, str(vae), batch_size=3, shard_size=4)
    assert files(out) == files(moments)


@pytest.mark.slow
def test_a_killed_process_leaves_its_finished_shards(
    moments: Path, vae: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    code = (
        "import os, pathlib, signal, sys\n"
        "from bench.data.encoding import encode\n"
        "from bench.data.folder import Folder\n"
        "def progress(description, done, total):\n"
        "    if done >= 10: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"images = Folder(pathlib.Path(sys.argv[1]), {SIDE})\n"
        "encode(images, *sys.argv[2:], batch_size=3, shard_size=4, progress=progress)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, photos, out, vae], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.name for path in out.glob("latents*")) == ["latents-00000.npy", "latents-00001.npy"]
    with pytest.raises(UsageError, match=r"holds no latents: no index.json of a finished `bench encode`"):
        bench.data.load("latents", root=out)
    before = (out / "latents-00000.npy").stat().st_mtime_ns
    left = out / ".bench-left" / "latents-00002.npy"  # by a process killed while it wrote
    left.parent.mkdir()
    left.write_bytes(b"half")
    calls: list[tuple[str, int, int]] = []
    encode(
        Folder(photos, SIDE), out, str(vae), batch_size=3, shard_size=4,
        progress=lambda *now: calls.append(now),
    )  # fmt: skip
    assert calls == [("encoding", 8, 11), ("encoding", 11, 11)]
    assert files(out) == files(moments) and (out / "latents-00000.npy").stat().st_mtime_ns == before
    encode(Folder(photos, SIDE), out, str(vae), shard_size=4)  # nothing left to do
    assert files(out) == files(moments)


@pytest.mark.parametrize("finished", [True, False])
def test_latents_of_something_else_are_kept(
    encoded: Path, vae: Path, photos: Path, tmp_path: Path, finished: bool
) -> None:
    out = copy(encoded, tmp_path)
    if not finished:
        (out / "index.json").rename(out / "unfinished.json")
    with pytest.raises(UsageError, match=r"something else \(posterior, seed, shard_size\)"):
        encode(Folder(photos, SIDE), out, str(vae), seed=1)
    assert len(files(out)) == 6


def test_images_that_the_autoencoder_cannot_take(vae: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiples of 2, not 33×33"):
        encode(Folder(photos, 33), tmp_path / "o", str(vae))
    with pytest.raises(UsageError, match="a VAE encodes pixels: open the images with grid=pixels"):
        deep = MemoryDataset(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, int), "a", layout="space-to-depth")
        encode(deep, tmp_path / "o", str(vae))
    with pytest.raises(UsageError, match="these are grey"):
        encode(bench.data.load("digits"), tmp_path / "o", str(vae))  # type: ignore[arg-type]
    assert not (tmp_path / "o").exists()
    bad = Path(shutil.copytree(photos, tmp_path / "photos")) / "cat" / "03.png"
    bad.write_bytes(bad.read_bytes()[:400])
    with pytest.raises(UsageError, match=r"cannot read the image .*03.png"):
        encode(Folder(tmp_path / "photos", SIDE), tmp_path / "o", str(vae))


# ---- autoencoders that are not there, or damaged ----


def test_an_autoencoder_that_is_not_to_be_had(tmp_path: Path, vae: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(autoencoder, "_online", lambda: False)
    with pytest.raises(UsageError, match=r"run `hf download nobody/nothing --local-dir DIR`, then give"):
        autoencoder.load("nobody/nothing")
    damaged = copy(vae, tmp_path)
    weights = damaged / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UsageError, match="cannot read an AutoencoderKL from the folder"):
        autoencoder.load(str(damaged))
    weights.unlink()
    (damaged / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UsageError, match="cannot read an AutoencoderKL from the folder"):
        autoencoder.load(str(damaged))


def test_weights_that_are_not_all_there_are_refused(tmp_path: Path, vae: Path) -> None:
    from safetensors.torch import load_file, save_file

    lacking = copy(vae, tmp_path)
    path = lacking / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["decoder.conv_out.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UsageError, match=r"lack decoder.conv_out.weight"):
        autoencoder.load(str(lacking))


# ---- damage ----


def test_damaged_folders_are_named(encoded: Path, tmp_path: Path) -> None:
    def message() -> str:
        with pytest.raises(UsageError) as error:
            bench.data.load("latents", root=out)
        return str(error.value)

    out = copy(encoded, tmp_path)
    shard, index = out / "latents-00001.npy", out / "index.json"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert f"{shard} is damaged or cut short" in message()
    shard.write_bytes(b"")
    assert f"{shard} is damaged or cut short" in message()
    shard.write_bytes((out / "latents-00002.npy").read_bytes())
    assert f"{shard} holds float32 (3, 2, 4, 16, 16), not floating-point numbers (4, 2, 4" in message()
    np.save(shard, np.array([{}], object), allow_pickle=True)
    assert f"{shard} is damaged" in message()
    shard.unlink()
    assert f"{shard} is missing" in message()
    shard.write_bytes(whole)
    np.save(out / "labels.npy", np.arange(COUNT))
    assert "labels.npy: label 3 of image 3 is not one of 0 … 2" in message()
    np.save(out / "labels.npy", np.arange(3))
    assert "labels.npy holds int64 (3,), not integers (11,)" in message()
    lacking = json.loads(index.read_text())
    del lacking["shape"]
    index.write_text(json.dumps(lacking))
    assert f"{index} is damaged: shape Field required" in message()
    for key, value in (("scale", 0.0), ("scale", math.nan), ("scale", math.inf), ("shard_size", 0)):
        index.write_text(json.dumps(json.loads((encoded / "index.json").read_text()) | {key: value}))
        assert f"{index} is damaged: {key} Input should be" in message()
    index.write_text("{")
    assert f"{index} is damaged" in message()
    with pytest.raises(UsageError, match="leave num_classes out"):
        bench.data.load("latents", root=out, num_classes=3)


def test_a_changed_number_changes_the_digest(encoded: Path, tmp_path: Path) -> None:
    out = copy(encoded, tmp_path)
    before = bench.data.load("latents", root=encoded).digest
    assert bench.data.load("latents", root=out).digest == before
    shard = np.load(out / "latents-00001.npy", mmap_mode="r+")
    shard[1, 1, 0, 3, 3] += 1
    shard.flush()
    assert bench.data.load("latents", root=out).digest != before


def test_files_that_are_written_again_are_read_again(encoded: Path, tmp_path: Path) -> None:
    out = copy(encoded, tmp_path)
    before = bench.data.load("latents", root=out).grids(np.arange(COUNT))
    for path in sorted(out.glob("latents-*.npy")):
        values = np.load(path)
        path.unlink()
        np.save(path, values + np.ones(1, values.dtype))
    after = bench.data.load("latents", root=out)
    assert not torch.equal(after.grids(np.arange(COUNT)), before)
    assert torch.equal(
        after.grids(np.arange(COUNT)), bench.data.load("latents", root=out).grids(np.arange(COUNT))
    )


# ---- the layouts of the releases ----


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release of seven images."""
    for word in ("features", "labels"):
        (tmp_path / f"imagenet256_{word}").mkdir()
    for number in range(7):
        feature = np.random.default_rng(number).standard_normal((1, 4, 32, 32), np.float32)
        np.save(tmp_path / "imagenet256_features" / f"{number}.npy", feature)
        np.save(tmp_path / "imagenet256_labels" / f"{number}.npy", np.array([number * 100]))
    return tmp_path


def test_a_release(release: Path) -> None:
    data = bench.data.load("latents", root=release)
    data.check()
    assert (data.shape, len(data), data.num_classes, data.flippable) == ((4, 32, 32), 7, 1000, False)
    assert data.vae == "stabilityai/sd-vae-ft-ema" and data.scale == 0.18215
    for number in (0, 3, 6):
        expected = np.load(release / "imagenet256_features" / f"{number}.npy")[0]
        assert np.array_equal(data[number][0], expected) and data[number][1] == 100 * number
    before = data.digest
    np.save(release / "imagenet256_features" / "6.npy", np.zeros((4, 32, 32), np.float32))
    again = bench.data.load("latents", root=release)
    assert again.digest != before and not again[6][0].any()
    before = again.digest
    np.save(release / "imagenet256_labels" / "6.npy", np.array([5]))
    assert bench.data.load("latents", root=release).digest != before
    assert "before they were encoded" in data.flip_note and not data.posterior
    with pytest.raises(UsageError, match="cannot be mirrored: images were mirrored or not at random before"):
        data.grids(np.arange(1), np.ones(1, bool))


@pytest.fixture
def udit_release(tmp_path: Path) -> Path:
    """A release of U-DiT's program of 23 images: 3 steps of 8 processes, the last file a repetition."""
    for step in range(3):
        for process in range(8):
            for word, value in (
                ("features", np.full((1, 4, 8, 8), step * 8 + process, np.float32)),
                ("labels", np.array([40 * step + process])),
            ):
                folder = tmp_path / f"imagenet256_{word}"
                folder.mkdir(exist_ok=True)
                np.save(folder / f"{step}_{process}.npy", value)
    return tmp_path


def test_a_release_named_by_step_and_process(udit_release: Path) -> None:
    data = bench.data.load("latents", root=udit_release)
    data.check()
    assert (data.shape, len(data), data.flippable, data.posterior) == ((4, 8, 8), 23, False, False)
    grids = data.grids(np.arange(23))
    assert torch.equal(grids, torch.arange(23.0)[:, None, None, None].expand(-1, 4, 8, 8))
    assert data.labels(np.array([0, 7, 8, 22])).tolist() == [0, 7, 40, 86]
    assert torch.equal(pickle.loads(pickle.dumps(data)).grids(np.array([9, 3])), grids[[9, 3]])
    before = data.digest
    features = udit_release / "imagenet256_features"
    np.save(features / "2_7.npy", np.ones((1, 4, 8, 8), np.float32))  # the one that does not count
    assert bench.data.load("latents", root=udit_release).digest == before
    np.save(features / "1_1.npy", np.ones((1, 4, 8, 8), np.float32))
    assert bench.data.load("latents", root=udit_release).digest != before


def test_files_that_are_missing_from_a_release_by_process_are_named(udit_release: Path) -> None:
    def message() -> str:
        with pytest.raises(UsageError) as error:
            bench.data.load("latents", root=udit_release)
        return str(error.value)

    features, labels = udit_release / "imagenet256_features", udit_release / "imagenet256_labels"
    (labels / "2_7.npy").unlink()
    assert f"{labels / '2_7.npy'} is missing" in message()
    (features / "1_3.npy").unlink()
    assert f"{features / '1_3.npy'} is missing" in message()
    np.save(features / "0.npy", np.zeros((1, 4, 8, 8), np.float32))
    assert "mixes files such as" in message()
    for folder in (features, labels):
        for path in folder.iterdir():
            path.unlink()
        np.save(folder / "0_0.npy", np.zeros((1, 4, 8, 8), np.float32))
    assert "holds one file, which counts as padding" in message()


def test_damaged_releases_are_named(release: Path) -> None:
    def message(**options: int) -> str:
        with pytest.raises(UsageError) as error:
            bench.data.load("latents", root=release, **options).check()
        return str(error.value)

    features, labels = release / "imagenet256_features", release / "imagenet256_labels"
    assert f"{labels / '5.npy'} holds label 500, not one of 0 … 499" in message(num_classes=500)
    np.save(labels / "2.npy", np.array([1.5]))
    assert f"{labels / '2.npy'} holds float64 (1,), not one integer" in message()
    np.save(features / "4.npy", np.zeros((1, 4, 16, 16), np.float32))
    assert "4.npy holds float32 (1, 4, 16, 16), not floating-point numbers (1, 4, 32, 32)" in message()
    (features / "4.npy").write_bytes((features / "3.npy").read_bytes()[:-4])
    assert f"{features / '4.npy'} is damaged or cut short" in message()
    (features / "4.npy").unlink()
    assert f"{features / '4.npy'} is missing" in message()
    (features / "5.npy").unlink()
    (features / "6.npy").unlink()
    assert "do not hold files of the same names" in message()
    (release / "more_features").mkdir()
    assert "several *features* folders" in message()
    for path in (features, release / "more_features"):
        shutil.rmtree(path)
    assert "holds no latents" in message()
    features.mkdir()
    assert "has no files 0.npy, 1.npy, … or 0_0.npy" in message()
