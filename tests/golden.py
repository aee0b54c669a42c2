"""What the harness's own code computes, by the names of its versions.

`golden.json` holds a few numbers of each piece of code that has a version in records. `test_versions.py`
fails when they change and no version was raised. After raising one, `python -m tests.golden` writes them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import bench
from bench import data
from bench.diffusion import objective, sampler, samplers
from bench.metrics.evaluation import evaluate
from bench.metrics.held_out import held_out_loss
from bench.metrics.scores import Features
from bench.records.schema import HeldOutSettings, SamplingSettings
from bench.sampling.plan import Plan
from bench.studies.staleness import fingerprints
from bench.training import protocols
from bench.training.trained import open_run
from bench.utils import randomness
from tests.bench import made

FILE = Path(__file__).with_name("golden.json")
SHAPE = (4, 8, 8)
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ddpm": [
        {},
        {"beta_schedule": "cosine", "min_snr_gamma": 5.0},
        {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"},
        {"prediction_type": "v_prediction", "zero_terminal_snr": True},
    ],
    "edm": [{}, {"p_mean": -0.8, "p_std": 1.6, "sigma_data": 1.0}],
    "flow": [{}, {"times": "logit-normal", "cosine_loss": 1.0}],
}
# Of samplers whose steps are no plain number, or few of which would be no loop.
STEPS = {"ancestral": "ddim10", "dopri5": "8"}
# All that decides the weights, each at work.
TRAINING = {"warmup": 2, "learning_rate_schedule": "cosine", "clip": 0.5, "weight_decay": 0.1}


def noise(purpose: str, n: int = 4) -> Tensor:
    """Standard normal grids, the same on every machine."""
    return randomness.normal(0, purpose, torch.arange(n), SHAPE)


def numbers(*tensors: Tensor) -> list[float]:
    """Mean and mean square of each tensor, and its first number."""
    return [
        float(value)
        for tensor in map(Tensor.double, tensors)
        for value in (tensor.mean(), tensor.square().mean(), tensor.flatten()[0])
    ]


def trainer() -> list[float]:
    """Losses of a short training, and the averaged weights that it ends in."""
    table = protocols.load("smoke").model_dump()
    protocol = protocols.parse(table | {"training": table["training"] | TRAINING})
    with tempfile.TemporaryDirectory() as folder:
        bench.train("tiny-unet", folder, protocol=protocol, seed=1)
        log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
        weights = [value.flatten() for value in open_run(folder).network.state_dict().values()]
    whole = torch.cat([value for value in weights if value.is_floating_point()])
    return [*(entry[name] for entry in log for name in ("loss", "gradient_norm")), *numbers(whole)]


def losses(name: str) -> list[float]:
    """Of an objective with each of its options: times, noised data, loss and the noise that it amounts to."""
    found = []
    x0, drawn, output = 0.5 * noise("data"), noise("noise"), noise("output")
    for options in OPTIONS[name]:
        process = objective(name, **options)
        t = process.sample_timesteps(torch.tensor([0.1, 0.4, 0.7, 0.99]))
        x_t = process.add_noise(x0, drawn, t)
        found += numbers(
            t.double(),
            x_t,
            process.losses(output, x0, drawn, x_t, t)["loss"],
            process.to_epsilon(output, x_t, t)[
                :3
            ],  # without signal, where the SNR is zero, nothing amounts to it
            process.snr(t),
        )
    return found


def damped(x: Tensor, t: Tensor) -> Tensor:
    """A denoiser that depends on its input and the time."""
    scale = 1 / (1 + t.double() / t.double().abs().max().clamp(min=1))
    return (x * scale.view(-1, 1, 1, 1)).tanh().to(x.dtype)


def loop(name: str) -> list[float]:
    """Samples of a sampler under each of its objectives."""
    found = []
    for kind in samplers.attribute(name, "objectives"):
        x = sampler(name).sample(
            objective(kind), damped, noise("noise"), lambda step: noise(f"{step}"), STEPS.get(name, "10")
        )
        found += numbers(x)
    return found


class Stub(torch.nn.Module):
    """A network whose output depends on input, time and class."""

    name, input_size, in_channels, out_channels = "stub", 8, 4, 4
    num_classes, null_class, guided_channels = 10, 10, None

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return damped(x, t) * (1 + 0.1 * y.view(-1, 1, 1, 1))


def sampling() -> list[float]:
    """Labels and samples of a plan with guidance."""
    settings = SamplingSettings(sampler="ddim", steps="4", cfg_scale=1.5, num=4)
    plan = Plan(objective("ddpm"), settings, seed=3)
    indices = torch.arange(4)
    return numbers(plan.labels_of(indices, 10).double(), plan.grids(Stub(), indices))


def held_out() -> list[float]:
    """Held-out loss in each band."""
    found = held_out_loss(
        Stub(), objective("ddpm"), data.held_out("digits", split="train"), HeldOutSettings(images=64)
    )
    return [value for band in found.bands for value in (band.share, band.loss)]


def cost() -> list[float]:
    """Counts of networks of several kinds."""
    found = []
    for model in ("udit-t", "dit-s-4", "uvit-s-2", "unet2d", "dico-s"):
        counted = bench.flops(model)
        found += [counted.parameters_deployed, counted.macs, counted.paper_gflops, counted.activation_bytes]
    return list(map(float, found))


def dataset(name: str) -> list[float]:
    """Grids and labels of a dataset with each of its options, of made files where it has any."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        if make := FILES.get(name):
            make(Path(folder), np.random.default_rng(0))
        for options in READ.get(name, [{}]):
            read = data.load(name, **options | ({"root": folder} if make else {}))
            indices = np.arange(min(len(read), 8))
            found += numbers(read.grids(indices), read.labels(indices).double())
    return found


def cifar10_files(folder: Path, rng: np.random.Generator) -> None:
    """Four images in each file."""
    for number in range(1, 6):
        rows = rng.integers(256, size=(4, 1 + 3 * 32 * 32), dtype=np.uint8)
        rows[:, 0] %= 10
        rows.tofile(folder / f"data_batch_{number}.bin")


def fashion_mnist_files(folder: Path, rng: np.random.Generator) -> None:
    """Eight images."""
    for name, values in {
        "train-images-idx3-ubyte": rng.integers(256, size=(8, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": rng.integers(10, size=8, dtype=np.uint8),
    }.items():
        header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
        (folder / name).write_bytes(header + values.tobytes())


def image_folder(folder: Path, rng: np.random.Generator) -> None:
    """Four images in each of two classes, of several shapes, in colour and grey."""
    for number in range(8):
        shape = (20 + number, 40 - 3 * number, 3) if number % 3 else (9, 11)
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8)).save(path)


def latent_files(folder: Path, rng: np.random.Generator) -> None:
    """Eight latents as in the fast-DiT release."""
    features, classes = folder / "imagenet256_features", folder / "imagenet256_labels"
    features.mkdir()
    classes.mkdir()
    for number in range(8):
        np.save(features / f"{number}.npy", rng.standard_normal((1, *SHAPE), np.float32))
        np.save(classes / f"{number}.npy", rng.integers(1000, size=1))


READ: dict[str, list[dict[str, Any]]] = {
    "cifar10": [{}, {"grid": "space-to-depth"}],
    "digits": [{}, {"split": "train"}, {"split": "test"}],
    "folder": [{"size": 8}, {"size": 16}, {"size": 8, "holdout": 0.5, "split": "test"}],
}
FILES = {
    "cifar10": cifar10_files,
    "fashion-mnist": fashion_mnist_files,
    "folder": image_folder,
    "latents": latent_files,
}


def score(name: str) -> list[float]:
    """A score of made features."""
    rng = np.random.default_rng(0)
    sides = []
    for shift, n in ((0.2, 300), (0.0, 400)):
        pool = (rng.standard_normal((n, 16)) + shift).astype(np.float32)
        sides.append(Features(pool=pool, spatial=pool[:, :8] ** 2, logits=pool[:, :10] * 2))
    value = evaluate(*sides, scores=[name]).values[name]
    assert value is not None
    return [value]


def versions() -> dict[str, int | str]:
    """Those of the code that is here, as records get them."""
    request = made.QUALITY_REQUEST
    found = fingerprints(made.COST_REQUEST).versions
    for name in data.names():
        found |= fingerprints(request.model_copy(update={"data": name})).versions
    for name in samplers.names():
        for kind in samplers.attribute(name, "objectives"):
            update = {
                "training": request.training.model_copy(update={"objective": kind}),
                "sampling": request.sampling.model_copy(update={"sampler": name}),
                "held_out": HeldOutSettings(images=64),
            }
            found |= fingerprints(request.model_copy(update=update)).versions
    return found


def measure(name: str) -> list[float]:
    """The numbers of the code that a version belongs to."""
    kind, _, rest = name.partition(" ")
    if rest:
        return {"dataset": dataset, "objective": losses, "sampler": loop, "score": score}[kind](rest)
    return {"trainer": trainer, "sampling": sampling, "held_out": held_out, "cost": cost}[name]()


if __name__ == "__main__":
    table = {name: {"version": version, "numbers": measure(name)} for name, version in versions().items()}
    FILE.write_text(json.dumps(table, indent=1) + "\n")
